"""Files and folders that are there whole or not at all. Kills are in test_growth."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from fastlabel.errors import StoreError
from fastlabel.store import units as commit
from fastlabel.system.atomic_files import appearing, fsync, write_durably


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with appearing(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists() and folder.parent == path.parent
    assert [child.name for child in path.parent.iterdir()] == ["folder"] and (path / "a").read_text() == "1"


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), appearing(tmp_path / "folder") as folder:
        (folder / "a").write_text("1")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["file", "folder", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, what: str) -> None:
    path = tmp_path / "it"
    make = {"file": path.touch, "folder": path.mkdir, "dangling link": lambda: path.symlink_to("nowhere")}[what]
    make()
    with pytest.raises(StoreError, match="exists already; choose another path"), appearing(path):
        pytest.fail("there is something at that path")


def test_of_two_that_make_the_same_folder_the_second_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(StoreError, match="was made by another process meanwhile"), appearing(path) as folder:
        (folder / "mine").touch()
        path.mkdir()
        (path / "theirs").touch()
    assert [child.name for child in path.iterdir()] == ["theirs"]
    assert [child.name for child in tmp_path.iterdir()] == ["folder"]


def test_a_small_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("one", "two ✓"):
        write_durably(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_a_file_that_vanished(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="vanished while it was written"):
        fsync(tmp_path / "gone")


def test_ranks_share_the_lock_of_a_store_and_keep_others_out(tmp_path: Path) -> None:
    with ExitStack() as first_rank, ExitStack() as second_rank:
        lock = first_rank.enter_context(commit.writing(tmp_path))
        with pytest.raises(StoreError, match="another process"):
            second_rank.enter_context(commit.writing(tmp_path, shared=True))
        lock.share()
        second_rank.enter_context(commit.writing(tmp_path, shared=True))
        first_rank.close()  # it died, the second one still labels
        with pytest.raises(StoreError, match="another process"), commit.writing(tmp_path):
            pass
        second_rank.close()
        with commit.writing(tmp_path):
            pass
