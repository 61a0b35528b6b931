"""Kill `fastlabel cache-labels` with SIGKILL at random moments, resume it, and compare with an uninterrupted run.

Half of the kills come at a random time, half right after a random change in the store's folder, which hits the
writing of units. When a run finishes, its store is compared byte by byte, and the next one starts anew.

    python -m tests.reliability.kill_runs --kills 50 --out benchmarks/results/kills-cpu.json
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from os import DirEntry, scandir
from pathlib import Path

from tests.stores import digests

VIEWS, IPC = 640, 4


@dataclass
class Tally:
    """What happened: kills, those that left a store behind, those between two units' commits, runs compared."""

    kills: int = 0
    with_store: int = 0
    with_partial_files: int = 0
    with_unrecorded_shards: int = 0
    finished_runs: int = 0
    equal_runs: int = 0
    failed_resumes: int = 0


def fastlabel(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fastlabel.cli.main", *map(str, arguments)]


def prepare(work: Path) -> list[str]:
    """The digits, a teacher of one epoch, and the arguments of the labelling run, but for the store."""
    data, run = work / "digits.beton", work / "teacher"
    subprocess.run(fastlabel("write-dataset", "digits:train", data), check=True, capture_output=True)
    options = ("--val", data, "--arch", "convnet-d2-w8", "--epochs", 1, "--out", run)
    subprocess.run(fastlabel("train-teacher", data, *options), check=True, capture_output=True)
    teacher = run / "epoch-001.pt"
    return [str(data), f"--teacher={teacher}", f"--views={VIEWS}", "--k=10", f"--ipc={IPC}", "--view-policy=pad-crop"]


def command(arguments: list[str], store: Path) -> list[str]:
    return fastlabel("cache-labels", arguments[0], store, *arguments[1:])


def units(store: Path) -> int:
    """How many units are committed."""
    return len(list(store.glob("0/units/*/zarr.json")))


def snapshot(store: Path) -> int:
    """A number that changes with any file of the store."""
    try:
        return hash(tuple((entry.path, entry.stat().st_mtime_ns) for entry in walk(store)))
    except FileNotFoundError:  # renamed while we looked
        return -1


def walk(folder: Path) -> list[DirEntry[str]]:
    found = []
    with scandir(folder) as entries:
        for entry in entries:
            found.append(entry)
            if entry.is_dir():
                found += walk(Path(entry.path))
    return found


def kill_once(arguments: list[str], store: Path, rng: random.Random, seconds: float, tally: Tally) -> None:
    """Start a run and kill it, or let it finish if it is done before."""
    process = subprocess.Popen(command(arguments, store), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    by_change, changes = rng.random() < 0.5, rng.randrange(1, 40)
    deadline = time.monotonic() + rng.uniform(0, seconds)
    before = 0
    while process.poll() is None:
        if by_change:
            now = snapshot(store) if store.exists() else 0
            changes -= now != before
            before = now
        if (by_change and changes <= 0) or (not by_change and time.monotonic() > deadline):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(rng.uniform(0, 0.002))
    _, stderr = process.communicate()
    if process.returncode == -signal.SIGKILL:
        count_kill(store, tally)
    elif process.returncode != 0:
        tally.failed_resumes += 1
        print(stderr, file=sys.stderr)


def count_kill(store: Path, tally: Tally) -> None:
    tally.kills += 1
    tally.with_store += store.exists()
    tally.with_partial_files += any(store.parent.rglob("*.partial"))
    records = {path.parent.name for path in store.glob("0/units/*/zarr.json")}
    shards = {f"{path.parts[-3]}.{path.parts[-2]}" for path in store.glob("0/*/c/*/*/0")}
    tally.with_unrecorded_shards += bool(shards - records)


def run(kills: int, seed: int, work: Path, transform: int) -> Tally:
    """Kill and resume until ``kills`` are done; then finish the last run, and compare it too."""
    rng, tally = random.Random(seed), Tally()
    arguments = prepare(work)
    if transform:
        arguments += ["--k=4", f"--transform={transform}", "--step=1"]
    whole, store = work / "whole.zarr", work / "killed" / "labels.zarr"
    began = time.monotonic()
    subprocess.run(command(arguments, whole), check=True, capture_output=True)
    seconds = time.monotonic() - began
    expected = digests(whole)
    store.parent.mkdir()
    while tally.kills < kills and not tally.failed_resumes:
        kill_once(arguments, store, rng, seconds, tally)
        if store.exists() and len(list(store.glob("0/units/*/zarr.json"))) == len(
            list(whole.glob("0/units/*/zarr.json"))
        ):
            compare(arguments, store, expected, tally)
            shutil.rmtree(store.parent)
            store.parent.mkdir()
    compare(arguments, store, expected, tally)
    return tally


def compare(arguments: list[str], store: Path, expected: dict[str, str], tally: Tally) -> None:
    """Let a run finish, and count whether its store, and nothing but it, is there byte by byte."""
    finished = subprocess.run(command(arguments, store), capture_output=True, text=True)
    tally.finished_runs += 1
    found = digests(store) if store.exists() else {}
    tally.equal_runs += finished.returncode == 0 and found == expected
    if found != expected:
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        print(finished.stderr, "differing:", differing[:10], file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--transform", type=int, default=0, help="components; 0 for labels of the top K alone")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        tally = run(options.kills, options.seed, Path(work), options.transform)
    result = asdict(tally) | {
        "seed": options.seed,
        "transform": options.transform,
        "seconds": round(time.monotonic() - began),
        "date": str(date.today()),
    }
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return int(tally.equal_runs != tally.finished_runs or tally.failed_resumes > 0)


if __name__ == "__main__":
    sys.exit(main())
