"""fastlabel: soft labels of image crops, computed once, stored compressed, read for nothing.

The names below are loaded when first used, so that `import fastlabel` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlabel.system.lazy_names import lazy_names

if TYPE_CHECKING:
    from fastlabel import label_ops
    from fastlabel.dataset.write import write_dataset
    from fastlabel.errors import FastlabelError
    from fastlabel.labelling.cache import cache_labels
    from fastlabel.labels.codec import TopKCodec
    from fastlabel.labels.loss import soft_cross_entropy
    from fastlabel.labels.soft_label_loss import SoftLabelLoss
    from fastlabel.labels.sparse import SparseLabels
    from fastlabel.labels.topk import TopKLabels
    from fastlabel.labels.transform import TransformLabels
    from fastlabel.labels.transform_codec import TransformCodec
    from fastlabel.loading.dataset import SoftLabelDataset
    from fastlabel.loading.loader import Batch, SoftLabelLoader
    from fastlabel.store.plane import LabelPlane
    from fastlabel.store.store import LabelStore
    from fastlabel.teachers.export import export_teacher
    from fastlabel.teachers.own import teacher
    from fastlabel.views import Mixing, ViewPolicy

__version__ = "0.1.0"

_HOMES = {
    "Batch": "loading.loader",
    "FastlabelError": "errors",
    "LabelPlane": "store.plane",
    "LabelStore": "store.store",
    "Mixing": "views",
    "SoftLabelDataset": "loading.dataset",
    "SoftLabelLoader": "loading.loader",
    "SoftLabelLoss": "labels.soft_label_loss",
    "SparseLabels": "labels.sparse",
    "TopKCodec": "labels.codec",
    "TopKLabels": "labels.topk",
    "TransformCodec": "labels.transform_codec",
    "TransformLabels": "labels.transform",
    "ViewPolicy": "views",
    "cache_labels": "labelling.cache",
    "export_teacher": "teachers.export",
    "label_ops": "",
    "soft_cross_entropy": "labels.loss",
    "teacher": "teachers.own",
    "write_dataset": "dataset.write",
}

__all__ = [
    "Batch",
    "FastlabelError",
    "LabelPlane",
    "LabelStore",
    "Mixing",
    "SoftLabelDataset",
    "SoftLabelLoader",
    "SoftLabelLoss",
    "SparseLabels",
    "TopKCodec",
    "TopKLabels",
    "TransformCodec",
    "TransformLabels",
    "ViewPolicy",
    "cache_labels",
    "export_teacher",
    "label_ops",
    "soft_cross_entropy",
    "teacher",
    "write_dataset",
]

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
