"""Checks of the arguments of a labelling run that nothing further inside would tell clearly."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fastlabel.errors import InputError
from fastlabel.system.arguments import at_least, boolean, integer, integer_between, one_of
from fastlabel.teachers.spec import TeacherSpec
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import ViewPolicy, ViewSpec

COUNTS = {"views": 1, "size": 1, "seed": 0, "ipc": 1, "num_workers": 0, "decode_batch": 1, "forward_batch": 1}
MOST_VIEWS = 1 << 20  # exclusive; every unit of a store is looked at when it is planned
OPTIONAL = {"size", "seed", "ipc", "decode_batch", "forward_batch"}


def check_labelling(
    store: Any, teachers: Any, policy: Any, flags: Mapping[str, Any], counts: Mapping[str, Any]
) -> None:
    """InputError that names the first argument of another type, or a number that is too small.

    Args:
        store: where labels are to go.
        teachers: a list or tuple of them, not empty.
        policy: a name, a file, a ViewSpec or a ViewPolicy.
        flags: True or False by name.
        counts: numbers by name; some of them may be None.
    """
    one_of("store", store, (str, os.PathLike), "a path")
    one_of("teachers", None if isinstance(teachers, str) else teachers, Sequence, "a list of teachers")
    for teacher in teachers:
        if isinstance(teacher, nn.Module):
            raise InputError(
                f"a teacher is the module {type(teacher).__name__}, of which nobody said how images are normalised: "
                "give fastlabel.teacher(module, mean=..., std=..., size=...)"
            )
        one_of(
            "a teacher", teacher, (Teacher, TeacherSpec, str, os.PathLike), "a path, a name, a TeacherSpec or a Teacher"
        )
    one_of("policy", policy, (str, os.PathLike, ViewPolicy, ViewSpec), "the name or file of a view policy, or a policy")
    for name, flag in flags.items():
        boolean(name, flag)
    for name, count in counts.items():
        if name in COUNTS and (count is not None or name not in OPTIONAL):
            at_least(name, count, COUNTS[name])
    if counts["k"] is not None:
        integer("k", counts["k"])  # the codec knows how many classes there are
    integer_between("views", counts["views"], 1, MOST_VIEWS)
