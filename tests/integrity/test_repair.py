"""repair: the same bytes as before, nothing else touched, and a clear word where it cannot help."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result

from fastlabel.errors import ManifestMismatchError, StoreError
from fastlabel.integrity.repair import repair_store
from fastlabel.integrity.verify import verify_store
from fastlabel.labelling.cache import cache_labels
from fastlabel.models.weights import CHECKPOINT_FORMAT
from fastlabel.store import units as store_units
from fastlabel.store.layout import node_text
from fastlabel.store.store import LabelStore
from fastlabel.teachers.teacher import Teacher
from tests.conftest import make_photo_folder
from tests.reliability import damage
from tests.stores import digests, make_teacher, write_photos


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two teachers, 3 views and 12 photos in units of 2 x 6, beside its dataset; never to be changed."""
    return damage.make_store(tmp_path_factory.mktemp("repair"), teachers=2)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "labels.zarr"))


@pytest.fixture(scope="module")
def beton(made: Path) -> Path:
    return made.parent / "photos.beton"


def experts() -> list[Teacher]:
    return [make_teacher(seed=seed, name=f"expert-{seed}") for seed in range(2)]


def flip(path: Path, at: int = -50) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_sound_store_stays_as_it_is(store: Path, beton: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    report = repair_store(store, beton, experts())
    assert (report.files, report.units, report.left) == ((), (), ())
    assert times == {path: path.stat().st_mtime_ns for path in store.rglob("*")}


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte of a shard": lambda store: flip(store / "1/codes/c/0/1/0"),
    "a lost shard": lambda store: (store / "0/tail/c/1/0/0").unlink(),
    "a cut shard": lambda store: (store / "0/tail/c/1/0/0").write_bytes(b"short"),
    "a flipped byte of a record": lambda store: flip(store / "0/units/0.1/zarr.json", 300),
    "a lost record": lambda store: (store / "0/units/0.1/zarr.json").unlink(),
    "the record of another unit": lambda store: shutil.copy(
        store / "0/units/0.0/zarr.json", store / "0/units/0.1/zarr.json"
    ),
    "both teachers": lambda store: [flip(store / f"{teacher}/classes/c/0/0/0") for teacher in (0, 1)],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_units_are_labelled_again_to_the_same_bytes(made: Path, store: Path, beton: Path, name: str) -> None:
    DAMAGES[name](store)
    damaged = digests(store)
    hit = {path for path, digest in digests(made).items() if damaged.get(path) != digest}
    times = {path: (store / path).stat().st_mtime_ns for path in damaged}
    assert verify_store(store).findings
    planned = repair_store(store, beton, experts(), dry_run=True)
    assert digests(store) == damaged
    report = repair_store(store, beton, experts())
    assert report.left == () and verify_store(store, beton).findings == ()
    assert digests(store) == digests(made)
    assert [(unit.teacher, unit.unit) for unit in planned.units] == [(unit.teacher, unit.unit) for unit in report.units]
    assert all(unit.same_labels is not False for unit in report.units)
    units = {(unit.teacher, *unit.unit.split(".")) for unit in report.units}
    assert len(units) == len(report.units) == (2 if name == "both teachers" else 1)
    written = {path for path, time in times.items() if (store / path).stat().st_mtime_ns != time} | hit
    assert all(_unit_of(path) in units for path in written), written


def _unit_of(file: str) -> tuple[int, str, str]:
    parts = Path(file).parts
    row, column = parts[2].split(".") if parts[1] == "units" else parts[3:5]
    return int(parts[0]), row, column


REBUILT = [
    "0/zarr.json spelling",
    "zarr.json spelling",
    "0/units/0.0/zarr.json spelling",
    "0/classes/zarr.json",
    "1/tail/zarr.json",
    "1/units/zarr.json",
    "samples/zarr.json",
    "samples/0/zarr.json",
    "samples/0/c/0",
]


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("what", REBUILT)
def test_metadata_is_rebuilt(made: Path, store: Path, beton: Path, what: str, lost: bool) -> None:
    file, _, spelling = what.partition(" ")
    path = store / file
    if spelling:
        path.write_bytes(path.read_bytes().replace(b"  ", b" \t", 1))
    elif lost:
        path.unlink()
    else:
        flip(path)
    assert not verify_store(store).sound
    # No teacher: nothing is labelled.
    report = repair_store(store, beton)
    assert (report.files, report.units, report.left) == ((file,), (), ())
    assert digests(store) == digests(made)


@pytest.mark.parametrize("file", ["zarr.json", "1/zarr.json"])
@pytest.mark.parametrize("lost", [False, True])
def test_manifests_cannot_be_rebuilt(store: Path, beton: Path, file: str, lost: bool) -> None:
    (store / file).unlink() if lost else flip(store / file, 200)
    (store / "0/tail/c/0/0/0").unlink()
    before = digests(store)
    with pytest.raises(StoreError, match=f": {file} .*put that file back from a copy of the store"):
        repair_store(store, beton, experts())
    assert digests(store) == before


@pytest.mark.parametrize(("options", "rebuilt"), [({"ipc": 2}, True), ({"subset": [0, 3, 7]}, False)])
def test_chosen_samples_are_found_again_where_their_rule_is_known(
    make_store: Callable[..., Path], photos: Path, options: dict[str, object], rebuilt: bool
) -> None:
    path = make_store(**options)
    whole = digests(path)
    flip(path / "samples/0/c/0", 5)
    report = repair_store(path, photos, [make_teacher()])
    assert (not report.left, digests(path) == whole) == (rebuilt, rebuilt)
    assert [finding.file for finding in report.left] == ([] if rebuilt else ["samples/0/c/0"])


def test_samples_that_came_later_are_found_again(make_store: Callable[..., Path], photos: Path) -> None:
    path = make_store(ipc=2)
    cache_labels(photos, path, [make_teacher()], views=3, k=2, size=16, forward_batch=4)
    whole = digests(path)
    (path / "samples/1/c/0").unlink()
    (path / "0/codes/c/0/1/0").unlink()
    assert repair_store(path, photos, [make_teacher()]).left == ()
    assert digests(path) == whole


def test_without_the_teacher_its_units_are_left(store: Path, beton: Path) -> None:
    for teacher in (0, 1):
        flip(store / f"{teacher}/classes/c/0/0/0")
    report = repair_store(store, beton, experts()[1:])
    assert [(unit.teacher, unit.unit) for unit in report.units] == [(1, "0.0")]
    assert {(finding.teacher, finding.unit) for finding in report.left} == {(0, "0.0")}
    planned = repair_store(store, beton, dry_run=True)
    assert planned.units == () and {finding.teacher for finding in planned.left} == {0}


def test_another_teacher_is_refused(store: Path, beton: Path) -> None:
    flip(store / "0/classes/c/0/0/0")
    before = digests(store)
    with pytest.raises(ManifestMismatchError, match="is none of the teachers of"):
        repair_store(store, beton, [make_teacher(seed=9)])
    assert digests(store) == before


def test_another_dataset_is_refused(store: Path, tmp_path: Path) -> None:
    other = write_photos(make_photo_folder(tmp_path / "other", per_class=5), tmp_path / "other.beton")
    with pytest.raises(ManifestMismatchError, match=r"other.beton is not the dataset that was labelled"):
        repair_store(store, other, experts())


def test_another_kind_of_device_is_refused(store: Path, beton: Path) -> None:
    """A store that says it was labelled on a GPU; its records are then of another manifest, and thus damaged."""
    node = json.loads((store / "0/zarr.json").read_text())
    node["attributes"]["fastlabel"]["device"] = "cuda"
    (store / "0/zarr.json").write_text(node_text(node))
    before = digests(store)
    with pytest.raises(ManifestMismatchError, match="were labelled on cuda, this run takes cpu"):
        repair_store(store, beton, experts(), device="cpu")
    assert digests(store) == before


def test_a_writer_at_work_is_not_disturbed(store: Path, beton: Path) -> None:
    with store_units.writing(store), pytest.raises(StoreError, match="another process"):
        repair_store(store, beton, experts())


@pytest.mark.parametrize("calls_until_killed", [0, 1, 2])
def test_an_interrupted_repair_goes_on(
    made: Path, store: Path, beton: Path, monkeypatch: pytest.MonkeyPatch, calls_until_killed: int
) -> None:
    """Killed right after the record was removed, before or after the shards were written."""
    flip(store / "0/classes/c/0/0/0")
    flip(store / "0/codes/c/1/1/0")
    written, write_unit = iter(range(calls_until_killed)), store_units.write_unit

    def killed(*args: object) -> None:
        if next(written, None) is None:
            raise KeyboardInterrupt
        write_unit(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(store_units, "write_unit", killed)
        with pytest.raises(KeyboardInterrupt) if calls_until_killed < 2 else monkeypatch.context():
            repair_store(store, beton, experts())
    # What is half done is not committed: no reader can take it for labels.
    if calls_until_killed < 2:
        assert len(list(store.glob("0/units/*/zarr.json"))) == 3
    assert repair_store(store, beton, experts()).left == ()
    assert digests(store) == digests(made)


def test_a_loaded_teacher_labels_as_is_recorded(tmp_path: Path, beton: Path) -> None:
    """Its class map and precision are the store's, not those of whoever loaded the weights again."""
    path = tmp_path / "mapped.zarr"
    cache_labels(beton, path, [replace(make_teacher(), class_map=(2, 1, 0))], views=2, k=2, size=16, device="cpu")
    made = digests(path)
    flip(path / "0/classes/c/0/0/0")
    assert digests(path) != made
    report = repair_store(path, beton, [make_teacher()])
    assert [unit.same_labels for unit in report.units] == [True] and report.left == ()
    assert digests(path) == made


def test_labels_that_come_out_otherwise_are_said(store: Path, beton: Path) -> None:
    """As on a machine whose arithmetic rounds otherwise."""
    flip(store / "0/classes/c/0/0/0")
    other = experts()[0]
    other.model.register_forward_hook(lambda module, images, logits: 1.01 * logits)
    report = repair_store(store, beton, [other])
    assert [unit.same_labels for unit in report.units] == [False] and report.left == ()
    assert LabelStore.open(store).plane(0)


def test_command(store: Path, beton: Path, cli: Callable[..., Result]) -> None:
    flip(store / "0/classes/c/0/0/0")
    (store / "1/tail/zarr.json").unlink()
    dry = cli("repair", store, beton, "--dry-run")
    assert dry.exit_code == 1 and dry.stdout.startswith(
        "would rebuild: 1/tail/zarr.json\nleft: error: 0/classes/c/0/0/0"
    )
    without = cli("repair", store, beton)
    assert without.exit_code == 1 and "rebuilt: 1/tail/zarr.json" in without.stdout
    assert "name it with --teacher" in without.stdout
    model, checkpoint = experts()[0].model, store.with_name("expert.pt")
    content = {"format": CHECKPOINT_FORMAT, "spec": model.spec.to_dict(), "state": model.state_dict(), "epoch": 3}
    torch.save(content, checkpoint)
    dry = cli("repair", store, beton, "--teacher", checkpoint, "--dry-run")
    assert dry.exit_code == 0
    assert dry.stdout.splitlines()[0] == "would label again: unit 0.0 of teacher 0, views 0 to 1, rows 0 to 5"
    done = cli("repair", store, beton, "--teacher", checkpoint, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["units"][0]["same_labels"] is True
    assert cli("verify", store).exit_code == 0


@pytest.mark.fault("11.4 teachers' folders that were swapped")
def test_folders_of_teachers_that_were_swapped(store: Path, beton: Path) -> None:
    """Each label would still meet its digest, and be taken for the other teacher's."""
    for old, new in (("0", "swapped"), ("1", "0"), ("swapped", "1")):
        (store / old).rename(store / new)
    wanted = {
        f"is the folder of teacher {1 - n}; folders of the store's teachers were moved or swapped" for n in (0, 1)
    }
    assert {error.problem for error in verify_store(store).errors if error.file.count("/") == 1} == wanted
    with pytest.raises(StoreError, match="is the folder of teacher 1"):
        LabelStore.open(store)
    with pytest.raises(StoreError, match="put that file back"):
        repair_store(store, beton, experts())


@pytest.mark.fault("11 an old zarr.json beside newer records")
def test_units_that_are_ahead_of_an_old_manifest_are_left(store: Path, beton: Path) -> None:
    """To label the one view that the manifest knows of would lose the other."""
    old = (store / "zarr.json").read_bytes()
    options: dict[str, object] = {"views": 4, "k": 2, "size": 16, "forward_batch": 4}
    cache_labels(beton, store, experts(), **options)  # type: ignore[arg-type]
    grown = digests(store)
    (store / "zarr.json").write_bytes(old)
    before = digests(store)
    report = repair_store(store, beton, experts())
    assert digests(store) == before and report.units == report.files == ()
    assert {error.problem for error in report.left} == {
        "has views up to 3, more than the store: is its zarr.json an older one?"
    }
    cache_labels(beton, store, experts(), **options)  # type: ignore[arg-type]
    assert digests(store) == grown


@pytest.mark.fault("11 one device's damage hid another's")
def test_units_of_another_device_are_left(store: Path, beton: Path) -> None:
    node = json.loads((store / "1/zarr.json").read_text())
    node["attributes"]["fastlabel"]["device"] = "cuda"
    (store / "1/zarr.json").write_text(node_text(node))
    flip(store / "0/classes/c/0/0/0")
    report = repair_store(store, beton, experts(), device="cpu")
    assert [(unit.teacher, unit.unit) for unit in report.units] == [(0, "0.0")]
    assert {error.teacher for error in report.left} == {1}


def test_a_loaded_teacher_with_other_colours_is_refused(store: Path, beton: Path) -> None:
    flip(store / "0/classes/c/0/0/0")
    other = experts()[0]
    other.model.spec = replace(other.model.spec, mean=(0.1, 0.2, 0.3))
    with pytest.raises(ManifestMismatchError, match=r"expert-0 has mean \(0.1, 0.2, 0.3\), .* labelled with"):
        repair_store(store, beton, [other])


@pytest.mark.fault("11.11 a folder in place of a file")
@pytest.mark.parametrize("file", ["0/classes/c/0/0/0", "0/units/0.1/zarr.json", "1/tail/zarr.json", "samples/0/c/0"])
def test_a_folder_in_place_of_a_file(made: Path, store: Path, beton: Path, file: str) -> None:
    """An empty one makes way; what somebody put into one is not ours to remove."""
    (store / file).unlink()
    (store / file).mkdir()
    assert file in {error.file for error in verify_store(store).errors}
    assert repair_store(store, beton, experts()).left == ()
    assert digests(store) == digests(made)
    (store / file).unlink()
    (store / file).mkdir()
    (store / file / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match="is a folder where a file of the store must be; move it away"):
        repair_store(store, beton, experts())
    assert (store / file / "thesis.tex").read_text() == "precious"
