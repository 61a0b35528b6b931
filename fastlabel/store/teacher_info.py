"""What a store's manifest keeps of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fastlabel.errors import StoreError
from fastlabel.labels.codec import TopKCodec

EAGER = "eager"
RESIZE = "bilinear-antialias"  # from the views' size to a teacher's own


@dataclass(frozen=True)
class MemberInfo:
    """One network of an ensemble; its attributes are those of ``TeacherInfo``."""

    arch: str
    sha256: str
    epoch: int | None
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_map: tuple[int, ...] | None

    def to_dict(self) -> dict[str, Any]:
        return _plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MemberInfo:
        if set(data) != {field.name for field in fields(cls)}:
            raise ValueError(f"a member of an ensemble has the keys {', '.join(data)}")
        return cls(**{name: _frozen(value) for name, value in data.items()})


@dataclass(frozen=True)
class TeacherInfo:
    """One teacher, and everything of its forward pass that can change a label.

    Attributes:
        name: for people; ``sha256`` is what identifies the weights.
        epoch: of a checkpoint of train-teacher, else None.
        size: side in pixels of the images that it takes; views of another size are resized as ``resize`` says.
        precision: "fp32", "bf16" or "fp16", and whether CUDA may use TF32.
        forward: "eager", or "compiled" by torch.compile; not written where it is "eager".
        device: "cpu" or "cuda".
        forward_batch: samples in each forward pass: a pass is not batch-invariant.
        class_map: the teacher's class of each class of the dataset, None where they are the same.
        keeps_classes: the labels are over the teacher's own classes, not over the dataset's.
        ensemble: how the logits of ``members`` are combined, None for a single network.
    """

    name: str
    arch: str
    sha256: str
    epoch: int | None
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str
    tf32: bool
    device: str
    forward_batch: int
    codec: TopKCodec
    resize: str = RESIZE
    class_map: tuple[int, ...] | None = None
    keeps_classes: bool = False
    ensemble: str | None = None
    members: tuple[MemberInfo, ...] = ()
    forward: str = EAGER

    def to_dict(self) -> dict[str, Any]:
        members = [member.to_dict() for member in self.members]
        values = _plain(self) | {"codec": self.codec.to_dict(), "members": members}
        if self.forward == EAGER:
            del values["forward"]
        return values

    def identity(self) -> dict[str, Any]:
        """Everything but the name: the same weights under another path are the same teacher."""
        return {key: value for key, value in self.to_dict().items() if key != "name"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TeacherInfo:
        data = {"forward": EAGER} | dict(data)
        values = {field.name: _frozen(data[field.name]) for field in fields(cls)}
        codec, members = TopKCodec.from_dict(values["codec"]), tuple(map(MemberInfo.from_dict, values["members"]))
        return cls(**values | {"codec": codec, "members": members})

    def check_classes(self, dataset_classes: int) -> None:
        """StoreError unless its labels are over the dataset's classes, or over its own as it says."""
        expected = self.codec.num_classes if self.keeps_classes else dataset_classes
        maps = [member.class_map for member in self.members] + [self.class_map]
        if self.codec.num_classes != expected or any(
            len(columns) != dataset_classes or (self.keeps_classes and max(columns) >= expected)
            for columns in maps
            if columns is not None
        ):
            raise StoreError(
                f"teacher {self.name}: its labels of {self.codec.num_classes} classes or its class map do not fit the "
                f"{dataset_classes} classes of the dataset"
            )


def _plain(info: TeacherInfo | MemberInfo) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(info).items()}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
