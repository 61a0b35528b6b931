"""The experiments of "A Label is Worth a Thousand Images in Dataset Distillation" (arXiv 2406.10485), on cached labels.

Each study is a grid of cells; in each cell some students train on a small set of images in memory and are tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlabel.system.lazy_names import lazy_names

if TYPE_CHECKING:
    from fastlabel.studies.config import StudyConfig, student_recipe
    from fastlabel.studies.registry import find_study
    from fastlabel.studies.runner import run_study

__all__ = ["StudyConfig", "find_study", "run_study", "student_recipe"]

__getattr__ = lazy_names(
    __name__, {"StudyConfig": "config", "find_study": "registry", "run_study": "runner", "student_recipe": "config"}
)
