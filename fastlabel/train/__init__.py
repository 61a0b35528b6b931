"""Training teachers and students. The names below are loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlabel.system.lazy_names import lazy_names

if TYPE_CHECKING:
    from fastlabel.train.common import Result
    from fastlabel.train.loop import Reporter
    from fastlabel.train.named_recipes import NamedRecipe, find_recipe
    from fastlabel.train.recipes import Recipe
    from fastlabel.train.student import StudentConfig, train_student
    from fastlabel.train.teacher import TeacherConfig, train_teacher

__all__ = [
    "NamedRecipe",
    "Recipe",
    "Reporter",
    "Result",
    "StudentConfig",
    "TeacherConfig",
    "find_recipe",
    "train_student",
    "train_teacher",
]

__getattr__ = lazy_names(
    __name__,
    {
        "NamedRecipe": "named_recipes",
        "Recipe": "recipes",
        "Reporter": "loop",
        "Result": "common",
        "StudentConfig": "student",
        "TeacherConfig": "teacher",
        "find_recipe": "named_recipes",
        "train_student": "student",
        "train_teacher": "teacher",
    },
)
