"""A teacher as one names it, and who wins where the caller, a sidecar and the source say different things."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastlabel.errors import InputError
from fastlabel.models.classifier import check_size
from fastlabel.teachers.teacher import Teacher

PathLike = str | os.PathLike[str]
PROGRAM_SUFFIX = ".pt2"


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher as one names it. docs/teachers.md has all of it.

    Attributes:
        source: torchvision:NAME@WEIGHTS, timm:NAME, or the path of a checkpoint, a state dict or a .pt2 program.
        arch: the network of a bare state dict.
        mean, std: of colours from 0 to 1; default what the source says, else ImageNet's.
        size: side in pixels of the images that it takes; default what the source says, else that of the views.
        precision, tf32: "fp32", "bf16" or "fp16"; whether float32 products on CUDA may be TF32.
        forward: "eager", or "compiled": batch norm folded and run by torch.compile, whose last bits differ.
        class_map: which of its classes each class of the dataset is: a file, a mapping, a list in order, or "in-order"
            where both have the same ones in the same order.
        keep_classes: label over all its own classes.
        trust_program: load a .pt2 program, which runs code of its maker's choice.
    """

    source: PathLike
    arch: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int | None = None
    precision: str = "fp32"
    tf32: bool = False
    forward: str = "eager"
    class_map: PathLike | Mapping[Any, Any] | Sequence[Any] | None = None
    keep_classes: bool = False
    trust_program: bool = False

    def check_trust(self) -> None:
        """InputError for a program that nobody says is to be trusted: loading one is running code."""
        if str(self.source).endswith(PROGRAM_SUFFIX) and not self.trust_program:
            raise InputError(
                f"{self.source} is a program, and loading one can run any code that its maker put there: where you "
                "trust it, give --trust-program (in Python TeacherSpec(..., trust_program=True)); else give a state "
                "dict, which is only data"
            )

    def check_arch(self, arch: str) -> None:
        """InputError where another network is asked for than the source is by itself."""
        if self.arch is not None and _bare(self.arch) != _bare(arch):
            raise InputError(f"{self.source} is {arch} by itself, not {self.arch}: leave --arch away")


AnyTeacher = Teacher | TeacherSpec | str | os.PathLike[str]


def as_spec(source: TeacherSpec | PathLike) -> TeacherSpec:
    """The source as a spec, if it is none."""
    return source if isinstance(source, TeacherSpec) else TeacherSpec(source)


def name_of(source: AnyTeacher) -> str:
    """What to call a source in a message."""
    return source.name if isinstance(source, Teacher) else str(as_spec(source).source)


def resolve(given: TeacherSpec, sidecar: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """The `mean`, `std` and `size` of a teacher: of three that say it, who wins.

    The caller wins over the JSON file beside the weights, and that over what the source says by itself; None is where
    nobody says it. InputError for a mean or std that is not three finite numbers, or a size that is none.
    """
    found = {}
    for name in ("mean", "std", "size"):
        said = (getattr(given, name), sidecar.get(name), source.get(name))
        found[name] = next((value for value in said if value is not None), None)
    if found["size"] is not None:
        check_size(found["size"])
    colours = {name: check_colours(name, found[name]) for name in ("mean", "std") if found[name] is not None}
    return found | colours


def check_colours(name: str, values: Any) -> tuple[float, ...]:
    """Three finite numbers, one for each colour; a single one goes for all. InputError otherwise."""
    try:
        several = isinstance(values, (list, tuple)) or getattr(values, "ndim", 0) == 1
        numbers = tuple(float(value) for value in (values if several else [values]))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be 3 numbers, one for each colour, not {values!r}") from error
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or any(number != number or abs(number) == float("inf") for number in numbers):
        raise InputError(f"{name} must be 3 numbers, one for each colour, not {values!r}")
    return numbers


def _bare(arch: str) -> str:
    # timm:NAME.TAG: the tag says which weights.
    return arch.removeprefix("torchvision:").partition(".")[0]
