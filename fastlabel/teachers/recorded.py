"""The teachers of a store, found among the sources that somebody gives, by the weights that the manifest records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fastlabel.errors import FastlabelError, ManifestMismatchError
from fastlabel.store.manifest import Manifest, TeacherInfo
from fastlabel.store.teacher_info import MemberInfo
from fastlabel.teachers.exported import check_trust
from fastlabel.teachers.spec import AnyTeacher, as_spec, name_of, recorded_teacher
from fastlabel.teachers.teacher import Teacher


def find_teachers(
    manifest: Manifest, sources: Sequence[AnyTeacher], device: torch.device, store: str
) -> dict[int, Teacher]:
    """The manifest's teachers, by their place in it, whose weights are all among the sources.

    Raises:
        ManifestMismatchError: a source is no network of the store. TeacherError, InputError: it cannot be loaded.
    """
    networks = [(index, one) for index, info in enumerate(manifest.teachers) for one in info.members or (info,)]
    found: dict[tuple[int, str], Teacher] = {}
    for source in sources:
        if not isinstance(source, Teacher):
            check_trust(as_spec(source).source, as_spec(source).trust_program)
        errors: list[FastlabelError] = []
        for index, one in networks:
            owner = f"teacher {manifest.teachers[index].name} of {store}"
            try:
                alone = _alone(manifest.teachers[index], one)
                found[index, one.sha256] = recorded_teacher(alone, [source], device, owner)
            except FastlabelError as error:
                errors.append(error)
        if len(errors) == len(networks):
            raise _stranger(manifest, source, store, errors)
    partial: list[str] = []
    complete: dict[int, Teacher] = {}
    for index, info in enumerate(manifest.teachers):
        held = [found.get((index, one.sha256)) for one in info.members or (info,)]
        parts = [teacher for teacher in held if teacher is not None]
        if len(parts) == len(held):
            complete[index] = recorded_teacher(info, parts, device, f"teacher {info.name} of {store}")
        elif parts:
            partial.append(f"teacher {info.name} of {store} is an ensemble of {len(held)} networks; give all of them")
    if partial and not complete:
        raise ManifestMismatchError(partial[0])
    return complete


def _alone(info: TeacherInfo, one: TeacherInfo | MemberInfo) -> TeacherInfo:
    """One network of an ensemble as if it were the whole teacher."""
    if one is info:
        return info
    names = ("arch", "sha256", "epoch", "size", "mean", "std", "class_map")
    return replace(info, ensemble=None, members=(), **{name: getattr(one, name) for name in names})


def _stranger(manifest: Manifest, source: AnyTeacher, store: str, errors: list[FastlabelError]) -> FastlabelError:
    mismatch = [error for error in errors if isinstance(error, ManifestMismatchError)]
    is_there = isinstance(source, Teacher) or Path(as_spec(source).source).exists()
    if not mismatch and not is_there:
        return errors[0]
    known = ", ".join(f"{info.name} (weights {info.sha256[:12]})" for info in manifest.teachers)
    return ManifestMismatchError(
        f"{name_of(source)} is none of the teachers of {store}: {known}; {[*mismatch, *errors][0]}"
    )
