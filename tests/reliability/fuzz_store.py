"""Forge a small store at random, again and again: whatever it says, `verify` and readers end soon, with a clear word.

Files are mutated as bytes, and as JSON whose digest is then put right, as another tool or someone who means harm would
write it; shards are rewritten with records that fit; FIFOs, devices, folders and sparse files stand in for files. After
each forgery `verify_store` must return a report and reading must give labels or an error of fastlabel, within seconds
and in bounded memory. Labels that a reader gives must name classes that exist.

    python -m tests.reliability.fuzz_store --seconds 1800 --seed 0
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastlabel.errors import FastlabelError
from fastlabel.integrity.verify import verify_store
from fastlabel.store.layout import node_text
from fastlabel.store.store import LabelStore
from fastlabel.store.units import ARRAYS, labels_digest, record_file, record_node, write_unit

GOLDEN = Path(__file__).parents[1] / "data" / "golden-v1.zarr"
MOST_SECONDS, MOST_BYTES = 20, 512 << 20  # of one case; of all memory beyond what the process had before
VALUES: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**63, 10**18, 10**400, -(10**18)),
    *(0.5, -0.0, 1e300, True, None, "", "0", "\ud800", "x" * 100_000, [], {}, [[]], [0] * 10_000, {"a": {}}),
)


class TooSlow(Exception):
    """A case took longer than `MOST_SECONDS`."""


def json_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside of a JSON value."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from json_places(inner)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def forge_json(path: Path, rng: random.Random) -> str:
    """Change one to three values of a zarr.json, and put its digest right."""
    node = json.loads(path.read_text())
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(list(json_places(node)))
        what = rng.random()
        if what < 0.15:
            del container[key]
        elif what < 0.3 and isinstance(container, dict):
            container[rng.choice(["colour", "", "shape", "teachers"])] = deepcopy(rng.choice(VALUES))
        elif what < 0.4:
            container[key] = nested(rng.choice([40, 500]))
        elif what < 0.6 and isinstance(container[key], int):
            container[key] += rng.choice([-1, 1, 7])
        else:
            container[key] = deepcopy(rng.choice(VALUES))
    try:
        path.write_text(node_text(node))
    except (ValueError, TypeError, AttributeError, RecursionError):  # nothing that has a digest
        path.write_text(json.dumps(node))
    return "json"


def forge_depth(path: Path, rng: random.Random) -> str:
    """A JSON so deep that what walks it runs out of stack."""
    depth = rng.choice([100, 900, 5_000, 1_000_000])
    path.write_text("[" * depth + "]" * depth)
    return "depth"


def forge_bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.choice([0, 1, 4])] = rng.randbytes(rng.choice([0, 1, 1, 8]))
        if not data:
            break
    path.write_bytes(data)
    return "bytes"


def forge_kind(path: Path, rng: random.Random) -> str:
    """Something that is no file, or far too large, in place of a file."""
    path.unlink()
    kind = rng.choice(["fifo", "folder", "zeros", "sparse", "link to itself", "lost"])
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "zeros":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 3 << 30)
    elif kind == "link to itself":
        path.symlink_to(path.name)
    return kind


def forge_labels(store: Path, rng: random.Random) -> str:
    """Random labels in a unit, with a record that vouches for them."""
    opened = LabelStore.open(store)
    teacher = rng.randrange(len(opened.manifest.teachers))
    unit = rng.choice(opened.committed(teacher))
    record, labels = opened.record(unit, teacher), opened.read_unit(unit, teacher)
    assert record is not None
    name = rng.choice(ARRAYS)
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, labels[name].shape)
    labels[name] = np.where(rng.random() < 0.5, values, labels[name][:, ::-1]).astype(labels[name].dtype)
    digests = tuple(labels_digest({name: labels[name][v] for name in ARRAYS}) for v in range(unit.shape[0]))
    write_unit(store, teacher, unit, labels, replace(record, labels=digests), opened.manifest.unit)
    assert (store / record_file(teacher, unit)).read_text() == node_text(record_node(replace(record, labels=digests)))
    return "labels"


def forge(store: Path, rng: random.Random) -> str:
    """One forgery; its name."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    nodes = [path for path in files if path.name == "zarr.json"]
    if rng.random() < 0.15:
        return forge_labels(store, rng)
    kinds: list[tuple[Callable[[Path, random.Random], str], list[Path]]] = [
        (forge_json, nodes),
        (forge_json, [path for path in nodes if len(path.relative_to(store).parts) <= 2]),  # the manifests
        (forge_depth, nodes),
        (forge_bytes, files),
        (forge_kind, files),
    ]
    do, among = rng.choice(kinds)
    return do(rng.choice(among), rng)


def read_all(store: Path) -> str:
    """Read every plane; "refused", or "read" where all labels are of classes that exist."""
    try:
        opened = LabelStore.open(store)
        for teacher, info in enumerate(opened.manifest.teachers):
            for view in range(min(opened.num_views, 3)):
                labels = opened.plane(view, teacher)[opened.ids]
                assert int(labels.classes.to(int).max()) < info.codec.num_classes, "a class that does not exist"
    except (FastlabelError, OSError):
        return "refused"
    return "read"


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(seconds: float, seed: int, work: Path) -> Counter[str]:
    """Forge until the time is over. AssertionError, or whatever was raised, with the number of the case."""
    count: Counter[str] = Counter()
    base, ends, store = peak_bytes(), time.monotonic() + seconds, work / "store.zarr"
    while time.monotonic() < ends:
        number = count["cases"]
        rng = random.Random(f"{seed}-{number}")
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(GOLDEN, store)
        kinds = [forge(store, rng)]
        try:
            with time_limit(MOST_SECONDS):
                report = verify_store(store, num_workers=1)
                read = read_all(store)
            assert peak_bytes() - base < MOST_BYTES, "too much memory"
        except BaseException as error:
            error.add_note(f"case {number} of seed {seed}: {kinds}")
            raise
        count.update({"cases": 1, kinds[0]: 1, read: 1, "sound" if report.sound else "errors": 1})
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(run(options.seconds, options.seed, Path(work))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
