"""Label onto a disk of every size from too small for anything to large enough, then enlarge it and go on.

The disk is a tmpfs, so this needs root.

    python -m tests.reliability.full_disk
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from click.testing import CliRunner

from fastlabel.cli.main import main as fastlabel
from fastlabel.dataset.write import write_dataset
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.train.checkpoint import save_checkpoint
from tests.stores import digests

PAGE = 4096
LARGE = 64 << 20


@dataclass
class Tally:
    """Of all disk sizes: those that were too small, errors in one line that name the reason, and equal stores."""

    disks: int = 0
    too_small: int = 0
    clear_errors: int = 0
    resumed_to_equal_bytes: int = 0


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of that many bytes at ``folder``. OSError where this process may not mount one."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        raise OSError(f"cannot mount a tmpfs: {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def prepare(work: Path) -> list[str]:
    """A dataset and a teacher with random weights; the arguments of a run that makes three units."""
    data, teacher = work / "digits.beton", work / "teacher.pt"
    write_dataset("digits:test", data, progress=False)
    save_checkpoint(teacher, Classifier(ModelSpec("convnet-d2-w8", 10, 16)), epoch=1, metrics={})
    return [str(data), f"--teacher={teacher}", "--views=192", "--k=2", "--ipc=1", "--size=16"]


def label(arguments: list[str], store: Path) -> tuple[int, str]:
    """Exit code of `fastlabel cache-labels`, and the last line on stderr."""
    result = CliRunner().invoke(fastlabel, ["cache-labels", arguments[0], str(store), *arguments[1:]])
    return result.exit_code, (result.stderr.strip().splitlines() or [""])[-1]


def try_disk(arguments: list[str], disk: Path, size: int, expected: dict[str, str], tally: Tally) -> bool:
    """Label onto a disk of ``size`` bytes; whether it was large enough."""
    store = disk / "labels.zarr"
    with small_disk(disk, size):
        code, line = label(arguments, store)
        tally.disks += 1
        if code == 0:
            return True
        tally.too_small += 1
        tally.clear_errors += code == 1 and line.startswith("error: ") and "No space left on device" in line
        remount(disk, f"size={LARGE}")
        code, line = label(arguments, store)
        equal = code == 0 and digests(store) == expected
        tally.resumed_to_equal_bytes += equal
        if not equal:
            print(f"disk of {size} bytes: exit {code}: {line}", file=sys.stderr)
        return False


def run(work: Path, step: int = PAGE) -> Tally:
    """Disks of one page, one and a step, ... until the whole run fits."""
    arguments, tally = prepare(work), Tally()
    whole, disk = work / "whole.zarr", work / "disk"
    assert label(arguments, whole)[0] == 0
    expected = digests(whole)
    disk.mkdir()
    size = PAGE
    while not try_disk(arguments, disk, size, expected, tally):
        size += step
    return tally


def main() -> int:
    with tempfile.TemporaryDirectory() as work:
        tally = run(Path(work))
    print(json.dumps(asdict(tally)))
    return int(not tally.too_small == tally.clear_errors == tally.resumed_to_equal_bytes)


if __name__ == "__main__":
    sys.exit(main())
