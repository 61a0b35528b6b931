"""Files and folders that are there whole or not at all. Kills are in test_grow and kill_runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastlabel.errors import DatasetError, StoreError
from fastlabel.store import units as store_units
from fastlabel.system.atomic_files import fsync, new_file, new_folder, write_file, write_if_possible

Make = Callable[..., AbstractContextManager[Any]]


def fill(made: Any, text: str = "1") -> None:
    """Put a text into the file or the folder that is being made."""
    if isinstance(made, Path):
        (made / "a").write_text(text)
    else:
        made.write(text.encode())


def content(path: Path) -> str:
    return (path / "a" if path.is_dir() else path).read_text()


both = pytest.mark.parametrize("make", [new_file, new_folder])


@both
def test_it_appears_when_it_is_whole(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "new" / "it"
    with make(path) as made:
        fill(made)
        assert [child.name for child in path.parent.iterdir()] == ["it.partial"]
    assert [child.name for child in path.parent.iterdir()] == ["it"] and content(path) == "1"


@both
def test_what_fails_leaves_nothing(tmp_path: Path, make: Make) -> None:
    with pytest.raises(KeyboardInterrupt), make(tmp_path / "it") as made:
        fill(made)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@both
@pytest.mark.parametrize("what", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, make: Make, what: str) -> None:
    path = tmp_path / "it"
    there = {"file": path.touch, "folder": path.mkdir, "dangling link": lambda: path.symlink_to("nowhere")}[what]
    there()
    with pytest.raises(StoreError, match="exists already; choose another path"), make(path):
        pytest.fail("there is something at that path")
    with pytest.raises(DatasetError, match="exists already"), make(path, error=DatasetError):
        pytest.fail("there is something at that path")
    assert [child.name for child in tmp_path.iterdir()] == ["it"]


@both
def test_it_replaces_what_it_may(tmp_path: Path, make: Make) -> None:
    for text in ("1", "2"):
        with make(tmp_path / "it", replace=True) as made:
            fill(made, text)
        assert content(tmp_path / "it") == text
    assert [child.name for child in tmp_path.iterdir()] == ["it"]


@both
def test_of_two_that_make_the_same_the_second_is_refused(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "it"
    with make(path) as made:
        for error in (StoreError, DatasetError):
            with pytest.raises(error, match="another process is writing"), make(path, error=error):
                pytest.fail("it is held")
        fill(made)
    assert content(path) == "1" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_somebody_else_made_meanwhile_stays_theirs(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(StoreError, match="was made by another process meanwhile"), new_folder(path) as folder:
        (folder / "mine").touch()
        path.mkdir()
        (path / "theirs").touch()
    assert [child.name for child in path.iterdir()] == ["theirs"]
    assert [child.name for child in tmp_path.iterdir()] == ["folder"]


@both
def test_what_a_killed_process_left_is_begun_anew(tmp_path: Path, make: Make) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom fastlabel.system.atomic_files import *\n"
        f"with {make.__name__}(Path(sys.argv[1])) as made:\n"
        "    (made / 'old').write_text('x' * 99) if isinstance(made, Path) else made.write(b'x' * 99)\n"
        "    made.flush() if not isinstance(made, Path) else None\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "it"
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -signal.SIGKILL
    assert [child.name for child in tmp_path.iterdir()] == ["it.partial"]
    with make(path) as made:
        fill(made)
    assert content(path) == "1" and [child.name for child in tmp_path.iterdir()] == ["it"]
    assert not (path / "old").exists()


def test_a_small_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("one", "two ✓"):
        write_file(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_many_writers_of_a_small_file_wait_for_each_other(tmp_path: Path) -> None:
    path, failures = tmp_path / "file", list[BaseException]()

    def work(number: int) -> None:
        try:
            for _ in range(20):
                write_file(path, str(number) * 5000)
                text = path.read_text()
                assert len(text) == 5000 and len(set(text)) == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and [child.name for child in tmp_path.iterdir()] == ["file"]


def test_what_can_be_computed_again_need_not_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    write_if_possible(tmp_path / "file", "text")
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("11.13 a full disk names the file")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match=r"No space left on device: '.*data\.beton'"), new_file(tmp_path / "data.beton"):
        os.write(full, b"x")
    os.close(full)
    assert not list(tmp_path.iterdir())


def test_a_file_that_vanished(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="vanished while it was written"):
        fsync(tmp_path / "gone")


def test_ranks_share_the_lock_of_a_store_and_keep_others_out(tmp_path: Path) -> None:
    with ExitStack() as first_rank, ExitStack() as second_rank:
        lock = first_rank.enter_context(store_units.writing(tmp_path))
        with pytest.raises(StoreError, match="another process"):
            second_rank.enter_context(store_units.writing(tmp_path, shared=True))
        lock.share()
        second_rank.enter_context(store_units.writing(tmp_path, shared=True))
        first_rank.close()  # it died, the second one still labels
        with pytest.raises(StoreError, match="another process"), store_units.writing(tmp_path):
            pass
        second_rank.close()
        with store_units.writing(tmp_path):
            pass
