"""The studies. Light: the module of a study, `studies/NAME.py` with its `STUDY`, is imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastlabel.studies.study import Study

STUDIES = {  # name: help line
    "baseline": "Random images with soft labels of an early expert, against hard labels.",
    "expert-epoch": "Student accuracy over the expert's epoch, with label entropy and the Pareto front.",
    "temperature": "Grid of expert epoch x temperature, from the same stored labels.",
    "label-swap": "The i-th most likely class swapped with the least likely one, for each i.",
    "data-knowledge": "Scaling law: images per class x classes kept of each label.",
    "zero-shot": "A class's images removed, or its column removed from the labels, against control.",
    "ensemble": "Labels averaged over experts, logits or probabilities.",
    "selection": "Images by decile of the expert's cross-entropy, stratified, or random.",
    "label-use": "Temperatures and their schedules, kept classes and losses, from the same stored labels.",
    "learned-labels": "Labels learned through short unrolled students, against the expert's.",
    "structure": "Labels shuffled beyond the first class, or smoothed to equal entropy, against the real ones.",
}


def find_study(name: str) -> Study:
    """The study of that name. KeyError for another."""
    if name not in STUDIES:
        raise KeyError(name)
    study: Study = import_module(f"fastlabel.studies.{name.replace('-', '_')}").STUDY
    return study
