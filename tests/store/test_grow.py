"""A store grows in every direction, no unit changes, and no interruption harms it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlabel.errors import InputError, ManifestMismatchError, MissingLabelsError, StoreError
from fastlabel.integrity.verify import verify_store
from fastlabel.labels.codec import TopKCodec
from fastlabel.store import units as store_units
from fastlabel.store.grow import grown_store, plan_growth
from fastlabel.store.manifest import Unit
from fastlabel.store.store import LabelStore
from tests import plain_reader as plain
from tests.stores import digests
from tests.synthetic import check, manifest, run, teacher

FEW, MORE = [3, 4, 8, 11, 12, 14], [0, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15]
A, B = teacher(0), teacher(1, k=5)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an fsync does shows only when the machine loses its power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def units(path: Path) -> dict[str, str]:
    """SHA-256 of every shard and every record."""
    return {name: digest for name, digest in digests(path).items() if "/c/" in name or "/units/" in name}


def check_plainly(path: Path) -> None:
    """A reader that knows the document alone finds every unit where it should be."""
    plain.check_nodes(path)
    store = LabelStore.open(path)
    assert sorted(plain.read_samples(path).tolist()) == store.ids.tolist()
    for number, view in itertools.product(range(len(store.manifest.teachers)), range(store.num_views)):
        plane = plain.Plane(path, number, view)
        for ids, record in plane.units():
            classes, codes, tail = plane.labels(record)
            found = store.plane(view, number)[ids]
            for name, array in (("classes", classes), ("codes", codes), ("tail", tail)):
                np.testing.assert_array_equal(getattr(found, name).numpy(), array)
        plain.check_boxes(path, number, view, [50] * 16, [50] * 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ids", "views", "teachers"),
    [
        (FEW, 5, (A,)),
        (MORE, 4, (A,)),
        (FEW, 4, (A, B)),
        (FEW, 4, (B,)),
        (MORE, 7, (A, B)),
        (list(range(16)), 4, (B, A, teacher(2))),
    ],
    ids=["views", "samples", "both teachers", "another teacher", "all", "to the whole dataset"],
)
def test_growing_leaves_every_unit_as_it_is(tmp_path: Path, ids: list[int], views: int, teachers: Any) -> None:
    path = tmp_path / "s.zarr"
    run(path, FEW, 4)
    before = units(path)
    assert len(before) == 2 * 2 * 4 + 1 + 1  # of 4 units, the ids, and the group of the records
    growth = run(path, ids, views, teachers)
    after = units(path)
    assert {name: after[name] for name in before} == before
    store = LabelStore.open(path)
    assert (store.ids.tolist(), store.num_views) == (ids, views)
    assert [store.manifest.teachers[number] for number in growth.teachers] == list(teachers)
    assert store.manifest.teachers[0] == A
    if (views, ids) == (4, FEW) or A in teachers:
        check(store)
        check_plainly(path)
    assert run(path, ids, views, teachers).manifest == store.manifest
    assert units(path) == after


def test_a_teacher_that_is_not_named_is_not_labelled_on(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    run(path, FEW, 4)
    assert run(path, MORE, 6, (B,)).teachers == (1,)
    store = LabelStore.open(path)
    check(store, [1])
    with pytest.raises(MissingLabelsError, match="view 5 of teacher 0 is not labelled yet"):
        store.plane(5, 0)
    assert run(path, MORE, 6, (B, A)).teachers == (1, 0)
    check(LabelStore.open(path))


def test_grown_by_views_and_teachers_it_has_the_bytes_of_one_made_at_once(tmp_path: Path) -> None:
    """All files: the units have the places and the cut that they have in a store that was asked for at once."""
    steps, whole = tmp_path / "steps.zarr", tmp_path / "whole.zarr"
    for views, teachers in [(2, (A,)), (4, (A,)), (4, (B,)), (8, (B,)), (9, (A, B))]:
        run(steps, FEW, views, teachers)
    run(whole, FEW, 9, (A, B))
    assert digests(steps) == digests(whole)


def test_grown_by_samples_only_the_first_segment_is_that_of_a_store_made_at_once(tmp_path: Path) -> None:
    """Another segment has columns of its own; which samples share a unit follows from the order of growing."""
    steps, first, second = (tmp_path / f"{name}.zarr" for name in ("steps", "first", "second"))
    run(steps, FEW, 3)
    run(steps, MORE, 3)
    run(first, FEW, 3)
    run(second, sorted(set(MORE) - set(FEW)), 3)
    found = {name: digest for name, digest in units(steps).items() if "/c/" in name and not name.startswith("samples")}
    at_first = {name: digest for name, digest in units(first).items() if name in found}
    assert at_first.items() <= found.items()
    for name in ("classes", "codes", "tail"):
        for row, column in itertools.product(range(2), range(2)):
            moved = steps / "0" / name / "c" / str(row) / str(column + 2) / "0"
            assert moved.read_bytes() == (second / "0" / name / "c" / str(row) / str(column) / "0").read_bytes()


def test_a_unit_that_is_labelled_again_after_growing_has_its_old_bytes(tmp_path: Path) -> None:
    """Though it no longer lies at the end of the arrays."""
    path = tmp_path / "s.zarr"
    run(path, FEW, 4)
    before = units(path)
    run(path, MORE, 6)
    for record in ("0.0", "0.1", "1.1"):
        shutil.rmtree(path / "0" / "units" / record)
    run(path, MORE, 6)
    assert before.items() <= units(path).items()
    check(LabelStore.open(path))


def test_units_keep_their_size(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    run(path, FEW, 4)
    run(path, MORE, 8, unit=Unit(8, 11))
    assert LabelStore.open(path).manifest.unit == Unit(2, 4)


@pytest.mark.slow
def test_an_unfinished_store_grows_and_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    run(path, FEW, 4, most=1)
    run(path, MORE, 6, (A, B), most=3)
    run(path, MORE, 6, (A, B))
    check(LabelStore.open(path))
    check_plainly(path)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sets(st.integers(0, 15), max_size=5),
            st.sets(st.integers(0, 1), min_size=1),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_growth(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, set[int], set[int], int]]) -> None:
    path = tmp_path_factory.mktemp("any") / "s.zarr"
    views, ids, before = 0, {5}, {}
    for groups, new, numbers, most in steps:
        views, ids = max(2, views + 2 * groups), ids | new
        run(path, sorted(ids), views, [teacher(number, k=number + 2) for number in sorted(numbers)], most)
        after = units(path)
        assert before.items() <= after.items()
        before = after
    everyone = LabelStore.open(path).manifest.teachers
    run(path, sorted(ids), views, everyone)
    store = LabelStore.open(path)
    assert store.ids.tolist() == sorted(ids) and store.num_views == views
    check(store)
    check_plainly(path)


# View groups that are not full


@pytest.mark.fault("11.7 groups grow")
def test_a_view_group_that_is_not_full_takes_more_views(tmp_path: Path) -> None:
    """Again and again; each step labels the new views alone, and leaves the bytes of a store made at once."""
    path, whole, unit = tmp_path / "s.zarr", tmp_path / "whole.zarr", Unit(4, 4)
    run(path, FEW, 3, unit=unit)
    for views, parts in [(5, {(3, 4), (4, 5)}), (6, {(5, 6)}), (9, {(6, 8), (8, 9)})]:
        plan = plan_growth(path, manifest(FEW, views, unit=unit), np.array(FEW))
        assert {(part.view_start, part.view_stop) for part, _ in plan.todo()} >= parts - {(8, 9)}
        run(path, FEW, views, unit=unit)
        check(LabelStore.open(path))
        check_plainly(path)
        assert verify_store(path, num_workers=1).complete
    run(whole, FEW, 9, unit=unit)
    assert digests(path) == digests(whole)


@pytest.mark.fault("11.7 groups grow")
def test_a_group_that_has_grown_is_not_committed_for_its_new_views(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    run(path, FEW, 3)
    small = LabelStore.open(path)
    growth = run(path, FEW, 4, (A, B), most=1)
    store = LabelStore.open(path)
    assert growth.teachers == (0, 1)
    missing = [(number, view) for number in range(2) for view in range(4) if not is_labelled(store, view, number)]
    assert missing == [(0, 3), *((1, view) for view in range(4))]
    report = verify_store(path, num_workers=1)
    assert report.sound and not report.complete
    run(path, FEW, 4, (A, B))
    check(LabelStore.open(path))
    check(small)  # opened before, it reads what it knew
    assert verify_store(path, num_workers=1).complete


def is_labelled(store: LabelStore, view: int, number: int) -> bool:
    try:
        return len(store.plane(view, number)) > 0
    except MissingLabelsError:
        return False


@pytest.mark.fault("11.7 groups grow")
def test_a_group_that_takes_views_is_killed_at_every_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it held is read at every moment, and the run that goes on ends in the same bytes."""
    small, finished = tmp_path / "small.zarr", tmp_path / "finished.zarr"
    run(small, FEW[:3], 1)
    shutil.copytree(small, finished)
    run(finished, FEW[:3], 2)
    for operations in itertools.count():
        path = tmp_path / f"{operations}.zarr"
        shutil.copytree(small, path)
        try:
            with killed_after(monkeypatch, operations):
                run(path, FEW[:3], 2)
            break
        except Killed:
            pass
        store = LabelStore.open(path)
        assert store.plane(0)[FEW[:3]].classes.tolist() == LabelStore.open(small).plane(0)[FEW[:3]].classes.tolist()
        assert verify_store(path, num_workers=1).sound
        run(path, FEW[:3], 2)
        assert digests(path) == digests(finished), operations
        shutil.rmtree(path)
    assert operations > 10


# Refusals


@pytest.mark.parametrize(
    ("have", "want", "error", "message"),
    [
        ((FEW, 4), (FEW, 3), ManifestMismatchError, "a store of 4 views, this run asks for 3; ask for 4 or more"),
        (
            (MORE, 2),
            (FEW, 2),
            ManifestMismatchError,
            r"labels 11 samples, .* leaves out 5 of them, for example sample 0;",
        ),
        (
            (FEW, 2),
            (FEW, 2, (teacher(0, k=4),)),
            ManifestMismatchError,
            r"teachers\[0\].codec.k is 3, this run asks for 4",
        ),
        ((FEW, 2), (FEW, 2, (B, B)), InputError, "teacher-1 is given twice"),
        ((FEW, 2), (FEW, 2, (B, replace(B, name="else"))), InputError, "else is given twice, or under two names"),
    ],
)
def test_a_store_that_cannot_grow_so(
    tmp_path: Path, have: Any, want: Any, error: type[Exception], message: str
) -> None:
    path = tmp_path / "s.zarr"
    run(path, *have)
    before = digests(path)
    with pytest.raises(error, match=message):
        run(path, *want)
    assert digests(path) == before


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    run(tmp_path / "s.zarr", FEW, 2)
    with pytest.raises(ManifestMismatchError, match=r"views.seed is 0, this run asks for 1"):
        run(tmp_path / "s.zarr", MORE, 4, seed=1)


def test_the_same_weights_under_another_name_are_the_same_teacher(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    run(path, FEW, 2)
    before = digests(path)
    run(path, FEW, 2, (replace(A, name="moved"),))
    assert digests(path) == before


def test_a_teacher_whose_labels_are_too_large_for_the_units(tmp_path: Path) -> None:
    """Blosc takes 2 GiB at once."""
    path = tmp_path / "s.zarr"
    wide = replace(teacher(1), codec=TopKCodec(21841, 21841), keeps_classes=True)
    few = manifest(FEW, 2, unit=Unit(2, 65536))
    with grown_store(path, few, np.array(FEW), None), pytest.raises(StoreError, match="keep fewer classes"):
        plan_growth(path, replace(few, teachers=(wide,)), np.array(FEW))


def test_labels_that_an_older_manifest_does_not_name_are_kept(tmp_path: Path) -> None:
    """Someone put an old zarr.json back, and asks for a teacher where there is one."""
    path = tmp_path / "s.zarr"
    run(path, FEW, 2)
    old = (path / "zarr.json").read_bytes()
    run(path, FEW, 2, (B,))
    new = (path / "zarr.json").read_bytes()
    (path / "zarr.json").write_bytes(old)
    before = digests(path)
    with pytest.raises(StoreError, match=r"its zarr\.json is older than they are"):
        run(path, FEW, 2, (teacher(2),))
    assert digests(path) == before
    (path / "zarr.json").write_bytes(new)
    run(path, FEW, 2, (teacher(2),))
    check(LabelStore.open(path))


# Interruption


class Killed(BaseException):
    """The process is gone: nothing that follows in it happens either."""


@contextmanager
def each_operation(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]) -> Iterator[None]:
    """Call ``before`` ahead of every operation that changes what is on disk, or makes it durable."""
    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir"):
            original = getattr(os, name)

            def wrapped(*args: Any, original: Any = original, **options: Any) -> Any:
                before()
                return original(*args, **options)

            patch.setattr(os, name, wrapped)
        yield


@contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, operations: int) -> Iterator[None]:
    done = itertools.count()

    def die() -> None:
        if next(done) >= operations:
            raise Killed

    with each_operation(monkeypatch, die):
        yield


GROWN = (MORE, 4, (A, B))


@pytest.fixture(scope="module")
def small_and_grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    small, grown = folder / "small.zarr", folder / "grown.zarr"
    run(small, FEW, 2)
    shutil.copytree(small, grown)
    run(grown, *GROWN)
    return small, grown


@pytest.mark.slow
def test_growth_killed_at_every_operation(
    small_and_grown: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = small_and_grown
    shutil.copytree(small, tmp_path / "grown.zarr")
    run(tmp_path / "grown.zarr", *GROWN, most=0)
    old, finished, extents = units(small), digests(tmp_path / "grown.zarr"), set()
    for operations in itertools.count():
        path = tmp_path / f"{operations}.zarr"
        shutil.copytree(small, path)
        try:
            with killed_after(monkeypatch, operations):
                run(path, *GROWN, most=0)
            break
        except Killed:
            pass
        store = LabelStore.open(path)
        extents.add((store.num_views, len(store.ids), len(store.manifest.teachers)))
        assert old.items() <= units(path).items()
        if store.num_views == 2:
            check(store)
        # Asked for something else, or for the same again, it grows.
        if store.num_views == 2 and operations % 10 == 0:
            check_plainly(path)
            other = path.with_suffix(".other")
            shutil.copytree(path, other)
            run(other, sorted({*FEW, 1, 2}), 2, (A, teacher(7)))
            check(LabelStore.open(other))
        run(path, *GROWN, most=0)
        assert digests(path) == finished, operations
        shutil.rmtree(path)
    assert operations > 30
    assert extents == {(2, 6, 1), (4, 11, 2)}


@pytest.mark.slow
def test_a_run_killed_between_growing_and_labelling_everything(
    small_and_grown: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again and again, each time a little later, it ends with the same bytes."""
    small, grown = small_and_grown
    path, kills = tmp_path / "s.zarr", 0
    shutil.copytree(small, path)
    while True:
        try:
            with killed_after(monkeypatch, 40 + 7 * kills):
                run(path, *GROWN)
            break
        except Killed:
            kills += 1
            assert units(small).items() <= units(path).items()
    assert kills > 3
    assert digests(path) == digests(grown)


@pytest.mark.slow
def test_readers_are_undisturbed_at_every_operation(
    small_and_grown: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = small_and_grown
    path = tmp_path / "s.zarr"
    shutil.copytree(small, path)
    early, seen = LabelStore.open(path), []

    def read() -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # zarr's own, which cannot serve a reader now
        check(early)
        late = LabelStore.open(path)
        seen.append((late.num_views, len(late.ids), len(late.manifest.teachers)))
        for view in range(2):
            late.plane(view) if len(late.ids) == 6 else late.record(next(late.units()))

    with each_operation(monkeypatch, read):
        run(path, *GROWN, most=0)
    run(path, *GROWN)
    check(early)
    assert early.num_views == 2 and early.ids.tolist() == FEW
    assert len(seen) > 20 and [key for key, _ in itertools.groupby(seen)] == [(2, 6, 1), (4, 11, 2)]


@pytest.mark.slow
def test_making_a_store_killed_at_every_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, gone = tmp_path / "s.zarr", dead_pid()
    for operations in itertools.count():
        monkeypatch.setattr(os, "getpid", lambda: gone)
        try:
            with killed_after(monkeypatch, operations):
                run(path, FEW, 4, most=0)
        except Killed:
            if path.exists():
                check(LabelStore.open(path), [])
                shutil.rmtree(path)
            continue
        finally:
            monkeypatch.undo()
        break
    assert operations > 20
    assert [left.name for left in tmp_path.iterdir()] == ["s.zarr"]


# Processes


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


HOLD = """
import sys, time
from pathlib import Path
from fastlabel.store import units as store_units
with store_units.writing(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    run(path, FEW, 2)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            before = digests(path)
            with pytest.raises(StoreError, match="another process is labelling into"):
                run(path, MORE, 4)
            assert digests(path) == before
            check(LabelStore.open(path))  # readers take no lock
        finally:
            holder.send_signal(signal.SIGKILL)
    assert holder.returncode == -signal.SIGKILL
    run(path, MORE, 4)
    check(LabelStore.open(path))


DIE = """
import itertools, os, signal, sys
from pathlib import Path
from tests.synthetic import run, teacher
left = itertools.count(int(sys.argv[2]), -1)
def wrap(original):
    def wrapped(*args, **options):
        if next(left) <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)
    return wrapped
for name in ("replace", "rename", "fsync"):
    setattr(os, name, wrap(getattr(os, name)))
run(Path(sys.argv[1]), [0, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15], 4, (teacher(0), teacher(1, k=5)))
"""


@pytest.mark.slow
def test_real_kills(small_and_grown: tuple[Path, Path], tmp_path: Path) -> None:
    small, grown = small_and_grown
    path = tmp_path / "s.zarr"
    shutil.copytree(small, path)
    for operations in (30, 90):
        done = subprocess.run([sys.executable, "-c", DIE, str(path), str(operations)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert units(small).items() <= units(path).items()
        LabelStore.open(path)
    run(path, *GROWN)
    assert digests(path) == digests(grown)


def test_what_a_dead_process_left_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "s[1].zarr"
    others = [f"{path.name}.thesis.partial", "t.zarr.partial"]
    for name in (*others, f"{path.name}.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").write_text("{}")
    with (
        store_units.writing(tmp_path / f"{path.name}.partial"),
        pytest.raises(StoreError, match="another process is writ"),
    ):
        run(path, FEW, 2)
    run(path, FEW, 2)
    assert sorted(left.name for left in tmp_path.iterdir()) == sorted([path.name, *others])
    assert not (path / "left").exists()


def test_partial_files_and_folders_inside_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    run(path, FEW, 2)
    before = digests(path)
    (path / "1.partial" / "units").mkdir(parents=True)
    (path / "0" / "codes" / "c" / "0" / "0" / "0.12.partial").write_bytes(b"cut sho")
    run(path, FEW, 2)
    assert digests(path) == before and not (path / "1.partial").exists()
