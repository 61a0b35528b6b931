"""What a store belongs to: dataset, samples, views, unit and teachers. See docs/format.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.codec import TopKCodec
from fastlabel.errors import ManifestMismatchError, StoreError
from fastlabel.views import ViewPolicy

FORMAT, VERSION = "fastlabel", 1
# How pixels become crops: a store made by another arithmetic holds labels of other pixels.
PIXELS = {"jpeg": "libjpeg-islow", "filter": "triangle-q14"}
UNIT_SAMPLES, DECODE_VIEWS, MAX_UNIT_VIEWS = 65536, 8, 64
VIEW_BYTES = 64 << 20  # of one view of a unit, before compression


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, in ASCII: equal values have equal texts, and 1 is not true."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_digest(value: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of ``canonical_json``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def ids_digest(ids: NDArray[np.int64]) -> str:
    """SHA-256 (hex) of sample ids as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(ids, "<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class DatasetInfo:
    """The .beton file: how many samples and classes, and its fingerprint (``Beton.fingerprint``)."""

    num_samples: int
    num_classes: int
    fingerprint: str


@dataclass(frozen=True)
class SampleInfo:
    """Which samples are labelled: how many, and the digest of their ids (``ids_digest``)."""

    count: int
    digest: str


@dataclass(frozen=True)
class Unit:
    """A group of views times a range of samples: written, checked, committed and repaired as one."""

    views: int
    samples: int

    @classmethod
    def for_store(cls, num_views: int, num_samples: int, label_bytes: int) -> Unit:
        """The views of one decode times 65,536 samples; a small dataset takes more views per unit.

        Labels of ``label_bytes`` that keep very many classes take fewer samples: a unit is held in memory, and a
        compressor takes no more than 2 GiB at once.
        """
        samples = min(num_samples, UNIT_SAMPLES, max(1, VIEW_BYTES // label_bytes))
        most = max(DECODE_VIEWS, min(MAX_UNIT_VIEWS, DECODE_VIEWS * UNIT_SAMPLES // num_samples))
        # Groups of equal size, so that no group is left nearly empty.
        groups = -(-num_views // most)
        return cls(-(-num_views // groups), samples)


@dataclass(frozen=True)
class TeacherInfo:
    """One teacher, and everything of its forward pass that can change a label.

    Attributes:
        name: for people; ``sha256`` is what identifies the weights.
        size: side in pixels of the images that it takes.
        precision: "fp32", and whether CUDA may use TF32.
        device: "cpu" or "cuda".
        forward_batch: samples in each forward pass: a pass is not batch-invariant.
    """

    name: str
    arch: str
    sha256: str
    epoch: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str
    tf32: bool
    device: str
    forward_batch: int
    codec: TopKCodec

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std), "codec": self.codec.to_dict()}

    def identity(self) -> dict[str, Any]:
        """Everything but the name: the same weights under another path are the same teacher."""
        return {key: value for key, value in self.to_dict().items() if key != "name"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TeacherInfo:
        values = {field.name: data[field.name] for field in fields(cls)}
        codec = TopKCodec.from_dict(values["codec"])
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"]), "codec": codec})


@dataclass(frozen=True)
class Manifest:
    """What a store belongs to. Immutable: more views or another teacher leave the parts that exist as they are."""

    dataset: DatasetInfo
    samples: SampleInfo
    views: ViewPolicy
    unit: Unit
    teachers: tuple[TeacherInfo, ...]

    def root_dict(self) -> dict[str, Any]:
        """The part that all teachers share, as the root group's attribute ``fastlabel`` keeps it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": asdict(self.dataset),
            "samples": asdict(self.samples),
            "views": self.views.to_dict(),
            "pixels": PIXELS,
            "unit": asdict(self.unit),
        }

    def to_dict(self) -> dict[str, Any]:
        return self.root_dict() | {"teachers": [teacher.to_dict() for teacher in self.teachers]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """Read and check a manifest; StoreError says which rule it breaks."""
        check_version(data)
        try:
            manifest = cls(
                DatasetInfo(**data["dataset"]),
                SampleInfo(**data["samples"]),
                ViewPolicy.from_dict(data["views"]),
                Unit(**data["unit"]),
                tuple(TeacherInfo.from_dict(teacher) for teacher in data["teachers"]),
            )
            manifest.validate()
        except KeyError as error:
            raise StoreError(f"the store's manifest cannot be read: {error} is missing") from error
        except (AttributeError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"the store's manifest cannot be read: {error}") from error
        # What this code does not know, or reads as something else, must not be passed over.
        if canonical_json(data) != canonical_json(manifest.to_dict()):
            where, found, known = first_difference(dict(data), manifest.to_dict()) or ("one value", "?", "?")
            raise StoreError(
                f"the store's manifest has {where} = {found}; this version of fastlabel knows {known} there"
            )
        return manifest

    def validate(self) -> None:
        """StoreError for the first rule that is broken."""
        counts = (self.dataset.num_samples, self.dataset.num_classes, self.samples.count, *asdict(self.unit).values())
        if not all(type(value) is int and value > 0 for value in counts):
            raise StoreError(f"the store's manifest has a count that is not a positive integer: {counts}")
        if self.samples.count > self.dataset.num_samples:
            raise StoreError(f"the store's manifest labels {self.samples.count} samples of {self.dataset.num_samples}")
        if not self.teachers:
            raise StoreError("the store's manifest names no teacher")
        for teacher in self.teachers:
            if teacher.forward_batch < 1:
                raise StoreError(f"teacher {teacher.name}: forward_batch {teacher.forward_batch} must be at least 1")
            if teacher.size != self.views.size:
                raise StoreError(
                    f"teacher {teacher.name} takes {teacher.size} pixels, the views have {self.views.size}"
                )

    def digest(self, teacher: int) -> str:
        """What a unit's record carries: the shared part together with this teacher's, but for its name."""
        return canonical_digest(self.root_dict() | {"teacher": self.teachers[teacher].identity()})


def check_version(data: Mapping[str, Any]) -> None:
    """StoreError unless this is a manifest of the version that this code reads."""
    if data.get("format") != FORMAT:
        raise StoreError(f"not a fastlabel store: its manifest has format {data.get('format')!r}")
    if data.get("version") != VERSION:
        raise StoreError(
            f"the store has format version {data.get('version')!r}, this fastlabel reads version {VERSION}; "
            "install the fastlabel that wrote it, or label again"
        )


def check_same(path: str, found: Manifest, wanted: Manifest) -> None:
    """ManifestMismatchError that names the first difference, unless both are the same run."""
    old_run, new_run = (
        manifest.root_dict() | {"teachers": [teacher.identity() for teacher in manifest.teachers]}
        for manifest in (found, wanted)
    )
    difference = first_difference(old_run, new_run)
    if difference:
        where, old, new = difference
        raise ManifestMismatchError(
            f"{path} is the store of another run: its {where} is {old}, this run asks for {new}; "
            "choose another path, or give the flags that it was made with"
        )


def first_difference(found: Any, wanted: Any, where: str = "") -> tuple[str, str, str] | None:
    """(dotted path, found, wanted) of the first place where two JSON values differ, or None."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = list(dict.fromkeys([*found, *wanted]))
        pairs = [(f"{where}.{key}" if where else key, found.get(key), wanted.get(key)) for key in keys]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(found, wanted, strict=True))]
    else:
        return None if canonical_json(found) == canonical_json(wanted) else (where, _brief(found), _brief(wanted))
    return next((d for at, a, b in pairs if (d := first_difference(a, b, at))), None)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
