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


def check_codec(codec: dict[str, Any], k: int) -> None:
    constants = {"name": "topk-log8", "codes_per_nat": 8, "log_odds_per_nat": 256, "log_odds_offset": 240}
    require(codec == {**constants, "k": k, "num_classes": codec["num_classes"]}, f"unknown codec {codec}")


def json_digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii"))


def manifest_digest(shared: dict[str, Any], teacher: dict[str, Any]) -> str:
    lasting = {key: shared[key] for key in shared if key not in ("num_views", "num_teachers", "samples")}
    return json_digest({**lasting, "teacher": {key: teacher[key] for key in teacher if key != "name"}})


def check_nodes(path: Path) -> None:
    """Raises ValueError unless all nodes have their own digests."""
    for file in path.rglob("zarr.json"):
        if any(part.endswith(".partial") for part in file.parts):
            continue
        node = json.loads(file.read_text())
        digest = node["attributes"].pop("node_digest")
        require(json_digest(node) == digest, f"{file} is not as it was written")


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


class Segment:
    """Samples that came into the store together: their ids, and the rows that they have in the arrays."""

    def __init__(self, start: int, ids: NDArray[np.int64]) -> None:
        self.start, self.stop, self.ids = start, start + len(ids), ids


def read_segments(path: Path) -> list[Segment]:
    root, manifest = open_store(path)
    segments: list[Segment] = []
    start, unit = 0, manifest["unit"]["samples"]
    for s, wanted in enumerate(manifest["samples"]):
        ids = np.asarray(root[f"samples/{s}"][:], np.int64)
        require(len(ids) == wanted["count"], f"{path} has {len(ids)} sample ids in segment {s}")
        require(sha256(array_bytes(ids, "<i8")) == wanted["digest"], f"{path} has other sample ids in segment {s}")
        require(bool(np.all(np.diff(ids) > 0)), f"{path} has sample ids out of order")
        segments.append(Segment(start, ids))
        start = -(-segments[-1].stop // unit) * unit
    return segments


def read_samples(path: Path) -> NDArray[np.int64]:
    """The ids of all labelled samples, segment after segment."""
    ids = np.concatenate([segment.ids for segment in read_segments(path)])
    require(len(np.unique(ids)) == len(ids), f"{path} has a sample in two segments")
    return ids


# Units


class Plane:
    """Where the labels of one view by one teacher are, and the records of the units that hold them."""

    def __init__(self, path: Path, teacher: int, view: int) -> None:
        self.root, self.shared = open_store(path)
        self.path, self.teacher, self.view = path, teacher, view
        self.segments = read_segments(path)
        self.num_views: int = self.shared["num_views"]
        require(0 <= teacher < self.shared["num_teachers"], f"{path} has no teacher {teacher}")
        self.group = self.root[str(teacher)]
        self.manifest: dict[str, Any] = self.group.attrs["fastlabel"]
        self.k: int = self.group["classes"].shape[2]
        check_codec(self.manifest["codec"], self.k)
        self.num_classes: int = self.manifest["codec"]["num_classes"]
        for name, width in (("classes", self.k), ("codes", self.k), ("tail", 2)):
            views, rows, found = self.group[name].shape
            enough = views >= self.num_views and rows >= self.segments[-1].stop and found == width
            require(enough, f"{path} has {name} of another shape than it needs")
        require(0 <= view < self.num_views, f"{path} has no view {view}")

    def units(self) -> Iterable[tuple[NDArray[np.int64], dict[str, Any]]]:
        """The sample ids and the record of each unit of the view."""
        unit_views, unit_samples = self.shared["unit"]["views"], self.shared["unit"]["samples"]
        digest = manifest_digest(self.shared, self.manifest)
        i = self.view // unit_views
        for segment in self.segments:
            for start in range(segment.start, segment.stop, unit_samples):
                stop = min(start + unit_samples, segment.stop)
                name = f"{self.teacher}/units/{i}.{start // unit_samples}"
                require(name in self.root, f"{self.path} has no record {name}")
                record: dict[str, Any] = self.root[name].attrs["fastlabel"]
                found = [record[key] for key in ("view_start", "sample_start", "sample_stop")]
                require(found == [i * unit_views, start, stop], f"record {name} of {self.path} is about another unit")
                require(record["view_stop"] > self.view, f"record {name} of {self.path} is of fewer views")
                for key in ("labels", "boxes"):
                    count = record["view_stop"] - record["view_start"]
                    require(len(record[key]) == count, f"record {name} of {self.path} lacks {key}")
                require(record["manifest"] == digest, f"record {name} of {self.path} was made under another manifest")
                ids = segment.ids[start - segment.start : stop - segment.start]
                require(record["samples"] == sha256(array_bytes(ids, "<i8")), f"record {name} is of other samples")
                yield ids, record

    def of_view(self, record: dict[str, Any], key: str) -> str:
        digest: str = record[key][self.view - record["view_start"]]
        return digest

    def labels(self, record: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        rows = slice(record["sample_start"], record["sample_stop"])
        classes, codes, tail = (self.group[name][self.view, rows] for name in ("classes", "codes", "tail"))
        wide = "<u4" if self.num_classes > 65536 else "<u2"
        digest = sha256(array_bytes(classes, wide), array_bytes(codes, "u1"), array_bytes(tail, "<u2"))
        require(digest == self.of_view(record, "labels"), f"{self.path}, view {self.view}, {rows}: damaged labels")
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
    """The [N, C] probabilities that a teacher gave under a view, row n to sample n of `read_samples`."""
    plane = Plane(path, teacher, view)
    rows = [
        probabilities(*label, plane.num_classes, temperature)
        for _, record in plane.units()
        for label in zip(*(values.tolist() for values in plane.labels(record)), strict=True)
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
    for ids, record in plane.units():
        boxes = [crop_box(plane.shared["views"], view, n, int(heights[n]), int(widths[n])) for n in ids.tolist()]
        require(sha256(array_bytes(boxes, "<i4")) == plane.of_view(record, "boxes"), f"other boxes in view {view}")
