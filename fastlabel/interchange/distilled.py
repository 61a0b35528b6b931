"""Images of other methods and labels that come with them: a .beton file, exact values, a store of the identity view."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.class_names import read_class_names
from fastlabel.dataset.tensor_source import TensorSource, exact_path, find_arrays
from fastlabel.dataset.write import WriteReport, write_dataset
from fastlabel.errors import DatasetError, InputError
from fastlabel.interchange.imported import LabelArrays, write_imported
from fastlabel.system.atomic_files import new_file
from fastlabel.views import ViewPolicy

NAME = "learned"
VALUES = ("logits", "probabilities")


@dataclass(frozen=True)
class DistilledReport:
    """What was written, and how far 8 bits are off: the most, in levels of 255, and the share of clipped values.

    `exact`: the file of the images' exact values, where 8 bits do not hold them. `store`: of the labels.
    """

    dataset: WriteReport
    exact: str | None
    store: str | None
    rounded: float
    clipped: float


def write_distilled(
    source: str,
    out: str | os.PathLike[str],
    *,
    labels_out: str | os.PathLike[str] | None = None,
    label_values: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    network_input: bool = False,
    classes_of: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    force: bool = False,
    **options: Any,
) -> DistilledReport:
    """Write images in tensors to a .beton file, and their soft labels to a store of the identity view.

    Args:
        source: `tensors:FILE` with images and labels, or `tensors:IMAGES,LABELS`; .pt, .npz, .npy, .h5, .safetensors.
        labels_out: a store for labels float [N, C]; needed where there are such.
        label_values: "logits" or "probabilities"; None where rows of probabilities show what they are.
        mean, std, network_input: as `TensorSource` takes them.
        classes_of: a .beton file whose classes these are, with its names. num_classes: how many, without one.

    Raises InputError and DatasetError, before anything is written.
    """
    images, labels = find_arrays(source)
    if len(images) != len(labels):
        raise DatasetError(f"{source}: {len(images):,} images and {len(labels):,} labels")
    names = _class_names(classes_of)
    soft = labels.ndim == 2 and labels.shape[1] > 1
    count = len(names) or (labels.shape[1] if soft else num_classes or int(labels.max()) + 1)
    targets = _targets(source, labels, soft, count)
    tensors = TensorSource(images, targets, names or [str(one) for one in range(count)], mean, std, network_input)
    coded = _coded(source, labels, count, label_values) if soft else None
    if soft and labels_out is None:
        raise InputError(f"{source} has soft labels [N, {count}]: give --labels STORE.zarr, where they go")
    if labels_out is not None and (not soft or Path(labels_out).exists()):
        why = f"{labels_out} exists: choose another path" if soft else f"{source} has no soft labels for {labels_out}"
        raise InputError(why)
    out = Path(out)
    report = write_dataset(tensors, out, force=force, **options)
    if tensors.exact is not None:
        with new_file(exact_path(out), replace=force, error=DatasetError) as handle:
            np.savez(handle, images=tensors.exact, space=np.array(tensors.space))
    elif force:
        exact_path(out).unlink(missing_ok=True)
    if coded is not None and labels_out is not None:
        beton, rows = Beton.open(out), np.arange(len(targets), dtype=np.int64)
        policy = ViewPolicy.identity(int(max(beton.heights.max(), beton.widths.max())))
        write_imported(labels_out, beton, NAME, policy, rows, coded, 1.0)
    return DistilledReport(
        report,
        None if tensors.exact is None else str(exact_path(out)),
        None if labels_out is None else str(labels_out),
        tensors.rounded,
        tensors.clipped,
    )


def _class_names(classes_of: str | os.PathLike[str] | None) -> list[str]:
    if classes_of is None:
        return []
    beton = Beton.open(classes_of)
    return list(read_class_names(Path(beton.path)) or map(str, range(beton.num_classes)))


def _targets(source: str, labels: NDArray[np.generic], soft: bool, count: int) -> NDArray[np.int64]:
    """Classes [N] of hard labels, or the most probable ones of soft labels."""
    if soft:
        if labels.dtype.kind != "f" or labels.shape[1] != count or not np.isfinite(labels).all():
            raise DatasetError(
                f"{source}: labels are {labels.dtype} {list(labels.shape)}, expected finite floats [N, {count}]"
            )
        found: NDArray[np.int64] = labels.argmax(axis=1).astype(np.int64)
    else:
        flat = labels.reshape(-1)
        if len(flat) != len(labels) or flat.dtype.kind not in "iuf" or (flat != np.rint(flat)).any():
            raise DatasetError(f"{source}: labels are {labels.dtype} {list(labels.shape)}, expected classes [N]")
        found = flat.astype(np.int64)
    if found.min() < 0 or found.max() >= count:
        raise DatasetError(f"{source}: classes {found.min()} to {found.max()} must be 0 to {count - 1}")
    lacking = sorted(set(range(count)) - set(found.tolist()))
    if lacking and not soft:
        raise DatasetError(f"{source}: no image is of class {lacking[0]} of {count}")
    return found


def _coded(source: str, labels: NDArray[np.generic], count: int, values: str | None) -> LabelArrays:
    """All classes of soft labels, coded."""
    if values not in (None, *VALUES):
        raise InputError(f"label values {values!r}: expected {' or '.join(VALUES)}")
    rows = torch.from_numpy(np.ascontiguousarray(labels))
    sums = bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all())
    if values is None and not sums:
        raise InputError(
            f"{source}: its soft labels are no probabilities (a row has the sum {float(rows[0].sum()):.3g}); give "
            "--label-values logits where their softmax is the label (KIP's are targets of a regression, which no "
            "cross-entropy takes)"
        )
    coded = LabelArrays(1, len(labels), count, count)
    coded.put(0, np.arange(len(labels)), rows, source, probs=values != "logits")
    return coded
