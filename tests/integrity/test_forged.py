"""Stores that someone forged, or that another tool wrote: digests are right, what they vouch for is not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlabel.errors import StoreError
from fastlabel.integrity.verify import verify_store
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.label_rules import broken_rule
from fastlabel.store.layout import node_text
from fastlabel.store.shard import encode_chunk
from fastlabel.store.store import LabelStore
from fastlabel.store.units import ARRAYS, Record, labels_digest, write_unit
from tests.reliability import fuzz_store

GOLDEN = Path(__file__).parents[1] / "data" / "golden-v1.zarr"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A copy of the golden store: 2 views of 5 and 2 samples in 6 units for each of 2 teachers of 10 classes."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "store.zarr"))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a zarr.json, and its digest with it."""
    node = json.loads(path.read_text())
    change(node)
    path.write_text(node_text(node))


def rewrite(path: Path, teacher: int, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Change the labels of unit 0.0, and its record with them."""
    opened = LabelStore.open(path)
    unit = next(opened.units())
    labels, record = opened.read_unit(unit, teacher), opened.record(unit, teacher)
    assert record is not None
    change(labels)
    digests = tuple(labels_digest({name: labels[name][view] for name in ARRAYS}) for view in range(unit.shape[0]))
    write_unit(path, teacher, unit, labels, replace(record, labels=digests), opened.manifest.unit)


# Impossible labels


def put(name: str, column: int, value: int) -> Callable[[dict[str, np.ndarray]], None]:
    def change(labels: dict[str, np.ndarray]) -> None:
        labels[name][0, 1, column] = value

    return change


def twice(labels: dict[str, np.ndarray]) -> None:
    labels["classes"][0, 1, 1] = labels["classes"][0, 1, 0]


def likely_tail(labels: dict[str, np.ndarray]) -> None:
    """All ten classes as probable as the first, where the last kept one is 20 nats below it."""
    labels["codes"][0, 1], labels["tail"][0, 1] = (0, 80, 160), (1 + 256 * 242, 160)


IMPOSSIBLE = {
    "hold": put("classes", 0, 10),
    "hold a class twice": twice,
    "give the most probable class a gap": lambda labels: labels["codes"][0, 1].fill(255),
    "are not in the order of their gaps": lambda labels: labels["codes"][0, 1].__setitem__(slice(None), (0, 9, 3)),
    "have a tail of no mass, but with a mean gap": lambda labels: labels["tail"][0, 1].__setitem__(slice(None), (0, 9)),
    "have a tail that is more probable than the last class": likely_tail,
}


@pytest.mark.fault("11.5 impossible labels")
@pytest.mark.parametrize("problem", IMPOSSIBLE)
def test_impossible_labels_are_no_sound_ones(store: Path, problem: str) -> None:
    rewrite(store, 0, IMPOSSIBLE[problem])
    errors = verify_store(store, num_workers=1).errors
    assert [(error.teacher, error.unit, error.views) for error in errors] == [(0, "0.0", (0, 1))]
    assert errors[0].problem.startswith(problem), errors[0].problem


@pytest.mark.fault("11.5 impossible labels")
def test_readers_get_no_class_that_does_not_exist(store: Path) -> None:
    rewrite(store, 0, put("classes", 2, 9_999))
    with pytest.raises(StoreError, match=r"unit 0\.0 of teacher 0 .*holds a class that is none of the 10"):
        LabelStore.open(store).plane(0)


@pytest.mark.parametrize("k", [1, 3, 9, 10])
@pytest.mark.parametrize("scale", [0.01, 1, 20, 300])
def test_whatever_the_codec_makes_keeps_the_rules(k: int, scale: float) -> None:
    import torch

    logits = scale * torch.randn(2000, 10, generator=torch.Generator().manual_seed(k))
    logits[::3, 4:] = -torch.inf
    logits[1::7, 1:] = logits[1::7, :1]
    encoded = TopKCodec(k, 10).encode(logits)
    assert broken_rule({name: getattr(encoded, name).numpy() for name in ARRAYS}, 10) is None


# Sizes that are checked before memory or time is spent on them


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture
def soon_and_small() -> Any:
    """The test ends within seconds, and takes little memory."""
    started, before = time.monotonic(), peak_bytes()
    yield
    assert time.monotonic() - started < 20 and peak_bytes() - before < 256 << 20


def huge(store: Path, file: str, *keys: Any, value: int = 10**18) -> None:
    def change(node: dict[str, Any]) -> None:
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    edit(store / file, change)


MANIFEST = ("attributes", "fastlabel")
SIZES = {
    "views": (("zarr.json", *MANIFEST, "num_views"),),
    "views that a policy has": (("zarr.json", *MANIFEST, "num_views"), 2**32),
    "views and arrays": (
        ("zarr.json", *MANIFEST, "num_views"),
        *((f"{teacher}/{name}/zarr.json", "shape", 0) for teacher in range(2) for name in ARRAYS),
        2**31,
    ),
    "teachers": (("zarr.json", *MANIFEST, "num_teachers"),),
    "samples": (("zarr.json", *MANIFEST, "dataset", "num_samples"),),
    "samples of a segment": (("zarr.json", *MANIFEST, "samples", 0, "count"),),
    "samples of a unit": (("zarr.json", *MANIFEST, "unit", "samples"),),
    "views of a unit": (("zarr.json", *MANIFEST, "unit", "views"),),
    "classes": (("0/zarr.json", *MANIFEST, "codec", "num_classes"),),
    "views of a record": (("0/units/0.0/zarr.json", *MANIFEST, "view_stop"),),
}


@pytest.mark.fault("11.9 sizes")
@pytest.mark.usefixtures("soon_and_small")
@pytest.mark.parametrize("name", SIZES)
def test_huge_sizes_end_soon(store: Path, name: str) -> None:
    *places, value = SIZES[name] if isinstance(SIZES[name][-1], int) else (*SIZES[name], 10**18)
    for file, *keys in places:
        huge(store, file, *keys, value=value)
    report = verify_store(store, num_workers=1)
    assert not report.sound or not report.complete
    with pytest.raises(StoreError):
        LabelStore.open(store).plane(2**20)


@pytest.mark.fault("11.9 sizes")
@pytest.mark.usefixtures("soon_and_small")
@pytest.mark.parametrize("name", ["chunk", "unit"])
def test_a_chunk_that_inflates_to_gigabytes(store: Path, name: str) -> None:
    """A small file of 1 GiB of zeros, in place of three rows; and a manifest that says it must be so."""
    samples = (1 << 30) // 6
    bomb = encode_bomb(1 << 30)
    shard = store / "0/classes/c/0/0/0"
    index = np.array([0, len(bomb)], "<u8").tobytes()
    shard.write_bytes(bomb + with_crc(index))
    if name == "unit":
        huge(store, "zarr.json", *MANIFEST, "unit", "samples", value=samples)
    assert not verify_store(store, num_workers=1).sound
    with pytest.raises(StoreError):
        LabelStore.open(store).plane(0)


def encode_bomb(nbytes: int) -> bytes:
    """A chunk of so many zeros, made of the header of a small one: its length is what a reader goes by."""
    data = bytearray(encode_chunk(np.zeros(1 << 20, np.uint16))[:-4])
    data[4:8] = np.array([nbytes], "<u4").tobytes()
    return with_crc(bytes(data))


def with_crc(data: bytes) -> bytes:
    from numcodecs.checksum32 import CRC32C

    return data + CRC32C.checksum(data).to_bytes(4, "little")


# Things that are no files


KINDS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "sparse": lambda path: (path.touch(), os.truncate(path, 3 << 30)),
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path.name),
}
FILES = ["zarr.json", "0/zarr.json", "0/codes/zarr.json", "samples/0/c/0", "0/tail/c/0/0/0", "0/units/0.0/zarr.json"]


@pytest.mark.fault("11.9 regular files")
@pytest.mark.usefixtures("soon_and_small")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES)
def test_only_regular_files_are_read(store: Path, kind: str, file: str) -> None:
    (store / file).unlink()
    KINDS[kind](store / file)
    errors = verify_store(store, num_workers=1).errors
    assert file in {error.file for error in errors}
    with pytest.raises((StoreError, OSError)):
        LabelStore.open(store).plane(0)


@pytest.mark.fault("11.11 deep JSON")
@pytest.mark.parametrize("depth", [60, 900, 100_000])
@pytest.mark.parametrize("file", ["zarr.json", "0/zarr.json", "0/units/0.0/zarr.json"])
def test_deep_json(store: Path, depth: int, file: str) -> None:
    (store / file).write_text('{"attributes":' + "[" * depth + "]" * depth + "}")
    assert file in {error.file for error in verify_store(store, num_workers=1).errors}
    with pytest.raises(StoreError):
        LabelStore.open(store).plane(0)


# At random


@pytest.mark.slow
@pytest.mark.fault("11 fuzzed stores")
def test_fuzzed_stores(tmp_path: Path) -> None:
    count = fuzz_store.run(10, seed=0, work=tmp_path)
    assert count["cases"] >= 10 and count["errors"] > 0


def test_a_record_is_whole(store: Path) -> None:
    opened = LabelStore.open(store)
    record = opened.record(next(opened.units()))
    assert isinstance(record, Record) and record.view_stop == len(record.labels)
