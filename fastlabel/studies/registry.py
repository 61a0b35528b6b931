"""The studies by name, imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastlabel.studies.study import Study

MODULES = {
    "baseline": "baseline",
    "expert-epoch": "expert_epoch",
    "temperature": "temperature",
    "label-swap": "label_swap",
    "data-knowledge": "data_knowledge",
    "zero-shot": "zero_shot",
    "ensemble": "ensemble",
    "selection": "selection",
    "structure": "structure",
}


def find_study(name: str) -> Study:
    """The study of that name. KeyError for another."""
    study: Study = import_module(f"fastlabel.studies.{MODULES[name]}").STUDY
    return study
