"""The teachers of a labelling run: loaded as people name them, and described as the manifest keeps them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fastlabel.dataset.beton import Beton
from fastlabel.digests import canonical_digest
from fastlabel.errors import InputError, ManifestMismatchError, TeacherError
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.manifest import TeacherInfo
from fastlabel.store.teacher_info import MemberInfo
from fastlabel.teachers.class_map import Classes, pairs_of, read_class_map, resolve_class_map
from fastlabel.teachers.exported import check_trust
from fastlabel.teachers.labelling_network import ENSEMBLES, Ensemble, LabellingNetwork
from fastlabel.teachers.precision import check_precision
from fastlabel.teachers.sources import Source, load_source
from fastlabel.teachers.teacher import Teacher

PathLike = str | os.PathLike[str]


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
        class_map: which of its classes each class of the dataset is: a file, a mapping, or a list in order.
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


AnyTeacher = Teacher | TeacherSpec | str | os.PathLike[str]


def as_spec(source: TeacherSpec | PathLike) -> TeacherSpec:
    """The source as a spec, if it is none."""
    return source if isinstance(source, TeacherSpec) else TeacherSpec(source)


def name_of(source: AnyTeacher) -> str:
    """What to call a source in a message."""
    return source.name if isinstance(source, Teacher) else str(as_spec(source).source)


def load_teachers(
    teachers: Sequence[AnyTeacher],
    device: torch.device,
    beton: Beton | None = None,
    size: int | None = None,
    ensemble: str | None = None,
) -> list[Teacher]:
    """Teachers that are named, in eval mode on a device; loaded ones are taken as they are.

    Args:
        beton: the dataset that they shall label: whose classes a class map speaks of.
        size: of the views in pixels, if that is settled: what a teacher takes that says no size;
            default what the first takes.
        ensemble: "mean-logits" or "mean-probs" makes them one teacher.

    Raises:
        InputError: a name, an option or a class map cannot be used. TeacherError: weights cannot be loaded.
    """
    if not teachers:
        raise InputError("no teacher; give at least one: a checkpoint, torchvision:NAME@WEIGHTS, timm:NAME ...")
    loaded = [_load(teachers[0], device, beton, size)]
    views = size or loaded[0].model.spec.size
    loaded += [_load(teacher, device, beton, views) for teacher in teachers[1:]]
    return loaded if ensemble is None else [combine(loaded, ensemble, views)]


def combine(members: Sequence[Teacher], rule: str, size: int) -> Teacher:
    """Several teachers as one, which takes images of `size` pixels. InputError unless their labels go together."""
    if rule not in ENSEMBLES:
        raise InputError(f"unknown ensemble {rule!r}: known are {', '.join(ENSEMBLES)}")
    if len(members) < 2:
        raise InputError("an ensemble needs two teachers or more")
    for what, values in (
        ("numbers of classes", [member.num_classes for member in members]),
        (
            "choices of classes",
            [(member.keeps_classes, member.keeps_classes and member.class_map) for member in members],
        ),
        ("precisions", [(member.precision, member.tf32) for member in members]),
        ("forwards", [member.forward for member in members]),
    ):
        if any(value != values[0] for value in values):
            raise InputError(f"the teachers of an ensemble have different {what}: {', '.join(map(str, values))}")
    first = members[0]
    model: Any = Ensemble(rule, [LabellingNetwork(member) for member in members], first.num_classes, size)
    return Teacher(
        model=model.eval(),
        name="+".join(member.name for member in members),
        sha256=canonical_digest({"members": [member.sha256 for member in members]}),
        epoch=None,
        precision=first.precision,
        tf32=first.tf32,
        forward=first.forward,
        class_map=first.class_map if first.keeps_classes else None,
        keeps_classes=first.keeps_classes,
        ensemble=rule,
        members=tuple(members),
    )


def describe(teacher: Teacher, beton: Beton, k: int, device: torch.device, forward_batch: int) -> TeacherInfo:
    """What the manifest keeps of a teacher that labels a dataset. TeacherError unless it fits."""
    spec = teacher.model.spec
    if teacher.num_classes != beton.num_classes and not teacher.keeps_classes:
        raise TeacherError(
            f"teacher {teacher.name} has {teacher.num_classes} classes, {beton.path} has {beton.num_classes}; "
            "take a teacher of this dataset, say with --class-map FILE which of its classes each of the dataset's is, "
            "or label over its own classes with --keep-teacher-classes"
        )
    for member in teacher.members or (teacher,):
        if member.fixed_batch not in (None, forward_batch):
            raise TeacherError(
                f"teacher {member.name} was exported for batches of exactly {member.fixed_batch}: give --forward-batch "
                f"{member.fixed_batch}, or export it with a dynamic batch"
            )
    return TeacherInfo(
        name=teacher.name,
        arch=spec.arch,
        sha256=teacher.sha256,
        epoch=teacher.epoch,
        size=spec.size,
        mean=spec.mean,
        std=spec.std,
        precision=teacher.precision,
        tf32=teacher.tf32,
        forward=teacher.forward,
        device=device.type,
        forward_batch=forward_batch,
        codec=TopKCodec(k, teacher.num_classes),
        class_map=teacher.class_map,
        keeps_classes=teacher.keeps_classes,
        ensemble=teacher.ensemble,
        members=tuple(map(_member, teacher.members)),
    )


def recorded_teacher(info: TeacherInfo, sources: Sequence[AnyTeacher], device: torch.device, owner: str) -> Teacher:
    """The teacher that a manifest describes, its weights from these sources: one, or one for each member.

    All but the weights, and whether a program is trusted, is as recorded: normalisation, size, precision, classes.
    ManifestMismatchError, which calls the recorded one `owner`, where the sources are other networks or weights.
    """
    recorded: Sequence[TeacherInfo | MemberInfo] = info.members or (info,)
    if len(sources) != len(recorded):
        raise ManifestMismatchError(f"{owner} is made of {len(recorded)} networks; {len(sources)} were given")
    loaded = []
    for source, one in zip(sources, recorded, strict=True):
        teacher = source if isinstance(source, Teacher) else _load_recorded(source, one, info, device, owner)
        if teacher.sha256 != one.sha256:
            raise ManifestMismatchError(
                f"{name_of(source)} (weights {teacher.sha256[:12]}) is not {owner} "
                f"(weights {one.sha256[:12]}): give the one that labelled it"
            )
        loaded.append(teacher)
    return loaded[0] if info.ensemble is None else combine(loaded, info.ensemble, info.size)


def _load_recorded(
    source: TeacherSpec | PathLike, one: TeacherInfo | MemberInfo, info: TeacherInfo, device: torch.device, owner: str
) -> Teacher:
    spec = as_spec(source)
    check_trust(spec.source, spec.trust_program)
    wanted = Source(spec.source, one.arch, one.mean, one.std, one.size, spec.trust_program)
    try:
        found = load_source(wanted, device, one.size)
    except InputError as error:
        raise ManifestMismatchError(f"{spec.source} is not {owner}: {error}") from error
    return replace(
        found,
        precision=info.precision,
        tf32=info.tf32,
        forward=info.forward,
        class_map=one.class_map,
        keeps_classes=info.keeps_classes,
    )


def _load(teacher: AnyTeacher, device: torch.device, beton: Beton | None, size: int | None) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher
    spec = as_spec(teacher)
    check_precision(spec.precision, spec.tf32, device.type, spec.forward)
    loaded = load_source(
        Source(spec.source, spec.arch, spec.mean, spec.std, spec.size, spec.trust_program), device, size
    )
    how = {"precision": spec.precision, "tf32": spec.tf32, "forward": spec.forward}
    loaded = replace(loaded, **how, keeps_classes=spec.keep_classes)
    if spec.class_map is None:
        return loaded
    if beton is None:
        raise InputError("a class map needs the dataset whose classes it speaks of")
    given = spec.class_map
    pairs = read_class_map(given) if isinstance(given, (str, os.PathLike)) else pairs_of(given)
    ours = Classes(str(beton.path), beton.num_classes, tuple(beton.class_names or ()))
    theirs = Classes(f"teacher {loaded.name}", loaded.model.spec.num_classes, loaded.categories)
    return replace(loaded, class_map=resolve_class_map(pairs, ours, theirs))


def _member(teacher: Teacher) -> MemberInfo:
    spec = teacher.model.spec
    return MemberInfo(
        spec.arch, teacher.sha256, teacher.epoch, spec.size, spec.mean, spec.std, class_map=teacher.class_map
    )
