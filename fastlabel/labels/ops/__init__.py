"""Edits and mixtures of sparse labels. The order: temper (`TopKLabels.sparse`), then edit, then mix.

Functions take SparseLabels and return new ones, on the same device, computed in float64; `average_logits`, which
tempers and mixes, takes TopKLabels, and so does `average_scaled_logits`. No other makes a [B, C] tensor unless the
labels together have C or more places anyway. docs/labels.md says what is exact, and has an example for each experiment
of arXiv 2406.10485.

The listed classes of a row are ranked by weight, equal ones by their place in the row: places of stored labels are in
the teacher's order. "Top" and "i-th most likely" are meant so. Classes that a row does not list are equally likely
and come after the listed ones.
"""

from __future__ import annotations

from fastlabel.labels.ops.edit import keep_top, remove_class, renormalise, replace_by_hard, swap
from fastlabel.labels.ops.ensemble import accuracy_weights, average_scaled_logits
from fastlabel.labels.ops.measure import entropy, top1
from fastlabel.labels.ops.mix import average, average_logits, mix
from fastlabel.labels.ops.permutation import random_injection
from fastlabel.labels.ops.structure import shuffle_rest, smoothed_like

__all__ = [
    "accuracy_weights",
    "average",
    "average_logits",
    "average_scaled_logits",
    "entropy",
    "keep_top",
    "mix",
    "random_injection",
    "remove_class",
    "renormalise",
    "replace_by_hard",
    "shuffle_rest",
    "smoothed_like",
    "swap",
    "top1",
]
