"""A teacher and what a manifest records of it: described, loaded again, found among what somebody gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fastlabel.dataset.beton import Beton
from fastlabel.errors import FastlabelError, InputError, ManifestMismatchError, TeacherError
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.manifest import Manifest, TeacherInfo
from fastlabel.teachers.ensemble import combine
from fastlabel.teachers.sources import load_source
from fastlabel.teachers.spec import AnyTeacher, PathLike, TeacherSpec, as_spec, name_of
from fastlabel.teachers.teacher import OWN, Teacher


def describe(
    teacher: Teacher, beton: Beton, k: int, device: torch.device, forward_batch: int, codec: TopKCodec | None = None
) -> TeacherInfo:
    """What the manifest keeps of a teacher of a dataset: by `codec`, else the top k. TeacherError if it is none."""
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
    info = TeacherInfo(
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
        codec=codec or TopKCodec(k, teacher.num_classes),
        class_map=teacher.class_map,
        keeps_classes=teacher.keeps_classes,
        ensemble=teacher.ensemble,
    )
    return replace(info, members=tuple(_member(info, member) for member in teacher.members))


def recorded_teacher(info: TeacherInfo, sources: Sequence[AnyTeacher], device: torch.device, owner: str) -> Teacher:
    """The teacher that a manifest describes, its weights from these sources: one, or one for each member.

    All but the weights, and whether a program is trusted, is as recorded: normalisation, size, precision, classes.
    ManifestMismatchError, which calls the recorded one `owner`, where the sources are other networks or weights.
    """
    networks = info.networks
    if len(sources) != len(networks):
        raise ManifestMismatchError(f"{owner} is made of {len(networks)} networks; {len(sources)} were given")
    loaded = []
    for source, one in zip(sources, networks, strict=True):
        teacher = _as_recorded(source if isinstance(source, Teacher) else _load(source, one, device, owner), one)
        if teacher.sha256 != one.sha256:
            raise ManifestMismatchError(
                f"{name_of(source)} (weights {teacher.sha256[:12]}) is not {owner} "
                f"(weights {one.sha256[:12]}): give the one that labelled it"
            )
        _check_inputs(teacher, one, owner)
        loaded.append(teacher)
    return loaded[0] if info.ensemble is None else combine(loaded, info.ensemble, info.size)


def _check_inputs(teacher: Teacher, one: TeacherInfo, owner: str) -> None:
    """ManifestMismatchError where a teacher that was loaded before takes its images otherwise than recorded."""
    spec = teacher.model.spec
    if spec.arch != one.arch and OWN in (spec.arch[: len(OWN)], one.arch[: len(OWN)]):
        raise ManifestMismatchError(
            f"{teacher.name} is {spec.arch}, {owner} is {one.arch}: give the one that labelled it"
        )
    for name in ("size", "mean", "std"):
        has, wants = getattr(spec, name), getattr(one, name)
        if has != wants:
            raise ManifestMismatchError(
                f"{teacher.name} has {name} {has}, {owner} labelled with {wants}: load it with that, or give its file"
            )


def _load(source: TeacherSpec | PathLike, one: TeacherInfo, device: torch.device, owner: str) -> Teacher:
    spec = as_spec(source)
    spec.check_trust()
    if one.arch.startswith(OWN):
        raise ManifestMismatchError(
            f"{owner} was a module in Python ({one.arch.removeprefix(OWN)}), which {spec.source} is not: give it there "
            "with fastlabel.teacher(...)"
        )
    wanted = replace(spec, arch=one.arch, mean=one.mean, std=one.std, size=one.size)
    try:
        return load_source(wanted, device, one.size)
    except InputError as error:
        raise ManifestMismatchError(f"{spec.source} is not {owner}: {error}") from error


def _as_recorded(teacher: Teacher, one: TeacherInfo) -> Teacher:
    """With all that decides its labels beside the weights, whoever loaded it."""
    return replace(
        teacher,
        precision=one.precision,
        tf32=one.tf32,
        forward=one.forward,
        class_map=one.class_map,
        keeps_classes=one.keeps_classes,
    )


def _member(info: TeacherInfo, teacher: Teacher) -> TeacherInfo:
    spec = teacher.model.spec
    return info.member(
        arch=spec.arch,
        sha256=teacher.sha256,
        epoch=teacher.epoch,
        size=spec.size,
        mean=spec.mean,
        std=spec.std,
        class_map=teacher.class_map,
    )


def find_teachers(
    manifest: Manifest, sources: Sequence[AnyTeacher], device: torch.device, store: str
) -> dict[int, Teacher]:
    """The manifest's teachers, by their place in it, whose weights are all among the sources.

    Raises:
        ManifestMismatchError: a source is no network of the store. TeacherError, InputError: it cannot be loaded.
    """
    networks = [(index, one) for index, info in enumerate(manifest.teachers) for one in info.networks]
    found: dict[tuple[int, str], Teacher] = {}
    for source in sources:
        if not isinstance(source, Teacher):
            as_spec(source).check_trust()
        errors: list[FastlabelError] = []
        for index, one in networks:
            owner = f"teacher {manifest.teachers[index].name} of {store}"
            try:
                found[index, one.sha256] = recorded_teacher(one, [source], device, owner)
            except FastlabelError as error:
                errors.append(error)
        if len(errors) == len(networks):
            raise _stranger(manifest, source, store, errors)
    partial: list[str] = []
    complete: dict[int, Teacher] = {}
    for index, info in enumerate(manifest.teachers):
        held = [found.get((index, one.sha256)) for one in info.networks]
        parts = [teacher for teacher in held if teacher is not None]
        if len(parts) == len(held):
            complete[index] = recorded_teacher(info, parts, device, f"teacher {info.name} of {store}")
        elif parts:
            partial.append(f"teacher {info.name} of {store} is an ensemble of {len(held)} networks; give all of them")
    if partial and not complete:
        raise ManifestMismatchError(partial[0])
    return complete


def _stranger(manifest: Manifest, source: AnyTeacher, store: str, errors: list[FastlabelError]) -> FastlabelError:
    mismatch = [error for error in errors if isinstance(error, ManifestMismatchError)]
    is_there = isinstance(source, Teacher) or Path(as_spec(source).source).exists()
    if not mismatch and not is_there:
        return errors[0]
    known = ", ".join(f"{info.name} (weights {info.sha256[:12]})" for info in manifest.teachers)
    return ManifestMismatchError(
        f"{name_of(source)} is none of the teachers of {store}: {known}; {[*mismatch, *errors][0]}"
    )
