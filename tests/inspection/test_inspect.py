"""inspect_store on real stores, against figures that are computed another way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, ManifestMismatchError, StoreError
from fastlabel.inspection.contact_sheet import contact_sheet
from fastlabel.inspection.inspect import Inspection, inspect_store
from fastlabel.inspection.survey import names_of_classes
from fastlabel.inspection.truncation import truncation_kl
from fastlabel.store.store import LabelStore
from tests.conftest import make_photo_folder
from tests.stores import Maker, make_teacher, write_photos

MANY_VIEWS = 192  # three units of 64 views


def drop_record(store: Path, key: str, teacher: int = 0) -> None:
    """Make a unit one that was never committed."""
    shutil.rmtree(store / str(teacher) / "units" / key)


def test_against_the_planes(make_store: Maker, photos: Path) -> None:
    path = make_store()
    store, data = LabelStore.open(path), Beton.open(photos)
    found = inspect_store(path, photos, per_class=True)
    planes = [store.plane(view).labels for view in range(3)]
    dense = np.concatenate([labels.dense().double().numpy() for labels in planes])
    agrees = np.concatenate([labels.classes.numpy()[:, 0] == data.targets for labels in planes])
    labels = found.teachers[0].labels
    assert labels is not None and labels.labels == 36 and found.teachers[0].sampled_views is None
    assert labels.entropy.mean == pytest.approx(-(dense * np.log(dense)).sum(1).mean(), abs=1e-5)
    assert labels.kept_mass.mean == pytest.approx(np.sort(dense, 1)[:, 1:].sum(1).mean(), abs=1e-5)
    assert labels.truncation_kl is not None
    assert labels.truncation_kl.mean == pytest.approx(np.mean([truncation_kl(part).mean() for part in planes]))
    assert labels.agreement == pytest.approx(agrees.mean())
    assert {row.name for row in labels.classes} == {"bird", "cat", "dog"}
    assert [row.labels for row in labels.classes] == [12, 12, 12]


def test_what_it_belongs_to(make_store: Maker, photos: Path) -> None:
    found = inspect_store(make_store(teachers=[make_teacher(), make_teacher(seed=1, name="other")]))
    assert (found.samples, found.num_views, found.version) == (12, 3, 1)
    assert found.dataset.fingerprint == Beton.open(photos).fingerprint()
    assert found.views.name == "random-resized-crop" and found.class_names == ("bird", "cat", "dog")
    assert [teacher.info.name for teacher in found.teachers] == ["expert", "other"]
    assert [(t.units, t.units_committed, t.crops, t.crops_committed) for t in found.teachers] == [(1, 1, 36, 36)] * 2
    labels = found.teachers[0].labels
    assert labels is not None and labels.agreement is None and labels.by == "top class"


def test_bytes_add_up_to_the_folder(make_store: Maker) -> None:
    path = make_store(teachers=[make_teacher(), make_teacher(seed=1, name="other")])
    (path / "0" / "classes" / "c" / "0" / "0" / "0.abc.partial").write_bytes(b"left by a crash")
    found = inspect_store(path)
    on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    parts = found.metadata_bytes + found.uncommitted_bytes + sum(t.bytes_on_disk for t in found.teachers)
    assert found.total_bytes == parts == on_disk and found.uncommitted_bytes == len(b"left by a crash")
    teacher = found.teachers[1]
    for name, array in teacher.arrays.items():
        assert array.on_disk == (path / "1" / name / "c" / "0" / "0" / "0").stat().st_size
    assert {name: array.raw_per_crop for name, array in teacher.arrays.items()} == {"classes": 4, "codes": 2, "tail": 4}
    assert teacher.bytes_per_crop == pytest.approx(teacher.bytes_on_disk / 36)


def test_a_partly_committed_store(make_store: Maker, photos: Path) -> None:
    path = make_store(views=MANY_VIEWS)
    whole = inspect_store(path, photos)
    drop_record(path, "1.0")
    found = inspect_store(path, photos)
    teacher = found.teachers[0]
    assert (teacher.units, teacher.units_committed, teacher.crops_committed) == (3, 2, 12 * 128)
    assert teacher.labels is not None and teacher.labels.labels == 12 * 128
    shard = path / "0" / "classes" / "c" / "1" / "0" / "0"
    assert found.uncommitted_bytes > shard.stat().st_size
    rest = inspect_store(path, photos, views=[*range(64), *range(128, 192)]).teachers[0].labels
    assert rest == teacher.labels and rest != whole.teachers[0].labels
    for key in ("0.0", "2.0"):
        drop_record(path, key)
    empty = inspect_store(path, photos).teachers[0]
    assert empty.labels is None and empty.bytes_per_crop is None and empty.crops_committed == 0


def test_a_view_of_which_only_some_samples_are_committed(tmp_path: Path) -> None:
    """Samples that came later make a unit column of their own; here nothing but that one is labelled."""
    from fastlabel.labelling.cache import cache_labels

    beton = write_photos(make_photo_folder(tmp_path / "p"), tmp_path / "p.beton")
    path = tmp_path / "l.zarr"
    options = {"teachers": [make_teacher()], "views": 2, "k": 2, "forward_batch": 4}
    cache_labels(beton, path, subset=[0, 3, 5], **options)
    cache_labels(beton, path, subset=[0, 3, 5, 1, 11], **options)
    first, second = (unit for unit in LabelStore.open(path).units())
    drop_record(path, first.key)
    found = inspect_store(path, beton, per_class=True).teachers[0]
    assert found.crops_committed == 4 and found.labels is not None and found.labels.labels == 4
    assert {row.name for row in found.labels.classes} == {"bird", "dog"}  # samples 1 and 11
    assert LabelStore.open(path).unit_ids(second).tolist() == [1, 11]


@pytest.mark.slow
def test_a_sample_of_the_labels(make_store: Maker, photos: Path) -> None:
    path = make_store(views=MANY_VIEWS)
    found = inspect_store(path, photos, samples=50, per_class=True).teachers[0]
    assert found.labels is not None and found.labels.labels == 50 and found.sampled_views is not None
    assert len(found.sampled_views) == 8 and found.crops_committed == 12 * MANY_VIEWS
    again = inspect_store(path, photos, samples=50, per_class=True).teachers[0]
    assert again == found
    other = inspect_store(path, photos, samples=50, seed=1).teachers[0]
    assert other.sampled_views != found.sampled_views
    # No more than 8 views are read, however many labels are asked for.
    most = inspect_store(path, samples=1000).teachers[0].labels
    assert most is not None and most.labels == 12 * 8
    full = inspect_store(path, samples=0).teachers[0]
    assert full.labels is not None and full.labels.labels == 12 * MANY_VIEWS and full.sampled_views is None
    assert found.labels.entropy.mean == pytest.approx(full.labels.entropy.mean, abs=0.2)


def test_only_some_views_and_teachers(make_store: Maker) -> None:
    path = make_store(teachers=[make_teacher(), make_teacher(seed=1, name="other")])
    found = inspect_store(path, teachers=[1], views=[2])
    assert [teacher.number for teacher in found.teachers] == [1]
    labels = found.teachers[0].labels
    assert labels is not None and labels.labels == 12
    whole = inspect_store(path)
    assert (found.metadata_bytes, found.uncommitted_bytes) == (whole.metadata_bytes, 0)


def test_a_teacher_with_classes_of_its_own(make_store: Maker, photos: Path) -> None:
    """Five classes, three of which are those of the dataset: compared through the class map, else not at all."""
    own = replace(make_teacher(num_classes=5), keeps_classes=True)
    unknown = inspect_store(make_store("own", teachers=[own]), photos, per_class=True).teachers[0].labels
    assert unknown is not None and unknown.agreement is None and unknown.confusions == ()
    assert {row.name for row in unknown.classes} == {"bird", "cat", "dog"}
    mapped = make_store("mapped", teachers=[replace(own, class_map=(4, 0, 2))])
    store, targets = LabelStore.open(mapped), Beton.open(photos).targets
    top = np.stack([store.plane(view).labels.classes.numpy()[:, 0] for view in range(3)])
    right = top == np.array([4, 0, 2])[targets]
    found = inspect_store(mapped, photos, per_class=True).teachers[0].labels
    assert found is not None and found.agreement == pytest.approx(right.mean())
    assert sum(confusion.labels for confusion in found.confusions) == (~right).sum()
    assert {c.predicted for c in found.confusions} <= {"bird", "cat", "dog", "1", "3"}
    info = store.manifest.teachers[0]
    assert names_of_classes(info, ("bird", "cat", "dog")) == ("cat", "1", "dog", "3", "bird")
    kinds = {
        (bar.name, bar.kind) for row in contact_sheet(photos, mapped, samples=12) for cell in row for bar in cell.bars
    }
    assert {name for name, kind in kinds if kind == "target"} == {"bird", "cat", "dog"}


def test_to_dict_is_json(make_store: Maker, photos: Path) -> None:
    found = inspect_store(make_store(), photos, per_class=True)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["views"] == found.views.to_dict()
    assert values["teachers"][0]["info"] == json.loads(json.dumps(found.teachers[0].info.to_dict()))
    assert values["teachers"][0]["labels"]["classes"][0]["agreement"] is not None
    assert values["teachers"][0]["bytes_per_crop"] > 0
    assert values.keys() == Inspection.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teachers": [1]}, "no teacher 1; it has 1"),
        ({"views": [0, 7]}, "no view 7; it has 3"),
        ({"views": [-1]}, "no view -1"),
        ({"samples": -1}, "samples -1 must be 0"),
    ],
)
def test_arguments_that_cannot_be(make_store: Maker, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        inspect_store(make_store(), **options)  # type: ignore[arg-type]


def test_another_dataset(make_store: Maker, tmp_path: Path) -> None:
    other = write_photos(make_photo_folder(tmp_path / "other", per_class=2), tmp_path / "other.beton")
    with pytest.raises(ManifestMismatchError, match="another dataset"):
        inspect_store(make_store(), other)


def test_damage_is_an_error(make_store: Maker) -> None:
    path = make_store()
    shard = path / "0" / "codes" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 4
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"unit 0\.0"):
        inspect_store(path)
    shard.unlink()
    with pytest.raises(StoreError, match="has lost its codes"):
        inspect_store(path)
