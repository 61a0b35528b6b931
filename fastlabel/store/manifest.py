"""What a store belongs to: dataset, samples, views, unit and teachers. See docs/format.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from fastlabel.digests import canonical_digest, canonical_json, first_difference
from fastlabel.errors import ManifestMismatchError, StoreError
from fastlabel.store.teacher_info import TeacherInfo
from fastlabel.views import MAX_VIEW, STORED, ViewPolicy

FORMAT, VERSION = "fastlabel", 1
# How pixels become crops: a store made by another arithmetic holds labels of other pixels.
PIXELS = {"jpeg": "libjpeg-islow", "filter": "triangle-q14"}
UNIT_SAMPLES, DECODE_VIEWS, MAX_UNIT_VIEWS = 65536, 8, 64
VIEW_BYTES = 64 << 20  # of one view of a unit, before compression
MAX_CHUNK_BYTES = 2**31 - 33  # what Blosc can compress at once
# Rows of a plane are int32. What a manifest promises beyond these would cost time or memory before it is disproved.
MAX_SAMPLES, MAX_TEACHERS = 2**31 - 1, 1 << 16


@dataclass(frozen=True)
class DatasetInfo:
    """The .beton file: how many samples and classes, and its fingerprint (``Beton.fingerprint``)."""

    num_samples: int
    num_classes: int
    fingerprint: str


@dataclass(frozen=True)
class Segment:
    """Samples that came into a store at one time: how many, and the digest of their ids (``ids_digest``)."""

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
class Manifest:
    """What a store belongs to, and its extent. Immutable: growing gives it another one with the same ``shared_dict``.

    Attributes:
        samples: the labelled samples, in segments; the rows of each start at a multiple of ``unit.samples``.
    """

    dataset: DatasetInfo
    samples: tuple[Segment, ...]
    views: ViewPolicy
    num_views: int
    unit: Unit
    teachers: tuple[TeacherInfo, ...]

    @property
    def num_labelled(self) -> int:
        """Samples that the store labels."""
        return sum(segment.count for segment in self.samples)

    @cached_property
    def segments(self) -> tuple[range, ...]:
        """The rows of each segment."""
        found: list[range] = []
        start = 0
        for segment in self.samples:
            found.append(range(start, start + segment.count))
            start += -(-segment.count // self.unit.samples) * self.unit.samples
        return tuple(found)

    def plane_rows(self, start: int, stop: int) -> slice:
        """Where rows of one segment lie in a plane, which has the rows in use alone."""
        before = 0
        for rows in self.segments:
            if start in rows:
                return slice(before + start - rows.start, before + stop - rows.start)
            before += len(rows)
        raise ValueError(f"rows {start} to {stop} are in no segment")

    @property
    def num_rows(self) -> int:
        """Rows up to the last one in use; between two segments there may be some that are not."""
        return self.segments[-1].stop

    def shared_dict(self) -> dict[str, Any]:
        """What every label depends on, whatever the store's extent."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": asdict(self.dataset),
            "views": self.views.to_dict(),
            "pixels": PIXELS,
            "unit": asdict(self.unit),
        }

    def root_dict(self) -> dict[str, Any]:
        """The part that is not of one teacher, as the root group's attribute ``fastlabel`` keeps it."""
        extent = {
            "num_views": self.num_views,
            "num_teachers": len(self.teachers),
            "samples": [asdict(segment) for segment in self.samples],
        }
        return self.shared_dict() | extent

    def to_dict(self) -> dict[str, Any]:
        return self.root_dict() | {"teachers": [teacher.to_dict() for teacher in self.teachers]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """Read and check a manifest; StoreError says which rule it breaks."""
        check_version(data)
        try:
            manifest = cls(
                DatasetInfo(**data["dataset"]),
                tuple(Segment(**segment) for segment in data["samples"]),
                ViewPolicy.from_dict(data["views"]),
                data["num_views"],
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
        counts = (self.dataset.num_samples, self.dataset.num_classes, self.num_views, *asdict(self.unit).values())
        counts += tuple(segment.count for segment in self.samples)
        if not all(type(value) is int and value > 0 for value in counts):
            raise StoreError(f"the store's manifest has a count that is not a positive integer: {counts}")
        if self.num_views > MAX_VIEW or self.dataset.num_samples > MAX_SAMPLES:
            raise StoreError(
                f"the store's manifest has {self.num_views} views of {self.dataset.num_samples} samples, more than "
                f"{MAX_VIEW} of {MAX_SAMPLES}"
            )
        digests = len(self.views.digests)
        if self.views.name == STORED and self.num_views > digests:
            raise StoreError(f"the store's manifest has {self.num_views} views, and stored crops of {digests}")
        if not 0 < self.num_labelled <= self.dataset.num_samples:
            raise StoreError(f"the store's manifest labels {self.num_labelled} samples of {self.dataset.num_samples}")
        if not self.teachers:
            raise StoreError("the store's manifest names no teacher")
        for teacher in self.teachers:
            if teacher.forward_batch < 1:
                raise StoreError(f"teacher {teacher.name}: forward_batch {teacher.forward_batch} must be at least 1")
            teacher.check_classes(self.dataset.num_classes)
            view_bytes = self.unit.samples * teacher.codec.widest_bytes
            if view_bytes > MAX_CHUNK_BYTES:
                raise StoreError(
                    f"teacher {teacher.name}: the top {teacher.codec.k} classes of the {self.unit.samples} samples of "
                    f"a unit take {view_bytes} bytes, more than {MAX_CHUNK_BYTES}; keep fewer classes or "
                    "coefficients, or use a store of its own for this teacher"
                )
            if view_bytes > VIEW_BYTES and self.unit.samples > self.num_labelled:
                raise StoreError(
                    f"the store's manifest has units of {self.unit.samples} samples, of which {self.num_labelled} are "
                    "labelled: they would be nearly empty"
                )

    def digest(self, teacher: int) -> str:
        """What a unit's record carries: the shared part together with this teacher's, but for its name."""
        return canonical_digest(self.shared_dict() | {"teacher": self.teachers[teacher].identity()})


def check_version(data: Mapping[str, Any]) -> None:
    """StoreError unless this is a manifest of the version that this code reads."""
    if data.get("format") != FORMAT:
        raise StoreError(f"not a fastlabel store: its manifest has format {data.get('format')!r}")
    if data.get("version") != VERSION:
        raise StoreError(
            f"the store has format version {data.get('version')!r}, this fastlabel reads version {VERSION}; "
            "install the fastlabel that wrote it, or label again"
        )


def check_same(path: str, found: Any, wanted: Any, where: str = "") -> None:
    """ManifestMismatchError that names the first difference of two JSON values, unless there is none."""
    difference = first_difference(found, wanted, where)
    if difference:
        where, old, new = difference
        raise ManifestMismatchError(
            f"{path} is the store of another run: its {where} is {old}, this run asks for {new}; "
            "choose another path, or give the flags that it was made with"
        )
