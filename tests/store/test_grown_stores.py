"""What cache_labels and SoftLabelLoader make of stores that grow, with images and teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlabel.errors import ManifestMismatchError, MissingLabelsError
from fastlabel.labelling.cache import cache_labels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.store import manifest as manifest_module
from fastlabel.store.copy import copy_store
from fastlabel.store.store import LabelStore
from tests.stores import digests, make_teacher

MakeStore = Callable[..., Path]
FIRST, SECOND = make_teacher(), make_teacher(seed=1, name="other")


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "UNIT_SAMPLES", 5)
    monkeypatch.setattr(manifest_module, "MAX_UNIT_VIEWS", 2)
    monkeypatch.setattr(manifest_module, "DECODE_VIEWS", 2)


def check_labels(beton: Path, store: Path, number: int, views: int) -> None:
    """An epoch of each view visits every sample once, with labels that the teacher gives to these very crops."""
    teacher = (FIRST, SECOND)[number]
    loader = SoftLabelLoader(beton, store, batch_size=5, teacher=number)
    opened = LabelStore.open(store)
    seen = set()
    for epoch in range(views):
        seen.add(loader.view(epoch))
        batches = list(loader)
        assert sorted(torch.cat([batch.ids for batch in batches]).tolist()) == opened.ids.tolist()
        for batch in batches:
            assert batch.labels is not None
            with torch.inference_mode():
                exact = torch.softmax(teacher.model(batch.images), 1)
            assert (batch.labels.dense() - exact).abs().max() < 0.07
    assert seen == set(range(views))


@pytest.mark.slow
def test_more_images_per_class_views_and_a_teacher(photos: Path, make_store: MakeStore) -> None:
    path = make_store(ipc=1, views=2, k=3)
    before = digests(path)
    units = {name: digest for name, digest in before.items() if "/c/" in name or "/units/" in name}
    for options in (
        {"ipc": 2, "views": 2},
        {"ipc": 2, "views": 4},
        {"ipc": 4, "views": 4, "teachers": [SECOND]},
        {"views": 5, "teachers": [SECOND, FIRST]},
    ):
        assert make_store(**{"k": 3} | options) == path
        after = digests(path)
        assert units.items() <= after.items()
        units = {name: digest for name, digest in after.items() if "/c/" in name or "/units/" in name}
    store = LabelStore.open(path)
    assert store.ids.tolist() == list(range(12)) and store.num_views == 5
    assert [teacher.sha256 for teacher in store.manifest.teachers] == [FIRST.sha256, SECOND.sha256]
    assert [segment.count for segment in store.manifest.samples] == [3, 3, 6]
    for number in range(2):
        check_labels(photos, path, number, 5)


@pytest.mark.slow
def test_views_and_teachers_one_after_another_give_the_bytes_of_one_run(make_store: MakeStore) -> None:
    for options in ({"views": 2}, {"views": 4}, {"views": 4, "teachers": [SECOND]}, {"teachers": [SECOND, FIRST]}):
        make_store("steps", **{"views": 4} | options)
    assert digests(make_store("steps", views=4)) == digests(make_store("whole", views=4, teachers=[FIRST, SECOND]))


def test_the_report_is_of_the_runs_own_teachers(photos: Path, make_store: MakeStore) -> None:
    path = make_store(views=2, k=3)
    options = {"views": 4, "k": 2, "size": 16, "forward_batch": 4}
    report = cache_labels(photos, path, [SECOND], **options)  # type: ignore[arg-type]
    assert report.teachers == ("other",) and report.k == 2 and report.views == 4
    assert (report.units, report.units_done, report.crops, report.crops_done) == (6, 6, 48, 48)
    again = cache_labels(photos, path, [SECOND], **options)  # type: ignore[arg-type]
    assert (again.units, again.units_done, again.crops_done) == (6, 0, 0)
    with pytest.raises(MissingLabelsError, match="view 2 of teacher 0 is not labelled yet"):
        LabelStore.open(path).plane(2, 0)


def test_a_dry_run_of_growing_counts_what_is_missing_and_writes_nothing(photos: Path, make_store: MakeStore) -> None:
    path = make_store(ipc=2, views=2)
    before = digests(path)
    options = {"k": 2, "size": 16, "forward_batch": 4, "dry_run": True}
    report = cache_labels(photos, path, [FIRST], views=4, **options)  # type: ignore[arg-type]
    # Segments of 6 and 6 samples in units of 5: four columns, two groups of views.
    assert (report.crops, report.units, report.samples) == (48, 8, 12) and report.seconds > 0
    assert digests(path) == before
    with pytest.raises(ManifestMismatchError, match="this run leaves out 3 of them"):
        cache_labels(photos, path, [FIRST], views=4, ipc=1, **options)  # type: ignore[arg-type]


def test_a_loader_that_is_open_goes_on_with_the_store_that_it_opened(photos: Path, make_store: MakeStore) -> None:
    path = make_store(ipc=2, views=2)
    loader = SoftLabelLoader(photos, path, batch_size=4)
    epochs = [[batch.ids.tolist() for batch in loader]]
    make_store(views=4)
    epochs += [[batch.ids.tolist() for batch in loader] for _ in range(3)]
    assert [sum(map(len, epoch)) for epoch in epochs] == [6] * 4
    assert {loader.view(epoch) for epoch in range(4)} == {0, 1}
    assert len(SoftLabelLoader(photos, path, batch_size=4).ids) == 12


def test_a_copy_is_trained_on_and_grows(photos: Path, make_store: MakeStore, tmp_path: Path) -> None:
    path, out = make_store(ipc=2, views=4, teachers=[SECOND, FIRST], k=3), tmp_path / "out.zarr"
    copy_store(path, out, range(2), [1])
    check_labels(photos, out, 0, 2)
    assert make_store("out", views=4, teachers=[FIRST], k=3) == out
    check_labels(photos, out, 0, 4)
    assert np.array_equal(LabelStore.open(out).ids, np.arange(12))
