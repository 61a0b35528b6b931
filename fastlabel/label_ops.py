"""The public name of `fastlabel.labels.ops`: edits and mixtures of sparse labels."""

from fastlabel.labels.ops import (
    average,
    average_logits,
    entropy,
    keep_top,
    mix,
    random_injection,
    remove_class,
    renormalise,
    replace_by_hard,
    shuffle_rest,
    smoothed_like,
    swap,
    top1,
)

__all__ = [
    "average",
    "average_logits",
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
