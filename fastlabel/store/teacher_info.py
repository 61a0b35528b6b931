"""What a store's manifest keeps of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fastlabel.errors import StoreError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.transform_codec import codec_from_dict

EAGER = "eager"
RESIZE = "bilinear-antialias"  # from the views' size to a teacher's own


# What differs between the networks of an ensemble; all else is as it says of all of them.
_OF_A_MEMBER = ("arch", "sha256", "epoch", "size", "mean", "std", "class_map")


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
        members: its networks, each as if it were the whole teacher.
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
    members: tuple[TeacherInfo, ...] = ()
    forward: str = EAGER

    def to_dict(self) -> dict[str, Any]:
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        values["codec"] = self.codec.to_dict()
        values["members"] = [{key: _plain(getattr(one, key)) for key in _OF_A_MEMBER} for one in self.members]
        if self.forward == EAGER:
            del values["forward"]
        return values

    def member(self, **values: Any) -> TeacherInfo:
        """One network of this ensemble as if it were the whole teacher; what is not given is as here."""
        return replace(self, ensemble=None, members=(), **values)

    @property
    def networks(self) -> tuple[TeacherInfo, ...]:
        """The members of an ensemble, or the one network that this is."""
        return self.members or (self,)

    def identity(self) -> dict[str, Any]:
        """Everything but the name: the same weights under another path are the same teacher."""
        return {key: value for key, value in self.to_dict().items() if key != "name"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TeacherInfo:
        data = {"forward": EAGER} | dict(data)
        values = {field.name: _frozen(data[field.name]) for field in fields(cls)}
        whole = cls(**values | {"codec": codec_from_dict(values["codec"]), "members": ()})
        for member in values["members"]:
            if set(member) != set(_OF_A_MEMBER):
                raise ValueError(f"a member of an ensemble has the keys {', '.join(member)}")
        members = ({name: _frozen(value) for name, value in member.items()} for member in values["members"])
        return replace(whole, members=tuple(whole.member(**member) for member in members))

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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
