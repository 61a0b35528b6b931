"""Short versions of the scripts in this folder."""

from __future__ import annotations

import shutil

import pytest

from tests.reliability import full_disk, kill_runs
from tests.stores import digests


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bytes(tmp_path):
    tally = kill_runs.run(kills=1, seed=1, work=tmp_path, transform=0)
    assert tally.kills == 1 and tally.failed_resumes == 0
    assert tally.equal_runs == tally.finished_runs >= 1


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "probe"
    folder.mkdir()
    try:
        with full_disk.small_disk(folder, 1 << 20):
            pass
    except OSError as error:
        pytest.skip(f"needs the right to mount a tmpfs: {error}")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("disk")
def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path):
    tally = full_disk.run(tmp_path, step=7 * full_disk.PAGE)
    assert tally.too_small == tally.clear_errors == tally.resumed_to_equal_bytes >= 2


@pytest.mark.slow
def test_a_disk_that_became_read_only(tmp_path, disk):
    arguments = full_disk.prepare(tmp_path)
    store = disk / "labels.zarr"
    with full_disk.small_disk(disk, full_disk.LARGE):
        assert full_disk.label([*arguments[:2], "--views=64", *arguments[3:]], store)[0] == 0
        before = digests(store)
        full_disk.remount(disk, "ro")
        code, line = full_disk.label(arguments, store)
        assert code == 1 and "Read-only file system" in line
        assert digests(store) == before


def test_a_store_that_vanishes_while_it_is_written(tmp_path, monkeypatch):
    from fastlabel.store import units as store_units

    arguments = full_disk.prepare(tmp_path)
    store = tmp_path / "labels.zarr"
    write_unit, written = store_units.write_unit, []

    def vanish(*args, **options):
        write_unit(*args, **options)
        written.append(1)
        if len(written) == 2:
            shutil.rmtree(store)

    monkeypatch.setattr(store_units, "write_unit", vanish)
    code, line = full_disk.label(arguments, store)
    assert code == 1 and line.startswith("error: ") and str(store) in line
