"""From labels and crops in memory to a store, which appears whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.digests import canonical_digest, ids_digest
from fastlabel.errors import DatasetError, InputError
from fastlabel.labels.codec import TopKCodec, unstorable_rows
from fastlabel.store import layout
from fastlabel.store.manifest import DatasetInfo, Manifest, Segment, Unit
from fastlabel.store.store import LabelStore, empty_labels, empty_store
from fastlabel.store.teacher_info import TeacherInfo
from fastlabel.store.units import addresses, labels_digest
from fastlabel.system.atomic_files import new_folder
from fastlabel.views import ViewPolicy, crop_table

DEFAULT_K = 32
ARCH = "imported"


@dataclass(frozen=True)
class ImportReport:
    """What an import made.

    Attributes:
        agreement: share of labels whose most probable class is that of an image that their crop shows.
    """

    store: str
    format: str
    samples: int
    views: int
    k: int
    num_classes: int
    mixed: bool
    agreement: float
    bytes: int


class LabelArrays:
    """Encoded labels of V views of n samples, filled batch by batch.

    Args:
        views: V. count: n. num_classes: C, that of the dataset. k: classes to keep; None for `DEFAULT_K`, or C.
    """

    def __init__(self, views: int, count: int, num_classes: int, k: int | None) -> None:
        self.codec = TopKCodec(min(DEFAULT_K, num_classes) if k is None else k, num_classes)
        self.arrays: dict[str, NDArray[Any]] = empty_labels(self.codec, (views, count))

    def put(
        self,
        view: int | NDArray[np.int64],
        rows: NDArray[np.int64],
        values_BC: torch.Tensor,
        where: str,
        probs: bool,
    ) -> None:
        """Encode logits, or probabilities, of rows [B] of a view, or of a view for each row.

        Raises DatasetError for values that are none; `where` names the file.
        """
        classes = self.codec.num_classes
        if values_BC.ndim != 2 or values_BC.shape != (len(rows), classes) or not values_BC.is_floating_point():
            raise DatasetError(
                f"{where}: its labels are {str(values_BC.dtype).removeprefix('torch.')} {list(values_BC.shape)}, "
                f"expected floating-point numbers [{len(rows)}, {classes}]: {classes} classes, as the dataset has"
            )
        values_BC = values_BC.double() if values_BC.dtype == torch.float64 else values_BC.float()
        if probs:
            total = values_BC.sum(dim=1)
            if not bool((values_BC >= 0).all()) or not bool(((total - 1).abs() < 0.02).all()):
                raise DatasetError(
                    f"{where}: its rows are no probabilities: from 0 on, with the sum 1; are they logits?"
                )
            values_BC = values_BC.log()
        bad = unstorable_rows(values_BC)
        if len(bad):
            raise DatasetError(f"{where}: row {int(bad[0])} has NaN, +inf, or nothing but -inf")
        for name, encoded in self.codec.arrays(self.codec.encode_unchecked(values_BC)).items():
            self.arrays[name][view, rows] = encoded

    def top(self, view: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The most probable class of some labels."""
        found: NDArray[np.int64] = self.arrays["classes"][view, rows, 0].astype(np.int64)
        return found


def write_imported(
    out: str | os.PathLike[str],
    beton: Beton,
    name: str,
    policy: ViewPolicy,
    ids: NDArray[np.int64],
    labels: LabelArrays,
    agreement: float,
) -> ImportReport:
    """Write the store of imported labels to `out`.

    Args:
        name: of the format that they came in. ids: int64 [n], ascending: the samples that have labels.

    Raises InputError and StoreError as `LabelStore` does; nothing is written then.
    """
    views, codec = len(labels.arrays["codes"]), labels.codec
    digest = canonical_digest(
        {"labels": labels_digest(labels.arrays), "crops": list(policy.digests), "ids": ids_digest(ids)}
    )
    info = TeacherInfo(
        f"{name} import", ARCH, digest, None, policy.size, (0.0,) * 3, (1.0,) * 3, "fp32", False, "cpu", 1, codec
    )
    manifest = Manifest(
        DatasetInfo(beton.num_samples, beton.num_classes, beton.fingerprint()),
        (Segment(len(ids), ids_digest(ids)),),
        policy,
        views,
        Unit.for_store(views, len(ids), codec.nbytes_per_label),
        (info,),
    )
    manifest.validate()
    out = Path(out)
    with new_folder(out) as folder:
        layout.write_files(folder, empty_store(manifest, [ids], beton.class_names))
        _write_units(LabelStore.open(folder), beton, labels)
    nbytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return ImportReport(
        str(out), name, len(ids), views, codec.k, codec.num_classes, policy.mixed, round(agreement, 4), nbytes
    )


def _write_units(store: LabelStore, beton: Beton, labels: LabelArrays) -> None:
    sizes = beton.heights, beton.widths
    for unit in addresses(store.manifest):
        ids = store.unit_ids(unit)
        boxes = [crop_table(store.views, store.partners, view, ids, *sizes) for view in unit.views]
        rows = slice(unit.sample_start, unit.sample_stop)
        part = {name: values[unit.view_start : unit.view_stop, rows] for name, values in labels.arrays.items()}
        store.write(unit, 0, part, boxes)


def check_size(size: int) -> int:
    """InputError unless it can be the side of a crop in pixels."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < 1 << 16:
        raise InputError(f"size {size!r} must be the side of the crops in pixels, a whole number from 1 on")
    return size
