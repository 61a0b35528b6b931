"""The options that say how teachers are loaded, and the teachers that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fastlabel.teachers.spec import TeacherSpec

Command = TypeVar("Command", bound=Callable[..., Any])

ITS_OWN = "-"  # for one teacher of several: what its source says
_EACH = f"Once for all teachers, or once for each in order ({ITS_OWN}: what its source says)."
trust_option = click.option(
    "--trust-program",
    is_flag=True,
    help="Load teachers that are .pt2 programs. Loading one can run any code: only where you trust its maker.",
)
_OPTIONS = [
    click.option(
        "--teacher",
        "teachers",
        metavar="SPEC",
        multiple=True,
        required=True,
        help="torchvision:NAME@WEIGHTS, timm:NAME, torchvision:NAME@FILE, timm:NAME@FILE, or a FILE: a checkpoint of "
        "train-teacher, a state dict (with --arch), a torch.export program (.pt2). Repeat it for several teachers "
        "over the same crops. docs/teachers.md has all of it.",
    ),
    click.option(
        "--arch", multiple=True, metavar="NAME", help=f"Network of a state dict: resnet50, timm:NAME. {_EACH}"
    ),
    click.option("--mean", multiple=True, metavar="R,G,B", help=f"Of colours from 0 to 1. {_EACH}"),
    click.option("--std", multiple=True, metavar="R,G,B", help=f"Of colours from 0 to 1. {_EACH}"),
    click.option(
        "--teacher-size", multiple=True, metavar="S", help=f"Side of the images that a teacher takes. {_EACH}"
    ),
    click.option(
        "--precision",
        multiple=True,
        metavar="fp32|bf16|fp16",
        help=f"Of the forward pass; part of what a label is. {_EACH}  [default: fp32]",
    ),
    click.option("--tf32/--no-tf32", default=False, show_default=True, help="Let CUDA use TF32 for float32 products."),
    click.option(
        "--forward",
        type=click.Choice(["eager", "compiled"]),
        default="eager",
        show_default=True,
        help="compiled: batch norm folded and run by torch.compile, faster; part of what a label is.",
    ),
    click.option("--class-map", multiple=True, metavar="FILE", help=f"Which of its classes each of ours is. {_EACH}"),
    click.option(
        "--keep-teacher-classes",
        "keep_classes",
        is_flag=True,
        help="Label over all classes of the teachers themselves.",
    ),
    click.option(
        "--ensemble",
        type=click.Choice(["mean-logits", "mean-probs", "scaled-logits"]),
        help="Store all teachers as one: the mean of their logits, of their probabilities, or of logits of one norm.",
    ),
    trust_option,
]


def teacher_options(command: Command) -> Command:
    """Add --teacher, and the options that `take_teachers` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_teachers(options: dict[str, Any]) -> list[TeacherSpec]:
    """The teachers of these options, which are taken out of `options`; --ensemble stays."""
    from fastlabel.teachers.spec import TeacherSpec

    sources = options.pop("teachers")
    same = {name: options.pop(name) for name in ("tf32", "forward", "keep_classes", "trust_program")}
    given: dict[str, Sequence[Any]] = {
        "arch": _for_each(options, "arch", sources, str),
        "mean": _for_each(options, "mean", sources, _colours),
        "std": _for_each(options, "std", sources, _colours),
        "size": _for_each(options, "teacher_size", sources, _pixels),
        "precision": _for_each(options, "precision", sources, str),
        "class_map": _for_each(options, "class_map", sources, str),
    }
    return [
        TeacherSpec(
            source,
            **same,
            **{name: values[index] for name, values in given.items() if values[index] is not None},
        )
        for index, source in enumerate(sources)
    ]


def named_teachers(sources: Sequence[str], trust_program: bool) -> list[TeacherSpec]:
    """Teachers of a store, of which all but the weights is recorded there."""
    from fastlabel.teachers.spec import TeacherSpec

    return [TeacherSpec(source, trust_program=trust_program) for source in sources]


def _for_each(options: dict[str, Any], name: str, sources: Sequence[str], read: Callable[[str], Any]) -> Sequence[Any]:
    values = options.pop(name)
    flag = f"--{name.replace('_', '-')}"
    if len(values) not in (0, 1, len(sources)):
        raise click.UsageError(
            f"{flag} is given {len(values)} times for {len(sources)} teachers: give it once for all, or once for "
            f"each in order ({ITS_OWN} for what a source says itself)"
        )
    try:
        found = [None if value == ITS_OWN else read(value) for value in values]
    except ValueError as error:
        raise click.UsageError(f"{flag}: {error}") from error
    return (found or [None]) * len(sources) if len(found) < 2 else found


def _colours(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.replace(",", " ").split())


def _pixels(text: str) -> int:
    if int(text) < 1:
        raise ValueError(f"expected a size in pixels, found {text}")
    return int(text)
