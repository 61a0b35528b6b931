"""fastlabel: soft labels of image crops, computed once, stored compressed, read for nothing.

The names below are loaded when first used, so that `import fastlabel` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastlabel import label_ops
    from fastlabel.errors import FastlabelError
    from fastlabel.labelling.cache import cache_labels
    from fastlabel.labels.codec import TopKCodec
    from fastlabel.labels.loss import soft_cross_entropy
    from fastlabel.labels.sparse import SparseLabels
    from fastlabel.labels.topk import TopKLabels
    from fastlabel.loading.loader import Batch, SoftLabelLoader
    from fastlabel.store.plane import LabelPlane
    from fastlabel.store.store import LabelStore
    from fastlabel.views import ViewPolicy

__version__ = "0.1.0"

_HOMES = {
    "Batch": "loading.loader",
    "FastlabelError": "errors",
    "LabelPlane": "store.plane",
    "LabelStore": "store.store",
    "SoftLabelLoader": "loading.loader",
    "SparseLabels": "labels.sparse",
    "TopKCodec": "labels.codec",
    "TopKLabels": "labels.topk",
    "ViewPolicy": "views",
    "cache_labels": "labelling.cache",
    "soft_cross_entropy": "labels.loss",
}

__all__ = [
    "Batch",
    "FastlabelError",
    "LabelPlane",
    "LabelStore",
    "SoftLabelLoader",
    "SparseLabels",
    "TopKCodec",
    "TopKLabels",
    "ViewPolicy",
    "cache_labels",
    "label_ops",
    "soft_cross_entropy",
]


def __getattr__(name: str) -> Any:
    if name == "label_ops":
        return import_module("fastlabel.label_ops")
    if name not in _HOMES:
        raise AttributeError(f"module 'fastlabel' has no attribute {name!r}")
    return getattr(import_module(f"fastlabel.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
