"""Damage every byte of a small store, one after the other, and count what `verify` and readers make of it.

Faults: a flipped byte at every place of every file, truncation to every length, the loss of each file, and the swap of
each pair of files of one kind. After each, `verify_store` must report an error (a lost record: a note, as a unit
without one is merely unfinished), and reading all planes must give the same labels or a FastlabelError.

    python -m tests.reliability.damage --out benchmarks/results/damage-cpu.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np

from fastlabel import LabelStore
from fastlabel.errors import FastlabelError
from fastlabel.integrity.verify import verify_store
from fastlabel.store import manifest
from tests.conftest import make_photo_folder
from tests.stores import make_teacher, store_maker, write_photos

KINDS = {
    "root": r"zarr\.json",
    "teacher": r"\d+/zarr\.json",
    "array": r"\d+/\w+/zarr\.json",
    "record": r"\d+/units/\d+\.\d+/zarr\.json",
    "shard": r"\d+/\w+/c/\d+/\d+/0",
    "sample ids": r"samples/.*",
}
FAULTS = ("flip", "truncate", "delete", "swap")


@dataclass(frozen=True)
class Fault:
    """New bytes for some files of a store; None removes a file."""

    name: str
    kind: str
    files: dict[str, bytes | None]
    place: str


def kind_of(file: str) -> str:
    if file.endswith("/units/zarr.json"):
        return "group"
    return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, file)), "group")


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def faults(files: dict[str, bytes]) -> Iterator[Fault]:
    """Every fault of every kind."""
    for file, data in files.items():
        for at in range(len(data)):
            # A value that varies with the place, never zero; 7 is prime to 255, so that all of them come up.
            flipped = data[:at] + bytes([data[at] ^ (1 + at * 7 % 255)]) + data[at + 1 :]
            yield Fault("flip", kind_of(file), {file: flipped}, f"{file} byte {at}")
        for size in range(len(data)):
            yield Fault("truncate", kind_of(file), {file: data[:size]}, f"{file} to {size}")
        yield Fault("delete", kind_of(file), {file: None}, file)
    for one, other in itertools.combinations(files, 2):
        if kind_of(one) == kind_of(other) and files[one] != files[other]:
            yield Fault("swap", kind_of(one), {one: files[other], other: files[one]}, f"{one} and {other}")


@contextmanager
def damaged(store: Path, fault: Fault, files: dict[str, bytes]) -> Iterator[None]:
    def put(new: dict[str, bytes | None]) -> None:
        for file, data in new.items():
            if data is None:
                (store / file).unlink()
            else:
                (store / file).write_bytes(data)

    put(fault.files)
    try:
        yield
    finally:
        put({file: files[file] for file in fault.files})


def labels_of(store: Path) -> list[bytes]:
    """Everything that a reader gets of a store."""
    opened = LabelStore.open(store)
    found = [opened.ids.tobytes(), repr(opened.class_names).encode()]
    for teacher in range(len(opened.manifest.teachers)):
        for view in range(opened.num_views):
            labels = opened.plane(view, teacher)[opened.ids]
            found += [
                np.ascontiguousarray(part.numpy()).tobytes() for part in (labels.classes, labels.codes, labels.tail)
            ]
    return found


def check(store: Path, wanted: list[bytes], reading: bool) -> Counter[str]:
    """What becomes of one damaged store."""
    count = Counter(tried=1)
    try:
        report = verify_store(store, num_workers=1)
        noticed = "errors" if not report.sound else "notes" if report.findings else "unnoticed"
    except Exception:  # whatever it is, it would be a traceback
        noticed = "tracebacks"
    count[noticed] += 1
    if reading:
        try:
            read = "same labels" if labels_of(store) == wanted else "wrong labels"
        except FastlabelError:
            read = "refused"
        except Exception:
            read = "read tracebacks"
        count[read] += 1
    return count


def run(
    store: Path, chosen: tuple[str, ...] = FAULTS, sample: int | None = None, seed: int = 0, reading: bool = True
) -> dict[str, dict[str, Counter[str]]]:
    """Counts by fault and kind of file; of each fault all, or a random sample."""
    files, wanted = contents(store), labels_of(store)
    assert verify_store(store, num_workers=1).findings == ()
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for name in chosen:
        todo = [fault for fault in faults(files) if fault.name == name]
        if sample is not None and sample < len(todo):
            rng = np.random.default_rng(seed)
            todo = [todo[at] for at in sorted(rng.choice(len(todo), sample, replace=False))]
        for number, fault in enumerate(todo):
            with damaged(store, fault, files):
                count = check(store, wanted, reading)
            found[name][fault.kind] += count
            bad = count["unnoticed"] + count["tracebacks"] + count["wrong labels"] + count["read tracebacks"]
            if bad or (count["notes"] and (name, fault.kind) != ("delete", "record")):
                print(name, fault.place, dict(count), file=sys.stderr)
            if number % 1000 == 999:
                print(f"{name}: {number + 1} of {len(todo)}", file=sys.stderr)
    assert contents(store) == files
    return found


def totals(found: dict[str, dict[str, Counter[str]]]) -> dict[str, Counter[str]]:
    return {name: sum(kinds.values(), Counter()) for name, kinds in found.items()}


def passed(found: dict[str, dict[str, Counter[str]]]) -> bool:
    """Every fault is an error of verify, but for lost records, which are notes; no reader got other labels."""
    for name, kinds in found.items():
        for kind, count in kinds.items():
            noticed = count["notes"] if (name, kind) == ("delete", "record") else count["errors"]
            read = count["same labels"] + count["refused"]
            if noticed != count["tried"] or read not in (0, count["tried"]):
                return False
    return True


def make_store(work: Path, teachers: int = 1) -> Path:
    """12 photos, 3 views, units of 2 views x 6 samples: four units for each teacher."""
    before = manifest.UNIT_SAMPLES, manifest.MAX_UNIT_VIEWS, manifest.DECODE_VIEWS
    manifest.UNIT_SAMPLES, manifest.MAX_UNIT_VIEWS, manifest.DECODE_VIEWS = 6, 2, 2
    try:
        beton = write_photos(make_photo_folder(work / "photos"), work / "photos.beton")
        experts = [make_teacher(seed=seed, name=f"expert-{seed}") for seed in range(teachers)]
        return store_maker(beton, work)("small", teachers=experts, views=3)
    finally:
        manifest.UNIT_SAMPLES, manifest.MAX_UNIT_VIEWS, manifest.DECODE_VIEWS = before


def rows(found: dict[str, dict[str, Counter[str]]]) -> list[str]:
    """Lines of the table in docs/reliability.md."""
    what = {
        "flip": "one byte changed, every byte of every file",
        "truncate": "a file cut short, to every length",
        "delete": "a file lost, each file",
        "swap": "two files of one kind swapped, each pair",
    }
    lines = []
    for name, count in totals(found).items():
        read = f"{count['refused']:,} / {count['same labels']:,} / {count['wrong labels']:,}"
        cells = (what[name], count["tried"], count["errors"], count["notes"], count["unnoticed"], count["tracebacks"])
        lines.append(
            "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells) + f" | {read} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--sample", type=int, help="of each fault only so many, chosen at random")
    parser.add_argument("--teachers", type=int, default=1)
    parser.add_argument("--no-reading", dest="reading", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        store = make_store(Path(work), options.teachers)
        files = contents(store)
        found = run(store, tuple(options.faults), options.sample, options.seed, options.reading)
    result = {
        "date": str(date.today()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "files": len(files),
        "bytes": sum(map(len, files.values())),
        "teachers": options.teachers,
        "sample": options.sample,
        "seconds": round(time.monotonic() - began),
        "passed": passed(found),
        "faults": {name: {kind: dict(count) for kind, count in kinds.items()} for name, kinds in found.items()},
    }
    print(json.dumps(result))
    print("\n".join(rows(found)))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    return int(not passed(found))


if __name__ == "__main__":
    sys.exit(main())
