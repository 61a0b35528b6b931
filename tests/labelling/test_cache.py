"""cache_labels: the same bytes however it runs, and refusals that damage nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, ManifestMismatchError, MissingLabelsError, StoreError, TeacherError
from fastlabel.images.loader import ImageLoader
from fastlabel.labelling.cache import FORWARD_BATCH, _advise, cache_labels
from fastlabel.labels.codec import TopKCodec
from fastlabel.store import manifest as manifest_module
from fastlabel.store import units as store_units
from fastlabel.store.store import LabelStore
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import ViewPolicy
from tests.conftest import make_photo_folder
from tests.stores import digests, make_teacher, write_photos

MakeStore = Callable[..., Path]


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 2 views x 5 samples, so that 12 photos and 3 views make six units, some of them cut off."""
    monkeypatch.setattr(manifest_module, "UNIT_SAMPLES", 5)
    monkeypatch.setattr(manifest_module, "MAX_UNIT_VIEWS", 2)
    monkeypatch.setattr(manifest_module, "DECODE_VIEWS", 2)


def test_labels_are_the_teachers_own(photos: Path, make_store: MakeStore) -> None:
    """Each row equals encoding the logits of that crop, forwarded in the same canonical batches."""
    teacher = make_teacher()
    store = LabelStore.open(make_store(k=3, teachers=[teacher]))
    images = ImageLoader(photos, store.views, batch_size=12)
    for view in range(3):
        (batch,) = images.epoch(np.arange(12), [view])
        crops = batch.images[:, 0].permute(0, 3, 1, 2)
        with torch.inference_mode():
            logits = torch.cat([teacher.model(part) for part in crops.split(4)])
        wanted = TopKCodec(3, 3).encode(logits)
        found = store.plane(view)[np.arange(12)]
        for name in ("classes", "codes", "tail"):
            assert torch.equal(getattr(found, name), getattr(wanted, name)), (view, name)


@pytest.mark.usefixtures("small_units")
def test_bytes_depend_neither_on_workers_nor_on_decode_batches(make_store: MakeStore) -> None:
    one = digests(make_store("one", num_workers=1, decode_batch=1))
    assert one == digests(make_store("two", num_workers=2, decode_batch=7))
    assert one == digests(make_store("default"))
    assert sum("units/" in path for path in one) == 7  # six records, and the group that holds them


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("calls_until_killed", [1, 5, 9])
def test_an_interrupted_run_continues_to_the_same_bytes(
    photos: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, calls_until_killed: int
) -> None:
    whole = digests(make_store("whole"))
    original, calls = ViewPolicy.boxes, iter(range(calls_until_killed))

    def interrupt(self: ViewPolicy, *args: object) -> object:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ViewPolicy, "boxes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_store("continued")
    path = photos.parent / "continued.zarr"
    before = digests(path)
    (path / "0" / "classes" / "zarr.json.123.partial").write_bytes(b"left by a killed writer")
    make_store("continued")
    after = digests(path)
    assert after == whole
    committed = [name for name in before if "/units/" in name]
    assert {name: before[name] for name in committed} == {name: after[name] for name in committed}


def test_a_finished_run_labels_nothing_again(photos: Path, make_store: MakeStore) -> None:
    path = make_store()
    times = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    options = {"teachers": [make_teacher()], "views": 3, "k": 2, "size": 16, "forward_batch": 4}
    report = cache_labels(photos, path, **options)  # type: ignore[arg-type]
    assert (report.crops_done, report.units_done) == (0, 0)
    assert times == {file: file.stat().st_mtime_ns for file in path.rglob("*")}


@pytest.mark.usefixtures("small_units")
def test_several_teachers_see_the_same_crops(make_store: MakeStore) -> None:
    first, second = make_teacher(seed=0), make_teacher(seed=1, name="other")
    both = make_store("both", teachers=[first, second])
    alone = make_store("alone", teachers=[second])
    files_1 = {name[2:]: digest for name, digest in digests(both).items() if name.startswith("1/c")}
    files_0 = {name[2:]: digest for name, digest in digests(alone).items() if name.startswith("0/c")}
    assert files_0 == files_1
    assert LabelStore.open(both).plane(0, teacher=1).labels.k == 2


def test_a_subset_has_the_labels_of_its_samples(make_store: MakeStore) -> None:
    whole, part = (
        LabelStore.open(make_store("whole", k=3)),
        LabelStore.open(make_store("part", k=3, subset=[7, 2, 11, 2])),
    )
    assert part.ids.tolist() == [2, 7, 11]
    for view in range(3):
        wanted, found = whole.plane(view)[[11, 2]], part.plane(view)[[11, 2]]
        # The canonical batches differ, so a code may be off by one.
        assert (wanted.dense() - found.dense()).abs().max() < 0.03
    with pytest.raises(MissingLabelsError, match="sample 3 is not labelled"):
        part.plane(0)[[2, 3]]


def test_images_per_class(make_store: MakeStore, photos: Path) -> None:
    store = LabelStore.open(make_store(ipc=2))
    targets = Beton.open(photos).targets[store.ids]
    assert np.bincount(targets).tolist() == [2, 2, 2]
    assert not np.array_equal(store.ids, LabelStore.open(make_store("other", ipc=2, seed=1)).ids)


def test_dry_run_writes_nothing(photos: Path, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    report = cache_labels(photos, tmp_path / "labels.zarr", [make_teacher()], views=8, k=2, dry_run=True)
    assert report.crops == 96 and report.dry_run and report.seconds > 0 and 0 < report.bytes_on_disk < 96 * 40
    assert {path.name for path in tmp_path.iterdir()} - before <= {"photos.beton.fingerprint.json"}


class Broken(torch.nn.Module):
    """A teacher whose logits are spoilt for the crops that are darkest in one corner of the batch."""

    def __init__(self, teacher: Teacher, value: float, width: int = 3, columns: slice = slice(1)) -> None:
        super().__init__()
        self.inner, self.spec, self.value, self.width = teacher.model, teacher.model.spec, value, width
        self.columns = columns

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images)
        logits[1, self.columns] = self.value
        return logits[:, :1].repeat(1, self.width) if self.width != 3 else logits


@pytest.mark.parametrize(
    ("value", "columns"), [(float("nan"), slice(1)), (float("inf"), slice(1)), (-float("inf"), slice(None))]
)
def test_logits_that_are_no_distribution_name_the_samples(
    tmp_path: Path, value: float, columns: slice, make_store: MakeStore
) -> None:
    good = make_teacher()
    bad = Teacher(Broken(good, value, columns=columns), good.name, good.epoch)  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match=r"logits that are NaN, \+inf or all -inf for 1 crops of view 0: samples 1;"):
        make_store(teachers=[bad])
    with pytest.raises(MissingLabelsError, match="not labelled yet"):
        LabelStore.open(tmp_path / "labels.zarr").plane(0)


def test_a_single_class_of_probability_zero_is_stored(make_store: MakeStore) -> None:
    """By the codec's own rule: -inf is no number out of range, but a class that cannot be."""
    good = make_teacher()
    sure = Teacher(Broken(good, -float("inf")), good.name, good.epoch)  # type: ignore[arg-type]
    stores = [LabelStore.open(make_store(name, k=3, teachers=[one])) for name, one in (("sure", sure), ("good", good))]
    found, wanted = (store.plane(0)[np.arange(12)].dense() for store in stores)
    changed = [1, 5, 9]  # the second of each batch of four
    assert (found[changed, 0] == 0).all() and (found[changed].sum(1) - 1).abs().max() < 1e-5
    torch.testing.assert_close(found[changed, 1:], wanted[changed, 1:] / wanted[changed, 1:].sum(1, keepdim=True))
    others = [row for row in range(12) if row not in changed]
    assert torch.equal(found[others], wanted[others])


def test_logits_of_the_wrong_width(make_store: MakeStore) -> None:
    good = make_teacher()
    wide = Teacher(Broken(good, 0.0, width=4), good.name, good.epoch)  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match=r"gives logits of shape \(4, 4\), expected \(4, 3\)"):
        make_store(teachers=[wide])


def test_a_teacher_of_other_classes(make_store: MakeStore) -> None:
    with pytest.raises(TeacherError, match=r"has 5 classes, .*photos.beton has 3"):
        make_store(teachers=[make_teacher(num_classes=5)])


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"seed": 1}, "views.seed is 0, this run asks for 1"),
        ({"policy": "center"}, "views.name"),
        ({"k": 3}, r"teachers\[0\].codec.k is 2, this run asks for 3"),
        ({"views": 2}, "3 views, this run asks for 2|unit.views"),
        ({"forward_batch": 5}, r"teachers\[0\].forward_batch"),
        ({"ipc": 2}, "12 samples, and this run leaves out 6 of them"),
        ({"policy": ViewPolicy.random_resized_crop(16, scale=(0.5, 1.0))}, r"views.scale_q24\[0\]"),
    ],
)
def test_another_run_is_refused_and_nothing_changes(
    make_store: MakeStore, options: dict[str, object], where: str
) -> None:
    before = digests(make_store())
    with pytest.raises(ManifestMismatchError, match=where):
        make_store(**options)
    assert digests(make_store()) == before


def test_another_dataset_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    path = make_store()
    before = digests(path)
    other = write_photos(make_photo_folder(tmp_path / "other", per_class=5), tmp_path / "other.beton")
    with pytest.raises(ManifestMismatchError, match=r"dataset.num_samples is 12, this run asks for 15"):
        cache_labels(other, path, [make_teacher()], views=3, k=2, size=16, forward_batch=4)
    assert digests(path) == before


def test_a_path_that_is_no_store_is_left_alone(make_store: MakeStore, tmp_path: Path) -> None:
    (tmp_path / "labels.zarr").mkdir()
    (tmp_path / "labels.zarr" / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="is not a fastlabel label store"):
        make_store()
    assert [path.name for path in (tmp_path / "labels.zarr").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 4}, "k=4 is more than num_classes=3"),
        ({"k": 0}, "positive integer"),
        ({"views": 0}, "views 0 must be at least 1"),
        ({"ensemble": "median"}, "unknown ensemble 'median'"),
        ({"teachers": []}, "no teacher"),
        ({"subset": []}, "not empty"),
        ({"subset": [12]}, "subset ids must be 0 to 11, found 12 to 12"),
        ({"ipc": 5}, "class 0 has 4 images"),
        ({"ipc": 1, "subset": [1]}, "not both"),
        ({"policy": "zoom"}, "unknown view policy 'zoom'"),
        ({"forward_batch": 0}, "at least 1"),
    ],
)
def test_bad_arguments_leave_nothing(
    make_store: MakeStore, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises((InputError, StoreError), match=message):
        make_store(**options)
    assert not list(tmp_path.glob("*.zarr*"))


def test_a_broken_image_stops_the_run_and_can_be_mended(photos: Path, tmp_path: Path, make_store: MakeStore) -> None:
    whole = digests(make_store("whole"))
    good = photos.read_bytes()
    beton = Beton.open(photos)
    start, size = int(beton.offsets[7]), int(beton.nbytes[7])
    photos.write_bytes(good[:start] + bytes(size) + good[start + size :])
    with pytest.raises(Exception, match=r"sample 7 of .*photos.beton cannot be decoded"):
        make_store("broken")
    photos.write_bytes(good)
    # The store belongs to the broken file: its fingerprint differs, so it must not be continued.
    with pytest.raises(ManifestMismatchError, match=r"dataset.fingerprint"):
        make_store("broken")
    shutil.rmtree(tmp_path / "broken.zarr")
    assert digests(make_store("broken")) == whole


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("damage", [lambda file: bytes(len(file)), lambda file: file[:-5], lambda file: b""])
def test_shards_that_a_crash_tore_are_written_anew(make_store: MakeStore, damage: Callable[[bytes], bytes]) -> None:
    path = make_store()
    whole = digests(path)
    shutil.rmtree(path / "0" / "units" / "0.1")
    for name in ("classes", "codes", "tail"):
        shard = path / "0" / name / "c" / "0" / "1" / "0"
        shard.write_bytes(damage(shard.read_bytes()))
    make_store()
    assert digests(path) == whole


def test_a_lost_shard_is_an_error_with_a_remedy_that_works(make_store: MakeStore) -> None:
    path = make_store()
    whole = digests(path)
    (path / "0" / "codes" / "c" / "0" / "0" / "0").unlink()
    for use in (make_store, lambda: LabelStore.open(path).plane(0)):
        with pytest.raises(StoreError, match=r"`fastlabel repair .* labels it again"):
            use()
    shutil.rmtree(path / "0" / "units" / "0.0")
    make_store()
    assert digests(path) == whole


@pytest.mark.fault("11 damage was found after the labels that it spoils were made")
@pytest.mark.usefixtures("small_units")
def test_damaged_views_are_found_before_more_are_labelled(make_store: MakeStore) -> None:
    """Three views in units of two: the unit of the last one is to gain a view."""
    shard = make_store() / "0/codes/c/1/0/0"
    shard.write_bytes(shard.read_bytes()[:-1])
    teacher, forwards = make_teacher(), []
    teacher.model.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(StoreError, match=r"unit 1.0 of teacher 0 is damaged or lost"):
        make_store(views=4, teachers=[teacher])
    assert not forwards


@pytest.mark.usefixtures("small_units")
def test_a_crop_that_two_teachers_lack_counts_once(make_store: MakeStore) -> None:
    beton, first = make_store().with_name("photos.beton"), make_teacher()
    second = make_teacher(seed=1, name="second")
    report = cache_labels(beton, make_store(), [first, second], views=4, k=2, size=16, forward_batch=4)
    assert (report.crops, report.crops_done) == (48, 48)


def test_two_writers_are_refused(make_store: MakeStore) -> None:
    path = make_store()
    with store_units.writing(path), pytest.raises(StoreError, match="another process is labelling into"):
        make_store()
    make_store()


def test_the_same_weights_under_another_name_continue(make_store: MakeStore) -> None:
    before = digests(make_store())
    assert digests(make_store(teachers=[make_teacher(name="moved")])) == before


def test_labels_of_many_classes_take_smaller_units() -> None:
    unit = manifest_module.Unit.for_store(8, 1_281_167, TopKCodec(16, 1000).nbytes_per_label)
    assert (unit.views, unit.samples) == (8, 65536)
    many = TopKCodec(21841, 21841).nbytes_per_label
    unit = manifest_module.Unit.for_store(8, 1_281_167, many)
    assert unit.samples * many <= 64 << 20


def test_the_batch_of_a_forward_pass_is_that_of_the_device(make_store: MakeStore) -> None:
    assert FORWARD_BATCH == {"cpu": 64, "cuda": 256}
    (info,) = LabelStore.open(make_store(forward_batch=None, device="cpu")).manifest.teachers
    assert info.forward_batch == 64


def test_full_precision_on_cuda_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    teacher = make_teacher()
    _advise([teacher], torch.device("cpu"))
    _advise([replace(teacher, precision="bf16"), replace(teacher, tf32=True)], torch.device("cuda"))
    assert not caplog.messages
    _advise([teacher], torch.device("cuda"))
    assert ["expert: computes in full float32" in message for message in caplog.messages] == [True]
    assert "--precision bf16 is about three times as fast" in caplog.messages[0]
