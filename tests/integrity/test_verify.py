"""verify: every damaged byte is noticed and named, and sound stores stay without findings."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, ManifestMismatchError, StoreError
from fastlabel.integrity.tolerance import Rounding, moved_codes, unequal_rows
from fastlabel.integrity.units import check_units
from fastlabel.integrity.verify import verify_store
from fastlabel.labelling.cache import cache_labels
from fastlabel.store.layout import node_text
from fastlabel.store.metadata import read_metadata
from fastlabel.store.shard import DamagedFileError, Shard
from fastlabel.store.store import LabelStore
from fastlabel.store.units import record_node
from fastlabel.teachers.teacher import Teacher
from tests.reliability import damage
from tests.stores import digests, make_teacher


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two teachers, 3 views and 12 photos in units of 2 x 6, beside its dataset; never to be changed."""
    return damage.make_store(tmp_path_factory.mktemp("verify"), teachers=2)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "labels.zarr"))


@pytest.fixture(scope="module")
def beton(made: Path) -> Path:
    return made.parent / "photos.beton"


def experts() -> list[Teacher]:
    return [make_teacher(seed=seed, name=f"expert-{seed}") for seed in range(2)]


def edit(node: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a zarr.json as a program would that keeps its digest right."""
    content = json.loads((node / "zarr.json").read_text())
    change(content)
    (node / "zarr.json").write_text(node_text(content))


def test_a_sound_store_has_no_findings(made: Path, beton: Path) -> None:
    before = digests(made)
    report = verify_store(made, beton, experts(), samples=10, device="cpu")
    assert report.findings == () and report.sound and report.complete
    assert (report.units, report.units_committed, report.units_sound) == (8, 8, 8)
    assert (report.files, report.dataset_checked) == (len(before), True)
    # Batches of 4 and 2 make up units of 6 samples.
    assert 2 * 10 <= report.labels_recomputed <= 2 * 13 and report.labels_rounded == 0
    assert digests(made) == before


def test_stores_that_grew_are_sound(photos: Path, make_store: Callable[..., Path]) -> None:
    path = make_store(subset=[1, 4, 6])
    cache_labels(photos, path, experts()[:1], views=3, k=2, size=16, forward_batch=4)
    assert len(LabelStore.open(path).manifest.samples) == 2
    report = verify_store(path, photos)
    assert report.findings == () and report.units > 1


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "sample"), [("flip", 200), ("truncate", 60), ("delete", 46), ("swap", 46)])
def test_damage_is_noticed_and_no_reader_gets_other_labels(made: Path, tmp_path: Path, fault: str, sample: int) -> None:
    """A sample; tests/reliability/damage.py tries all, and docs/reliability.md has its counts."""
    store = Path(shutil.copytree(made, tmp_path / "labels.zarr"))
    found = damage.run(store, (fault,), sample, seed=len(fault))
    assert damage.totals(found)[fault]["tried"] == sample
    assert damage.passed(found), damage.totals(found)


def test_every_kind_of_file_is_tried(made: Path) -> None:
    kinds = {damage.kind_of(file) for file in damage.contents(made)}
    assert kinds == {*damage.KINDS, "group"}


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("zarr.json", "is damaged: its content does not have the digest"),
        ("1/zarr.json", "is damaged: its content does not have the digest"),
        ("0/tail/zarr.json", "is damaged: its content does not have the digest"),
        ("1/units/0.1/zarr.json", "is damaged: its content does not have the digest"),
        ("samples/0/c/0", "a chunk does not have its crc32c"),
    ],
)
def test_the_finding_names_the_file(store: Path, file: str, problem: str) -> None:
    path, data = store / file, bytearray((store / file).read_bytes())
    # In the middle of a digest where there is one, so that the metadata stays JSON.
    runs = [run.start() for run in re.finditer(rb"[0-9a-f]{64}", data)]
    at = runs[-1] + 30 if runs else len(data) // 2
    data[at] = ord("0") if data[at] != ord("0") else ord("1")
    path.write_bytes(data)
    (finding,) = verify_store(store).errors
    assert (finding.file, finding.problem[: len(problem)]) == (file, problem)


def test_a_damaged_chunk_names_its_unit_and_view(store: Path) -> None:
    shard = store / "1/codes/c/0/1/0"
    data = bytearray(shard.read_bytes())
    data[-60] ^= 1  # in the second of two chunks, before an index of 36 bytes
    shard.write_bytes(data)
    (finding,) = verify_store(store).findings
    assert (finding.teacher, finding.unit, finding.views, finding.rows) == (1, "0.1", (1, 2), (6, 12))
    assert str(finding) == (
        "error: 1/codes/c/0/1/0: a chunk does not have its crc32c [teacher 1, unit 0.1, view 1, row 6 to 11]"
    )


def test_swapped_shards_are_named_in_both_units(store: Path) -> None:
    one, other = (store / f"0/tail/c/0/{column}/0" for column in (0, 1))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    errors = verify_store(store).errors
    assert {error.unit for error in errors} == {"0.0", "0.1"}
    assert all("their record says" in error.problem and "0/tail/c/0/" in error.file for error in errors)


def test_what_is_not_committed_is_a_note(store: Path) -> None:
    (store / "0/units/1.0/zarr.json").unlink()
    report = verify_store(store)
    assert report.sound and not report.complete and report.units_committed == 7
    notes = {note.file: note.problem for note in report.findings}
    assert notes.pop("0/units") == "1 of 4 units are not committed (1.0); `fastlabel cache-labels` goes on"
    assert set(notes) == {f"0/{name}/c/1/0/0" for name in ("classes", "codes", "tail")}
    shutil.rmtree(store / "1/units/1.1")
    for name in ("classes", "codes", "tail"):
        (store / f"1/{name}/c/1/1/0").unlink()
    assert [note.teacher for note in verify_store(store).findings if note.file.endswith("units")] == [0, 1]


@pytest.mark.parametrize(
    ("file", "level", "problem"),
    [
        ("0/classes/c/0/0/0.1f.partial", "note", "was left by a writer that was killed"),
        ("2.partial/zarr.json", "note", "was left by a writer that was killed"),
        ("notes.txt", "note", "is no part of the store"),
        ("0/classes/c/9/0/0", "note", "is no part of the store"),
        ("0/units/9.0/zarr.json", "error", "is the record of a unit that the manifest does not have"),
        ("2/units/0.0/zarr.json", "error", "is the record of a unit that the manifest does not have"),
        ("line\nfeed", "note", "is no part of the store"),
    ],
)
def test_stray_files_are_named(store: Path, file: str, level: str, problem: str) -> None:
    (store / file).parent.mkdir(parents=True, exist_ok=True)
    (store / file).write_bytes(b"{}")
    (finding,) = verify_store(store).findings
    assert (finding.level, finding.file) == (level, file.replace("\n", "\\n"))
    assert finding.problem.startswith(problem)


@pytest.mark.parametrize(
    ("node", "change", "problem"),
    [
        ("", lambda n: n["attributes"].update(colour="red"), "has attributes.colour"),
        ("", lambda n: n["attributes"]["fastlabel"].update(colour="red"), "the store's manifest has colour"),
        ("", lambda n: n["attributes"]["class_names"].pop(), "has 2 class names for 3 classes"),
        ("", lambda n: n["attributes"]["fastlabel"].update(version=2), "the store has format version 2"),
        ("", lambda n: n["attributes"].pop("fastlabel"), "has no attribute 'fastlabel'"),
        ("", lambda n: n["attributes"]["fastlabel"].update(num_teachers=0), "names 0 teachers"),
        ("0/codes", lambda n: n.update(fill_value=1), "has fill_value = 1; this version of fastlabel writes 0"),
        ("0/codes", lambda n: n["codecs"][0]["configuration"].update(index_location="start"), "has codecs[0]"),
        ("1/tail", lambda n: n.update(shape=[2, 12, 2]), "has shape[0] = 2; this version of fastlabel writes 3"),
        ("samples", lambda n: n["attributes"].update(a=1), "has attributes.a"),
        (
            "0",
            lambda n: n["attributes"]["fastlabel"].pop("codec"),
            "is not the manifest of a teacher: KeyError: 'codec'",
        ),
        ("1", lambda n: n["attributes"]["fastlabel"].update(name="other", colour=1), "has colour = 1"),
    ],
)
def test_other_metadata_with_a_right_digest_is_noticed(
    store: Path, node: str, change: Callable[[dict[str, object]], object], problem: str
) -> None:
    edit(store / node, change)
    error = verify_store(store).errors[0]
    assert error.file == f"{node}/zarr.json".lstrip("/")
    assert error.problem.startswith(problem)


def test_longer_arrays_of_a_growth_that_was_cut_short_are_a_note(store: Path) -> None:
    edit(store / "0/codes", lambda node: node.update(shape=[4, 12, 2]))
    (finding,) = verify_store(store).findings
    assert finding.level == "note" and "has the shape [4, 12, 2]" in finding.problem


def test_other_weights_hit_all_units_of_their_teacher(store: Path) -> None:
    edit(store / "1", lambda node: node["attributes"]["fastlabel"].update(sha256="f" * 64))  # type: ignore[index]
    errors = verify_store(store).errors
    assert [error.file for error in errors] == [f"1/units/{i}.{j}/zarr.json" for i in (0, 1) for j in (0, 1)]
    assert all("made under another manifest" in error.problem for error in errors)


def test_one_lost_teacher_does_not_hide_the_other(store: Path) -> None:
    (store / "0/zarr.json").unlink()
    (store / "1/tail/c/0/0/0").unlink()
    errors = {error.file: error for error in verify_store(store).errors}
    assert errors["0/zarr.json"].problem == errors["1/tail/c/0/0/0"].problem == "is missing"
    assert errors["1/tail/c/0/0/0"].teacher == 1


def test_no_folder_is_an_error(tmp_path: Path, made: Path) -> None:
    with pytest.raises(StoreError, match="no label store at"):
        verify_store(tmp_path / "nothing.zarr")
    with pytest.raises(InputError, match="give the dataset file too"):
        verify_store(made, teachers=experts())
    (tmp_path / "empty.zarr").mkdir()
    assert [str(error) for error in verify_store(tmp_path / "empty.zarr").errors] == ["error: zarr.json: is missing"]


# With the dataset


def test_another_dataset(made: Path, tmp_path: Path, beton: Path) -> None:
    data = bytearray(beton.read_bytes())
    at = int(Beton.open(beton).offsets[3]) + 200
    data[at] ^= 1
    other = tmp_path / "other.beton"
    other.write_bytes(data)
    shutil.copy(beton.with_name("photos.beton.json"), tmp_path / "other.beton.json")
    (error,) = verify_store(made, other).errors
    assert error.file == str(other) and "its fingerprint is" in error.problem


def test_other_boxes(store: Path, beton: Path) -> None:
    state = check_units(read_metadata(store))[1]
    assert state.record is not None
    boxes = (state.record.boxes[0], "0" * 64)
    (store / state.record_file).write_text(node_text(record_node(replace(state.record, boxes=boxes))))
    assert verify_store(store).sound
    (error,) = verify_store(store, beton).errors
    assert (error.file, error.unit, error.views) == (state.record_file, "0.1", (1, 2))
    assert "other crop boxes" in error.problem


# With a teacher


def test_a_teacher_that_is_not_the_stores(made: Path, beton: Path) -> None:
    with pytest.raises(ManifestMismatchError, match="is none of the teachers of"):
        verify_store(made, beton, [make_teacher(seed=7, name="stranger")])


def test_the_networks_of_an_ensemble_may_come_in_any_order(make_store: Callable[..., Path], photos: Path) -> None:
    path = make_store(teachers=experts(), ensemble="mean-probs")
    report = verify_store(path, photos, experts()[::-1], samples=5, device="cpu")
    assert report.findings == () and report.labels_recomputed >= 5
    with pytest.raises(ManifestMismatchError, match="is an ensemble of 2 networks; give all of them"):
        verify_store(path, photos, experts()[:1], device="cpu")


def test_labels_of_other_pixels_are_found(made: Path, beton: Path) -> None:
    """A teacher with the store's weights that sees other colours."""
    first = experts()[0]
    first.model.register_forward_pre_hook(lambda module, images: (images[0].float() - 0.2 * 255,))
    errors = verify_store(made, beton, [first], samples=24, device="cpu", tolerate_rounding=True).errors
    assert errors and all("recomputed labels differ, for example" in error.problem for error in errors)
    assert {error.teacher for error in errors} == {0}


def test_labels_that_differ_by_rounding(tmp_path: Path, photos: Path) -> None:
    """Logits that differ in their last bits, as on another device, give other bytes: no error where that is allowed."""
    path = tmp_path / "labels.zarr"
    teacher, noisy = make_teacher(), make_teacher()
    noisy.model.register_forward_hook(lambda module, images, logits: (1 + 1e-5) * logits)
    cache_labels(photos, path, [teacher], views=8, k=2, size=16, device="cpu")
    exact = verify_store(path, photos, [noisy], samples=96, device="cpu")
    assert exact.labels_rounded > 0 and not exact.sound
    assert "differ by rounding" in exact.errors[0].problem
    tolerant = verify_store(path, photos, [noisy], samples=96, device="cpu", tolerate_rounding=True)
    assert tolerant.sound and tolerant.labels_rounded == exact.labels_rounded
    assert [note.level for note in tolerant.findings] == ["note"]


LABEL = {"classes": np.array([5, 2, 9]), "codes": np.array([0, 3, 7]), "tail": np.array([900, 80])}


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"codes": [0, 4, 7]}, True),
        ({"codes": [0, 5, 7]}, False),
        ({"classes": [5, 2, 1]}, True),  # exchanged with one just outside
        ({"classes": [5, 2, 1], "codes": [0, 3, 6]}, True),
        ({"classes": [5, 2, 1], "codes": [0, 3, 5]}, False),
        ({"classes": [2, 5, 9]}, False),  # not nearly equal
        ({"classes": [5, 1, 9]}, False),
        ({"codes": [0, 3, 255]}, False),
        ({"tail": [902, 81]}, True),
        ({"tail": [903, 80]}, False),
        ({"tail": [900, 82]}, False),
        ({"tail": [0, 80]}, False),
        ({"tail": [900, 65535]}, False),
    ],
)
def test_rounding(changes: dict[str, list[int]], allowed: bool) -> None:
    other = LABEL | {name: np.array(values) for name, values in changes.items()}
    rounding = Rounding(codes=1, tail=2, share=0.01)
    assert rounding.allows(LABEL, other) is rounding.allows(other, LABEL) is allowed
    batches = [{name: values[None] for name, values in label.items()} for label in (LABEL, other)]
    assert len(unequal_rows(*batches)) == bool(changes)
    assert (moved_codes(*batches) > 0) == bool(changes.keys() - {"tail"})


def test_nearly_equal_classes_may_change_places() -> None:
    one = LABEL | {"codes": np.array([0, 0, 7])}
    assert Rounding(1, 2, 0.01).allows(one, one | {"classes": np.array([2, 5, 9])})


# Shards


def test_a_shard_is_read_as_zarr_reads_it(made: Path) -> None:
    opened, group = LabelStore.open(made), zarr.open_group(made / "1", mode="r")
    for unit in opened.units():
        for name in ("classes", "codes", "tail"):
            path = made / f"1/{name}/c/{unit.row}/{unit.column}/0"
            dtype = np.dtype(np.uint8 if name == "codes" else "<u2")
            with Shard(path, unit.shape[0], 2, (6, 2), dtype) as shard:
                for view in range(unit.view_start, unit.view_stop):
                    wanted = group[name][view, unit.sample_start : unit.sample_stop]  # type: ignore[index]
                    np.testing.assert_array_equal(shard.view(view - unit.view_start), wanted)
                    found = getattr(opened.unit_labels(unit, range(view, view + 1), 1)[0], name)
                    np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize(
    ("views", "places", "message"),
    [
        (1, 2, "has more than the 1 views"),
        (2, 1, "does not have its crc32c"),
        (2, 9, "fewer than the 148 of its index"),
    ],
)
def test_a_shard_of_another_layout_is_refused(made: Path, views: int, places: int, message: str) -> None:
    with pytest.raises(DamagedFileError, match=message):
        Shard(made / "0/tail/c/0/0/0", views, places, (6, 2), np.dtype("<u2"))


def test_bytes_between_chunks_are_noticed(made: Path, tmp_path: Path) -> None:
    data = (made / "0/tail/c/0/0/0").read_bytes()
    (tmp_path / "shard").write_bytes(b"?" + data)
    with pytest.raises(DamagedFileError, match="do not fill the"):
        Shard(tmp_path / "shard", 2, 2, (6, 2), np.dtype("<u2"))


def test_a_chunk_of_another_shape_is_refused(made: Path) -> None:
    with (
        Shard(made / "0/codes/c/0/0/0", 2, 2, (7, 2), np.dtype("u1")) as shard,
        pytest.raises(DamagedFileError, match="a chunk holds 12 bytes of values, expected 14"),
    ):
        shard.view(0)


# The command


def test_command(store: Path, beton: Path, cli: Callable[..., object]) -> None:
    result = cli("verify", store, beton)
    assert result.exit_code == 0 and "8 of 8 units are sound" in result.stdout  # type: ignore[attr-defined]
    (store / "0/codes/c/0/0/0").unlink()
    result = cli("verify", store, "--json")
    report = json.loads(result.stdout)  # type: ignore[attr-defined]
    assert result.exit_code == 1 and not report["sound"]  # type: ignore[attr-defined]
    assert report["findings"][0]["file"] == "0/codes/c/0/0/0"
    lines = cli("verify", store).stdout.splitlines()  # type: ignore[attr-defined]
    assert lines[0].startswith("error: 0/codes/c/0/0/0: is missing [teacher 0, unit 0.0, view 0 to 1, row 0 to 5]")
    assert len(lines) == 2


def test_command_on_a_store_that_is_not_complete(store: Path, cli: Callable[..., object]) -> None:
    (store / "0/units/0.0/zarr.json").unlink()
    assert cli("verify", store).exit_code == 0  # type: ignore[attr-defined]
    assert cli("verify", store, "--complete").exit_code == 1  # type: ignore[attr-defined]
    result = cli("verify", store / "nothing")
    assert result.exit_code == 1 and result.stderr.startswith("error: no label store at")  # type: ignore[attr-defined]
