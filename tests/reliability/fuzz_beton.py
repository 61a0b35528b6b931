"""Fuzz the door of `.beton` files: mutated ones must open, fingerprint and decode, or be refused in one line.

    python -m tests.reliability.fuzz_beton --seconds 1800 --seed 0

Each case takes a small file (JPEGs, raw pixels, or both), mutates its header, tables, payloads or the files beside it,
and reads it as training does. Anything but a result or a one-line FastlabelError is a finding; so
is a sample whose bytes were not touched and whose pixels are others than before. Case `n` of a seed is always the same:
`--first n --cases 1` runs it alone. A crash of the process leaves the number of its case in the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.tables import ALLOCATION, DESCRIPTION, HEADER
from fastlabel.errors import FastlabelError
from fastlabel.images.loader import ImageLoader
from fastlabel.views import ViewPolicy
from tests.betons import beton_writer
from tests.conftest import photo_like

POLICY = ViewPolicy.random_resized_crop(16, seed=3)
COUNT = 6
NUMBERS = (0, 1, 2, 255, 65535, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
Bytes = NDArray[np.uint8]


@dataclass
class Tally:
    """What became of the cases: how many of each outcome, and one text for each finding."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class Seedling:
    """A healthy file: its bytes, where each sample's payload lies, and each sample's crops."""

    content: Bytes
    payloads: list[tuple[int, int]]
    crops: NDArray[np.uint8]


def seedlings(folder: Path) -> list[Seedling]:
    images = [photo_like(18 + 5 * index, 40 - 3 * index, index, index) for index in range(COUNT)]
    paths = [beton_writer(folder)(images, mode, mode) for mode in ("jpg", "raw", "smart")]
    return [_seedling(path) for path in paths]


def _seedling(path: Path) -> Seedling:
    beton = Beton.open(path)
    payloads = list(zip(beton.offsets.tolist(), beton.nbytes.tolist(), strict=True))
    crops = ImageLoader(beton, POLICY, COUNT, num_workers=1).decode(np.arange(COUNT), [0, 1]).images.numpy().copy()
    return Seedling(np.fromfile(path, np.uint8), payloads, crops)


# --- Mutations: each takes bytes that it may change in place, and gives bytes back ------------------------------------


def flip(content: Bytes, random: Generator) -> Bytes:
    """A few bits anywhere in the tables."""
    for _ in range(random.integers(1, 4)):
        content[_in_tables(content, random)] ^= 1 << random.integers(8)
    return content


def put_number(content: Bytes, random: Generator) -> Bytes:
    """A number that is likely to be a limit of something, or its neighbour, over 1 to 8 bytes of the tables."""
    width, at = int(random.choice([1, 2, 4, 8])), _in_tables(content, random)
    number = (int(random.choice(np.array(NUMBERS, object))) + int(random.integers(-1, 2))) % 2 ** (8 * width)
    new = np.frombuffer(number.to_bytes(width, "little"), np.uint8)[: len(content) - at]
    content[at : at + len(new)] = new
    return content


def copy_field(content: Bytes, random: Generator) -> Bytes:
    """8 bytes of the tables over others: offsets and sizes that are another sample's."""
    source, target = _in_tables(content, random), _in_tables(content, random)
    new = content[source : source + 8].copy()[: len(content) - target]
    content[target : target + len(new)] = new
    return content


def cut(content: Bytes, random: Generator) -> Bytes:
    return content[: random.integers(len(content))]


def lengthen(content: Bytes, random: Generator) -> Bytes:
    return np.concatenate([content, random.integers(0, 256, random.integers(1, 99), dtype=np.uint8)])


def payload(content: Bytes, random: Generator) -> Bytes:
    """A burst of noise among the payloads."""
    at = int(random.integers(min(4096, len(content)), len(content) + 1))
    noise = random.integers(0, 256, random.integers(1, 20), dtype=np.uint8)[: len(content) - at]
    content[at : at + len(noise)] = noise
    return content


MUTATIONS: tuple[Callable[[Bytes, Generator], Bytes], ...] = (flip, put_number, copy_field, cut, lengthen, payload)


def _in_tables(content: Bytes, random: Generator) -> int:
    rows = HEADER.itemsize + 2 * DESCRIPTION.itemsize
    end = len(content)
    places = [(0, HEADER.itemsize), (0, rows), (rows, rows + 24 * COUNT), (end - ALLOCATION.itemsize * COUNT, end)]
    start, stop = places[random.integers(len(places))]
    return int(random.integers(start, stop)) % end


def sidecar(random: Generator) -> bytes:
    """What may stand in FILE.json or FILE.fingerprint.json."""
    choices = [
        random.bytes(int(random.integers(60))),
        json.dumps({"classes": [str(index) for index in range(random.integers(5))]}).encode(),
        json.dumps({"file": {}, "tables": "0" * 64, "sha256": ["x", 3, None][random.integers(3)]}).encode(),
        b'{"classes": ' * int(random.integers(1, 9)),
        b"[" * int(random.choice([3, 10**5])),
        b'{"classes": ["a", "b", "c", "' + random.bytes(3) + b'"]}',
    ]
    return choices[random.integers(len(choices))]


# --- One case ------------------------------------------------------------------------------------------------------


def run_case(seed: int, number: int, given: list[Seedling], folder: Path, tally: Tally) -> None:
    """Case `number` of a seed, counted in the tally."""
    random = np.random.default_rng([seed, number])
    one = given[random.integers(len(given))]
    content, names = one.content.copy(), []
    for _ in range(random.integers(1, 3)):
        mutation = MUTATIONS[random.integers(len(MUTATIONS))]
        names.append(mutation.__name__)
        content = mutation(content, random)
        if len(content) < HEADER.itemsize:
            break
    path = folder / "case.beton"
    for old in folder.glob("case.beton*"):
        old.unlink()
    content.tofile(path)
    for suffix in (".json", ".fingerprint.json"):
        if random.random() < 0.1:
            names.append(suffix)
            path.with_name(path.name + suffix).write_bytes(sidecar(random))
    try:
        tally.outcomes[_read(path, one)] += 1
    except FastlabelError as error:
        tally.outcomes["refused"] += 1
        if "\n" in str(error) or not str(error).strip():
            tally.findings.append(f"case {number} ({', '.join(names)}): not one line: {error}")
    except Exception:
        tally.outcomes["finding"] += 1
        tally.findings.append(f"case {number} ({', '.join(names)}):\n{traceback.format_exc()}")


def _read(path: Path, one: Seedling) -> str:
    """Open, fingerprint and decode in two orders. AssertionError where pixels are not what they must be."""
    beton = Beton.open(path)
    assert beton.fingerprint() == beton.fingerprint(trust_cache=False)
    loader = ImageLoader(beton, POLICY, max(COUNT, min(beton.num_samples, 64)), num_workers=1)
    decoded = [_decode(loader, order) for order in (range(COUNT), range(COUNT - 1, -1, -1))]
    assert decoded[0].keys() == decoded[1].keys(), "whether a sample decodes depends on the others"
    for sample, crops in decoded[0].items():
        assert np.array_equal(crops, decoded[1][sample]), f"sample {sample} depends on the others"
        start, size = one.payloads[sample]
        same_place = (beton.offsets[sample], beton.nbytes[sample]) == (start, size)
        if same_place and beton.payload(sample) == one.content[start : start + size].tobytes():
            same_index = beton.index[sample].tobytes() in one.content.tobytes()
            assert not same_index or np.array_equal(crops, one.crops[sample]), f"sample {sample} has other pixels"
    return "read whole" if len(decoded[0]) == COUNT else "read in part"


def _decode(loader: ImageLoader, order: range) -> dict[int, NDArray[np.uint8]]:
    """The crops of each sample that decodes, one sample after another in the same loader."""
    found = {}
    for sample in order:
        if sample < loader.beton.num_samples:
            try:
                found[sample] = loader.decode([sample], [0, 1]).images.numpy()[0].copy()
            except FastlabelError as error:
                assert "\n" not in str(error)
    return found


def run(seed: int, seconds: float, folder: Path, first: int = 0, cases: int | None = None) -> Tally:
    """Cases from `first` on, for some seconds or as many as asked for."""
    tally, given, end, number = Tally(), seedlings(folder), time.monotonic() + seconds, first
    while (time.monotonic() < end) if cases is None else (number < first + cases):
        (folder / "running").write_text(str(number))
        run_case(seed, number, given, folder, tally)
        number += 1
    return tally


def main() -> None:
    """Run the fuzzer, and exit with 1 if it found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--folder", type=Path, help="Kept, with the last case; else a temporary one.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        tally = run(asked.seed, asked.seconds, folder, asked.first, asked.cases)
    sys.stdout.write("\n".join([*tally.findings, json.dumps({"cases": tally.cases, **tally.outcomes})]) + "\n")
    sys.exit(bool(tally.findings))


if __name__ == "__main__":
    main()
