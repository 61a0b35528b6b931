"""copy_store: whole units, byte for byte, checked; the copy is a store like any other."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlabel.errors import InputError, MissingLabelsError, StoreError
from fastlabel.store import units as store_units
from fastlabel.store.copy import CopyReport, copy_store
from fastlabel.store.grow import grown_store
from fastlabel.store.store import LabelStore
from tests import plain_reader as plain
from tests.stores import digests
from tests.synthetic import CLASS_NAMES, check, expected, fill, manifest, run, teacher

FEW, MORE = [3, 4, 8, 11, 12, 14], [0, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15]
A, B, C = teacher(0), teacher(1, k=5), teacher(2, k=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five views in groups of two, two segments of samples, three teachers."""
    path = tmp_path_factory.mktemp("source") / "source.zarr"
    run(path, FEW, 2, (A, B))
    run(path, MORE, 5, (A, B, C))
    return path


def of_teacher(path: Path, number: int, views: int) -> dict[str, str]:
    """SHA-256 of the shards and records of a teacher's units that lie below some number of views."""
    found = {}
    for unit in LabelStore.open(path).units():
        if unit.view_stop <= views and store_units.record_path(path, number, unit).exists():
            files = [store_units.shard_path(path, number, name, unit) for name in store_units.ARRAYS]
            for file in (*files, store_units.record_path(path, number, unit)):
                found[str(file.relative_to(path / str(number)))] = file.read_bytes().hex()
    return found


def read_plainly(path: Path) -> None:
    """Every label, by a reader that knows the document alone."""
    plain.check_nodes(path)
    _, shared = plain.open_store(path)
    for number, view in itertools.product(range(shared["num_teachers"]), range(shared["num_views"])):
        plane = plain.Plane(path, number, view)
        info = LabelStore.open(path).manifest.teachers[number]
        for ids, record in plane.units():
            for found, wanted in zip(plane.labels(record), expected(info, view, ids).values(), strict=True):
                np.testing.assert_array_equal(found, wanted)
        plain.check_boxes(path, number, view, [50] * 16, [50] * 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("views", "teachers", "names"),
    [
        (None, None, ["teacher-0", "teacher-1", "teacher-2"]),
        (range(4), None, ["teacher-0", "teacher-1", "teacher-2"]),
        (range(2), [2, 0], ["teacher-2", "teacher-0"]),
        (range(5), [1], ["teacher-1"]),
    ],
)
def test_a_copy_has_the_units_byte_for_byte(
    source: Path, tmp_path: Path, views: range | None, teachers: list[int] | None, names: list[str]
) -> None:
    before = digests(source)
    out = tmp_path / "deep" / "out.zarr"
    report = copy_store(source, out, views, teachers)
    num_views = 5 if views is None else len(views)
    groups = -(-num_views // 2)
    numbers = teachers or range(3)
    assert report == CopyReport(
        str(source),
        str(out),
        11,
        num_views,
        tuple(names),
        groups * 4 * len(names),
        groups * 4 * len(names),
        report.bytes,
    )
    store = LabelStore.open(out)
    assert store.num_views == num_views and [info.name for info in store.manifest.teachers] == names
    assert store.class_names == CLASS_NAMES
    for number, old in enumerate(numbers):
        files = of_teacher(out, number, num_views)
        assert files == of_teacher(source, old, num_views)
        assert len(files) == groups * 4 * 4
    assert report.bytes == sum(len(text) // 2 for n in range(len(names)) for text in of_teacher(out, n, 5).values())
    check(store)
    read_plainly(out)
    assert digests(source) == before
    assert [path.name for path in out.parent.iterdir()] == ["out.zarr"]


def test_a_whole_copy_is_the_store_itself(source: Path, tmp_path: Path) -> None:
    copy_store(source, tmp_path / "out.zarr")
    assert digests(tmp_path / "out.zarr") == digests(source)


@pytest.mark.slow
def test_a_copy_of_whole_groups_grows_beside_the_store(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    copy_store(source, out, range(4))
    before = [of_teacher(out, number, 4) for number in range(3)]
    run(out, MORE, 7, (A, B, C))
    assert [of_teacher(out, number, 4) for number in range(3)] == before
    check(LabelStore.open(out))


def test_what_is_not_committed_is_left_out_and_continued(tmp_path: Path) -> None:
    path, out = tmp_path / "s.zarr", tmp_path / "out.zarr"
    run(path, MORE, 4, (A, B), most=7)
    report = copy_store(path, out)
    assert (report.units, report.units_copied) == (12, 7)
    with pytest.raises(MissingLabelsError, match="not labelled yet"):
        LabelStore.open(out).plane(3, 1)
    run(out, MORE, 4, (A, B))
    run(path, MORE, 4, (A, B))
    assert digests(out) == digests(path)


@pytest.mark.parametrize(
    ("views", "teachers", "message"),
    [
        (range(3), None, r"views 0:3 end inside of a unit of .*, which holds 2 views; take 0:2 or 0:4"),
        (range(1), None, r"views 0:1 end inside of a unit .*; take 0:2$"),
        (range(2, 4), None, r"views 2:4 do not begin at 0; .* take 0:4"),
        (range(0, 4, 2), None, r"do not begin at 0"),
        (range(6), None, r"views 0:6 are not in .*, which has views 0:5"),
        (range(0), None, r"views 0:0 are not in"),
        (None, [3], r"has no teacher 3; it has 3, counted from 0"),
        (None, [-1], r"has no teacher -1"),
        (None, [0, 0], r"each given once"),
        (None, [], r"one or more"),
    ],
)
def test_refusals(source: Path, tmp_path: Path, views: Any, teachers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        copy_store(source, tmp_path / "out.zarr", views, teachers)
    assert not list(tmp_path.iterdir())


def test_a_copy_overwrites_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    out.mkdir()
    with pytest.raises(StoreError, match="exists already"):
        copy_store(source, out)
    with pytest.raises(InputError, match="lies inside of the store"):
        copy_store(source, source / "0" / "copy.zarr")
    with pytest.raises(StoreError, match="no label store at"):
        copy_store(tmp_path / "missing.zarr", tmp_path / "other.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"] and not list(out.iterdir())


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: flip(s / "1/codes/c/1/2/0", 9), r"unit 1\.2 of teacher 1 is damaged or lost: .*1/codes/c/1/2/0 "),
        (lambda s: flip(s / "1/codes/c/1/2/0", -9), r"unit 1\.2 of teacher 1 is damaged or lost: .*1/codes/c/1/2/0 "),
        (lambda s: (s / "1/tail/c/1/2/0").write_bytes(b""), r"unit 1\.2 of teacher 1 is damaged or lost"),
        (lambda s: (s / "1/tail/c/1/2/0").unlink(), r"unit 1\.2 of teacher 1 has lost its tail"),
        (
            lambda s: shutil.copy(s / "1/tail/c/0/2/0", s / "1/tail/c/1/2/0"),
            r"unit 1\.2 of teacher 1 is damaged or lost: the labels of view 2",
        ),
        (lambda s: flip(s / "1/units/1.2/zarr.json", 120), r"1\.2/zarr\.json is damaged"),
    ],
)
def test_a_damaged_unit_is_named(source: Path, tmp_path: Path, damage: Any, message: str) -> None:
    path, out = tmp_path / "s.zarr", tmp_path / "out.zarr"
    shutil.copytree(source, path)
    damage(path)
    with pytest.raises(StoreError, match=message):
        copy_store(path, out)
    assert not list(tmp_path.glob("out*"))
    # What is not copied is not looked at.
    copy_store(path, out, teachers=[0, 2])
    check(LabelStore.open(out))


@pytest.mark.slow
def test_a_copy_while_a_run_labels_and_grows_the_source(tmp_path: Path) -> None:
    path, stop, copies = tmp_path / "s.zarr", threading.Event(), []
    run(path, FEW, 2, (A,), most=1)

    def write() -> None:
        for views, ids, teachers in [(2, FEW, (A,)), (4, MORE, (A,)), (6, MORE, (A, B)), (8, MORE, (A, B))]:
            with grown_store(path, manifest(ids, views, teachers), np.array(ids), None) as growth:
                assert growth.store is not None
                for unit, numbers in growth.todo():
                    for number in numbers:
                        fill(growth.store, unit, number)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    for number in itertools.count():
        done = stop.is_set()
        out = tmp_path / f"{number}.zarr"
        copies.append(copy_store(path, out))
        LabelStore.open(out)
        plain.check_nodes(out)
        if done:
            break
    writer.join()
    assert copies[-1].units_copied == copies[-1].units == 4 * 4 * 2
    for report in copies:
        store = LabelStore.open(report.store)
        committed = [(unit, n) for n in range(len(report.teachers)) for unit in store.units() if store.record(unit, n)]
        assert len(committed) == report.units_copied
        for unit, n in committed:
            for at, view in enumerate(range(unit.view_start, unit.view_stop)):
                wanted = expected(store.manifest.teachers[n], view, store.unit_ids(unit))
                for name, array in store.read_unit(unit, n).items():
                    np.testing.assert_array_equal(array[at], wanted[name])


KILLED = """
import os, signal, sys
from fastlabel.store import units as store_units
from fastlabel.store.copy import copy_store
import shutil
copied, original = [], shutil.copyfile
def copyfile(*args):
    copied.append(args)
    if len(copied) > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
shutil.copyfile = copyfile
copy_store(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_copy_leaves_nothing_that_the_next_does_not_sweep(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    done = subprocess.run([sys.executable, "-c", KILLED, str(source), str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1
    copy_store(source, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


@pytest.mark.fault("11 a store that changed was called damaged")
def test_a_source_that_grows_under_a_copy_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard of a unit is copied before it gains a view, the others after."""
    path, original, copied = tmp_path / "s.zarr", shutil.copyfile, []
    run(path, FEW, 1)
    run(path, FEW, 3)

    def copyfile(*args: Any) -> Any:
        if str(args[0]).endswith("0/codes/c/1/0/0") and not copied:
            copied.append(args)
            run(path, FEW, 4)
        return original(*args)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(StoreError, match="changed while it was copied; copy it again"):
        copy_store(path, tmp_path / "out.zarr")
    assert copied and not (tmp_path / "out.zarr").exists()
    check(LabelStore.open(copy_store(path, tmp_path / "out.zarr").store))


def test_a_full_disk(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, copied = shutil.copyfile, []

    def copyfile(*args: Any) -> Any:
        copied.append(args)
        if len(copied) > 20:
            raise OSError(28, os.strerror(28), str(args[1]))
        return original(*args)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(OSError, match="No space left"):
        copy_store(source, tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())
