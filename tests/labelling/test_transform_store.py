"""Stores whose labels have a transform: labelled, grown, copied, checked, repaired and trained on like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import Result

from fastlabel import LabelStore, SoftLabelLoader, TransformLabels, soft_cross_entropy
from fastlabel.errors import InputError, ManifestMismatchError, StoreError
from fastlabel.inspection import inspect_store
from fastlabel.integrity.repair import repair_store
from fastlabel.integrity.verify import verify_store
from fastlabel.labelling.cache import cache_labels
from fastlabel.labelling.codec_choice import Goal, of_transform
from fastlabel.labels.transform_codec import TransformCodec
from fastlabel.store.copy import copy_store
from tests.stores import Maker, digests, make_teacher, store_maker

OPTIONS = {"k": 1, "transform": 2, "step": 0.5}


@pytest.fixture
def beton(photos: Path) -> Path:
    return photos


@pytest.fixture
def make(beton: Path, tmp_path: Path) -> Maker:
    def labelled(name: str = "labels", **options: object) -> Path:
        return store_maker(beton, tmp_path)(name, **OPTIONS | options)

    return labelled


def test_labels_are_those_of_the_teacher(make: Maker, beton: Path) -> None:
    path = make()
    store = LabelStore.open(path)
    codec = store.manifest.teachers[0].codec
    assert isinstance(codec, TransformCodec) and codec.basis is not None
    found = verify_store(path, beton, [make_teacher()])
    assert not found.findings and found.labels_recomputed
    arrays = zarr.open(str(path), mode="r")
    plane = store.plane(1).labels
    assert isinstance(plane, TransformLabels)
    stored = arrays["0/coefficients"][1, : len(plane)].astype(int)
    signed = np.where(stored % 2, -(stored + 1) // 2, stored // 2)
    np.testing.assert_array_equal(signed, plane.coefficients.numpy())
    np.testing.assert_array_equal(arrays["0/basis"][:], codec.basis.to_numpy())
    report = inspect_store(path)
    assert "coefficients" in report.teachers[0].arrays


def test_the_bytes_are_the_same_whoever_labels_and_however_it_grows(make: Maker, tmp_path: Path) -> None:
    whole = digests(make("whole", views=5))
    assert digests(make("workers", views=5, num_workers=3, decode_batch=2)) == whole
    make("grown", views=3)
    before = LabelStore.open(tmp_path / "grown.zarr").manifest.teachers[0]
    make("grown", views=5)
    store = LabelStore.open(tmp_path / "grown.zarr")
    assert store.manifest.teachers[0] == before  # the basis of its first views
    assert not verify_store(tmp_path / "grown.zarr").findings
    copy_store(store, tmp_path / "copy.zarr")
    assert digests(tmp_path / "copy.zarr") == digests(tmp_path / "grown.zarr")


def test_a_second_teacher_gets_a_basis_of_its_own(make: Maker) -> None:
    path = make()
    first = digests(path / "0" / "basis")
    make(teachers=[make_teacher(), make_teacher(seed=1, name="other")])
    assert digests(path / "0" / "basis") == first != digests(path / "1" / "basis")
    assert not verify_store(path).findings


@pytest.mark.parametrize("options", [{"step": 0.25}, {"transform": 1}, {"transform": None}, {"k": 2}])
def test_a_store_goes_on_only_with_the_same_codec(make: Maker, options: dict[str, object]) -> None:
    before = digests(make())
    with pytest.raises(ManifestMismatchError, match=r"teachers\[0\].codec"):
        make(**options)
    assert digests(make()) == before


def test_a_teacher_with_fewer_dimensions_is_refused_and_nothing_is_written(make: Maker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only 2 dimensions"):
        make("more", transform=3)
    for bad in ({"transform": 0}, {"step": 0.0}, {"step": float("nan")}):
        with pytest.raises(InputError):
            make("more", **bad)
    assert not (tmp_path / "more.zarr").exists()


def test_damage_is_found_and_repaired(make: Maker, beton: Path) -> None:
    path = make()
    whole = digests(path)
    shard = path / "0" / "coefficients" / "c" / "0" / "0" / "0"
    for position in (0, 20, -1):
        content = bytearray(shard.read_bytes())
        content[position] ^= 1
        shard.write_bytes(content)
        assert [finding.file for finding in verify_store(path).errors] == ["0/coefficients/c/0/0/0"] * len(
            verify_store(path).errors
        )
        with pytest.raises(StoreError, match="coefficients"):
            LabelStore.open(path).planes(range(3))
        assert not repair_store(path, beton, [make_teacher()]).left
        assert digests(path) == whole
    shard.unlink()
    assert verify_store(path).errors
    repair_store(path, beton, [make_teacher()])
    assert digests(path) == whole


def test_a_lost_or_changed_basis_is_an_error_that_says_what_to_do(make: Maker, beton: Path, tmp_path: Path) -> None:
    path = make()
    copy_store(path, tmp_path / "copy.zarr")
    basis = path / "0" / "basis" / "c" / "0" / "0"
    content = bytearray(basis.read_bytes())
    content[20] ^= 1
    other = make("other", teachers=[make_teacher(seed=3)]) / "0" / "basis" / "c" / "0" / "0"
    for damaged in (bytes(content), b"", other.read_bytes()):
        basis.write_bytes(damaged)
        assert [finding.file for finding in verify_store(path).errors] == ["0/basis/c/0/0"]
        with pytest.raises(StoreError, match="from a copy"):
            LabelStore.open(path)
        assert repair_store(path, beton, [make_teacher()]).left  # it is not made up
    basis.write_bytes((tmp_path / "copy.zarr" / "0" / "basis" / "c" / "0" / "0").read_bytes())
    assert not verify_store(path).findings


def test_a_run_that_was_cut_short_goes_on_with_its_basis(make: Maker, beton: Path) -> None:
    path = make("cut", views=3)
    whole = digests(path)
    for file in (path / "0" / "units").rglob("0.0/zarr.json"):
        file.unlink()
    make("cut", views=3)
    assert digests(path) == whole


def test_a_loader_serves_them_at_every_temperature(make: Maker, beton: Path) -> None:
    path = make()
    plane = LabelStore.open(path).plane(0)
    loader = SoftLabelLoader(beton, path, batch_size=4, views_per_image=2)
    for batch in loader:
        assert isinstance(batch.labels, TransformLabels)
        logits = torch.randn(len(batch.ids), 3, requires_grad=True)
        for temperature in (1.0, 20.0):
            soft_cross_entropy(logits, batch.labels, temperature).backward()
    assert len(plane) and loader.num_classes == 3


def test_a_goal_chooses_the_codec_once(make_store: Maker, cli: Callable[..., Result], photos: Path) -> None:
    options = {"teachers": [make_teacher()], "views": 3, "k": None, "size": 16, "forward_batch": 4, "device": "cpu"}
    goal = Goal(keep=(0.9, 4.0))
    report = cache_labels(photos, photos.parent / "none.zarr", goal=goal, dry_run=True, **options)  # type: ignore[arg-type]
    assert report.choices and not (photos.parent / "none.zarr").exists()
    best = goal.best(of_transform(list(report.choices)))
    path = make_store("goal", goal=goal, k=None)
    codec = LabelStore.open(path).manifest.teachers[0].codec
    assert isinstance(codec, TransformCodec) and (codec.k, codec.components, codec.step) == (
        best.k,
        best.components,
        best.step,
    )
    before = digests(path)
    make_store("goal", goal=goal, k=None)
    assert digests(path) == before
    for bad in ({"goal": goal, "transform": 2}, {"k": None}, {"goal": Goal(bytes=0.5), "k": None}, {"goal": 3}):
        with pytest.raises(InputError):
            make_store("bad", **bad)
    for option, value in (("--keep-information", "0.9"), ("--keep-information", "1.5@T4"), ("--max-kl", "x@T1")):
        result = cli("cache-labels", photos, "none.zarr", "--teacher", "none", "--views", 1, option, value)
        assert result.exit_code and "expected" in result.stderr


def test_a_store_may_keep_the_mean_logit(make: Maker, beton: Path, tmp_path: Path) -> None:
    plain, path = make("plain"), make("offset", logit_offset=True)
    found = verify_store(path, beton, [make_teacher()])
    assert not found.findings and found.labels_recomputed
    one, other = (LabelStore.open(folder).plane(0).labels for folder in (path, plain))
    assert isinstance(one, TransformLabels) and isinstance(other, TransformLabels)
    assert one.mean_logits is not None and other.mean_logits is None
    assert torch.equal(one.dense(4.0), other.dense(4.0))
    with pytest.raises(ManifestMismatchError, match="logit_offset"):
        make("offset")
    with pytest.raises(ManifestMismatchError, match="logit_offset"):
        make("plain", logit_offset=True)
    with pytest.raises(InputError, match="give --transform"):
        make("topk", transform=None, logit_offset=True)
    assert not (tmp_path / "topk.zarr").exists()
    copy_store(path, tmp_path / "copy.zarr")
    assert digests(tmp_path / "copy.zarr") == digests(path)
