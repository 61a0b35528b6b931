"""fastlabel: soft labels of image crops, computed once, stored compressed, read for nothing.

The names below are loaded when first used, so that `import fastlabel` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastlabel import label_ops
    from fastlabel.cache import cache_labels
    from fastlabel.codec import TopKCodec
    from fastlabel.errors import FastlabelError
    from fastlabel.labels import TopKLabels
    from fastlabel.loader import Batch, SoftLabelLoader
    from fastlabel.losses import soft_cross_entropy
    from fastlabel.plane import LabelPlane
    from fastlabel.sparse import SparseLabels
    from fastlabel.store import LabelStore
    from fastlabel.views import ViewPolicy

__version__ = "0.1.0"

_HOMES = {
    "Batch": "loader",
    "FastlabelError": "errors",
    "LabelPlane": "plane",
    "LabelStore": "store",
    "SoftLabelLoader": "loader",
    "SparseLabels": "sparse",
    "TopKCodec": "codec",
    "TopKLabels": "labels",
    "ViewPolicy": "views",
    "cache_labels": "cache",
    "soft_cross_entropy": "losses",
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
