"""Reads a label store with nothing of fastlabel: written from docs/format.md alone, to show that it is enough."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

Box = tuple[int, int, int, int, int]
Words = Callable[[int], tuple[int, int, int, int]]

ZERO_CODE = 255
UNKNOWN_GAP = 65535
MASK = 0xFFFFFFFF


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def array_bytes(values: Any, dtype: str) -> bytes:
    return np.ascontiguousarray(values, dtype=dtype).tobytes()


# Manifests


def open_store(path: Path) -> tuple[zarr.Group, dict[str, Any]]:
    root = zarr.open_group(path, mode="r", zarr_format=3)
    manifest = root.attrs.get("fastlabel")
    require(isinstance(manifest, dict) and manifest.get("format") == "fastlabel", f"{path} is not a label store")
    require(manifest["version"] == 1, f"{path} has format version {manifest['version']}, this reader knows version 1")
    return root, manifest


def check_codec(codec: dict[str, Any], k: int, num_classes: int) -> None:
    constants = {"name": "topk-log8", "codes_per_nat": 8, "log_odds_per_nat": 256, "log_odds_offset": 240}
    require(codec == {**constants, "k": k, "num_classes": num_classes}, f"unknown codec {codec}")


def manifest_digest(shared: dict[str, Any], teacher: dict[str, Any]) -> str:
    text = json.dumps(
        {**shared, "teacher": {key: teacher[key] for key in teacher if key != "name"}},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    )
    return sha256(text.encode("ascii"))


def dataset_fingerprint(
    heights: Sequence[int], widths: Sequence[int], labels: Sequence[int], payloads: Iterable[bytes]
) -> str:
    return sha256(
        b"fastlabel dataset 1\n",
        array_bytes(heights, "<i4"),
        array_bytes(widths, "<i4"),
        array_bytes(labels, "<i8"),
        *(hashlib.sha256(payload).digest() for payload in payloads),
    )


def read_samples(path: Path) -> NDArray[np.int64]:
    root, manifest = open_store(path)
    samples = np.asarray(root["samples"][:], np.int64)
    require(len(samples) == manifest["samples"]["count"], f"{path} has {len(samples)} sample ids")
    require(sha256(array_bytes(samples, "<i8")) == manifest["samples"]["digest"], f"{path} has other sample ids")
    require(bool(np.all(np.diff(samples) > 0)), f"{path} has sample ids out of order")
    return samples


# Units


class Plane:
    """Where the labels of one view by one teacher are, and the records of the units that hold them."""

    def __init__(self, path: Path, teacher: int, view: int) -> None:
        self.root, self.shared = open_store(path)
        self.path, self.teacher, self.view = path, teacher, view
        self.samples = read_samples(path)
        require(str(teacher) in self.root, f"{path} has no teacher {teacher}")
        self.group = self.root[str(teacher)]
        self.manifest: dict[str, Any] = self.group.attrs["fastlabel"]
        self.num_classes: int = self.shared["dataset"]["num_classes"]
        self.num_views, _, self.k = self.group["classes"].shape
        check_codec(self.manifest["codec"], self.k, self.num_classes)
        for name, width in (("classes", self.k), ("codes", self.k), ("tail", 2)):
            shape = (self.num_views, len(self.samples), width)
            require(self.group[name].shape == shape, f"{path} has {name} of another shape than {shape}")
        require(0 <= view < self.num_views, f"{path} has no view {view}")

    def units(self) -> Iterable[tuple[slice, dict[str, Any]]]:
        """The rows and the record of each unit of the view."""
        unit_views, unit_samples = self.shared["unit"]["views"], self.shared["unit"]["samples"]
        digest = manifest_digest(self.shared, self.manifest)
        i = self.view // unit_views
        for j in range(-(-len(self.samples) // unit_samples)):
            name = f"{self.teacher}/units/{i}.{j}"
            require(name in self.root, f"{self.path} has no record {name}")
            record: dict[str, Any] = self.root[name].attrs["fastlabel"]
            start, stop = j * unit_samples, min((j + 1) * unit_samples, len(self.samples))
            place = [i * unit_views, min((i + 1) * unit_views, self.num_views), start, stop]
            found = [record[key] for key in ("view_start", "view_stop", "sample_start", "sample_stop")]
            require(found == place, f"record {name} of {self.path} is about another unit")
            for key in ("labels", "boxes"):
                require(len(record[key]) == place[1] - place[0], f"record {name} of {self.path} lacks {key}")
            require(record["manifest"] == digest, f"record {name} of {self.path} was made under another manifest")
            yield slice(start, stop), record

    def of_view(self, record: dict[str, Any], key: str) -> str:
        digest: str = record[key][self.view - record["view_start"]]
        return digest

    def labels(self, rows: slice, record: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        classes, codes, tail = (self.group[name][self.view, rows] for name in ("classes", "codes", "tail"))
        wide = "<u4" if self.num_classes > 65536 else "<u2"
        digest = sha256(array_bytes(classes, wide), array_bytes(codes, "u1"), array_bytes(tail, "<u2"))
        require(digest == self.of_view(record, "labels"), f"{self.path}, view {self.view}, rows {rows}: damaged labels")
        return classes, codes, tail


# From a label to probabilities


def tail_exponent(gaps: list[float], rest: int, a: int, b: int, temperature: float) -> float:
    if rest == 0 or a == 0:
        return -math.inf
    kept = sum(math.exp(-gap) for gap in gaps)
    first = (a - 1) / 256 - 240 + math.log(kept) - math.log(rest)
    if temperature == 1:
        return first
    gamma = b / 8
    delta = first + gamma
    exponent = first / temperature
    if b != UNKNOWN_GAP and delta >= 0:
        exponent = -gamma / temperature + delta / temperature**2
    if temperature < 1:
        exponent = min(exponent, max(-max(gaps), first) / temperature)
    return exponent


def probabilities(
    classes: list[int], codes: list[int], tail: list[int], num_classes: int, temperature: float
) -> NDArray[np.float64]:
    gaps = [code / 8 for code in codes if code != ZERO_CODE]
    lam = tail_exponent(gaps, num_classes - len(codes), tail[0], tail[1], temperature)
    shift = max(lam, 0.0)
    weights = np.full(num_classes, math.exp(lam - shift))
    for cls, code in zip(classes, codes, strict=True):
        weights[cls] = 0.0 if code == ZERO_CODE else math.exp(-code / 8 / temperature - shift)
    return weights / weights.sum()


def read_probabilities(path: Path, teacher: int, view: int, temperature: float) -> NDArray[np.float64]:
    """The [N, C] probabilities that a teacher gave to the samples under a view; row n is that of `samples[n]`."""
    plane = Plane(path, teacher, view)
    rows = [
        probabilities(*label, plane.num_classes, temperature)
        for unit, record in plane.units()
        for label in zip(*(values.tolist() for values in plane.labels(unit, record)), strict=True)
    ]
    return np.stack(rows)


# Views


def philox(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32-10."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def centred(height: int, width: int, h: int, w: int) -> tuple[int, int, int, int]:
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(policy: dict[str, Any], words: Words, height: int, width: int) -> tuple[int, int, int, int]:
    low, high = policy["scale_q24"]
    for draw in range(10):
        u0, u1, u2, u3 = words(draw)
        s = math.isqrt(height * width * (low + ((high - low) * u0 >> 32)))
        q = policy["aspects_q16"][u1 >> 24]
        w, h = (s * q + 2**27) >> 28, (32 * s + q) // (2 * q)
        if 0 < w <= width and 0 < h <= height:
            return u2 * (height - h + 1) >> 32, u3 * (width - w + 1) >> 32, h, w
    narrow, wide = policy["ratio_q16"]
    h, w = height, width
    if width << 16 < narrow * height:
        h = min(height, (2 * (width << 16) + narrow) // (2 * narrow))
    elif width << 16 > wide * height:
        w = min(width, (height * wide + 2**15) >> 16)
    return centred(height, width, max(h, 1), max(w, 1))


def pad_crop(policy: dict[str, Any], words: Words, height: int, width: int) -> tuple[int, int, int, int]:
    _, _, u2, u3 = words(0)
    padding, size = policy["padding"], policy["size"]
    top = (u2 * (height + 2 * padding - size + 1) >> 32) - padding
    left = (u3 * (width + 2 * padding - size + 1) >> 32) - padding
    return top, left, size, size


def center(policy: dict[str, Any], words: Words, height: int, width: int) -> tuple[int, int, int, int]:
    n, d = policy["fraction"]
    side = max(1, (2 * min(height, width) * n + d) // (2 * d))
    return centred(height, width, side, side)


def identity(policy: dict[str, Any], words: Words, height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, height, width


POLICIES = {
    "random-resized-crop": random_resized_crop,
    "pad-crop": pad_crop,
    "center": center,
    "identity": identity,
}


def crop_box(policy: dict[str, Any], view: int, sample: int, height: int, width: int) -> Box:
    """Top, left, height, width, flip."""
    seed = policy["seed"]

    def words(draw: int) -> tuple[int, int, int, int]:
        return philox((sample & MASK, sample >> 32, view, draw), (seed & MASK, seed >> 32))

    flip = words(0)[1] & 1 if policy.get("flip") else 0
    return (*POLICIES[policy["name"]](policy, words, height, width), flip)


def check_boxes(path: Path, teacher: int, view: int, heights: Sequence[int], widths: Sequence[int]) -> None:
    """Raises ValueError unless the boxes of the records follow from the view policy. Sizes are by sample index."""
    plane = Plane(path, teacher, view)
    for rows, record in plane.units():
        samples = plane.samples[rows].tolist()
        boxes = [crop_box(plane.shared["views"], view, n, int(heights[n]), int(widths[n])) for n in samples]
        require(sha256(array_bytes(boxes, "<i4")) == plane.of_view(record, "boxes"), f"other boxes in view {view}")
