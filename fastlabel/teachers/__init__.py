"""What can label: checkpoints, pretrained networks, state dicts, programs, ensembles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlabel.system.lazy_names import lazy_names

if TYPE_CHECKING:
    from fastlabel.teachers.spec import TeacherSpec

__all__ = ["TeacherSpec"]

__getattr__ = lazy_names(__name__, {"TeacherSpec": "spec"})
