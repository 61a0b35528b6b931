"""Training teachers and students. The names below are loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlabel.system.lazy_names import lazy_names

if TYPE_CHECKING:
    from fastlabel.train.common import Result
    from fastlabel.train.loop import Reporter
    from fastlabel.train.recipes import Recipe
    from fastlabel.train.student import StudentConfig, train_student
    from fastlabel.train.teacher import TeacherConfig, train_teacher

__all__ = ["Recipe", "Reporter", "Result", "StudentConfig", "TeacherConfig", "train_student", "train_teacher"]

__getattr__ = lazy_names(
    __name__,
    {
        "Recipe": "recipes",
        "Reporter": "loop",
        "Result": "common",
        "StudentConfig": "student",
        "TeacherConfig": "teacher",
        "train_student": "student",
        "train_teacher": "teacher",
    },
)
