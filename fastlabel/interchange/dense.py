"""Dense labels in arrays: `.npy`, `.npz`, `.safetensors`; and the crops that they belong to.

A file has an array `logits` or `probabilities`, [V, n, C] or [n, C] for one view (of `.npy` it is the only one), and
may have `ids` int64 [n], which samples they are of, and `crops` int32 [V, n, 5 or 11], the columns of stored crops.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.dataset.array_files import read_arrays
from fastlabel.dataset.beton import Beton
from fastlabel.errors import DatasetError, InputError
from fastlabel.interchange.alignment import Alignment
from fastlabel.interchange.imported import ImportReport, LabelArrays, check_size, write_imported
from fastlabel.interchange.logits import logits_of
from fastlabel.store.store import LabelStore
from fastlabel.system.atomic_files import new_file
from fastlabel.views import BOX_COLUMNS, MIX_COLUMNS, ViewPolicy, crop_table

NAME = "dense"
KINDS = ("logits", "probabilities")
WRITTEN = (".npz", ".safetensors")


def import_dense(
    path: str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int,
    k: int | None = None,
    values: str | None = None,
    unaligned: bool = False,
) -> ImportReport:
    """Make a store of a file of dense labels.

    Args:
        size: side of the crops in pixels.
        values: "logits" or "probabilities", where the file's arrays are not called so.

    Without `crops` in the file the labels are those of whole images: the policy is `identity`.

    Raises:
        DatasetError: the file is damaged, or does not fit the dataset. Nothing is written then.
    """
    data, path, size = Beton.open(beton), Path(path), check_size(size)
    arrays = read_arrays(path)
    kind, rows_VBC = _labels(path, arrays, values)
    ids = _ids(path, arrays, rows_VBC.shape[1], data.num_samples)
    labels = LabelArrays(len(rows_VBC), len(ids), data.num_classes, k)
    shape, policy = rows_VBC.shape[:2], ViewPolicy.identity(size)
    if "crops" in arrays:
        policy = stored_policy(path, arrays["crops"], ids, shape, data.num_samples, size)
    alignment, targets = Alignment(), np.asarray(data.targets)
    order = np.argsort(ids, kind="stable")
    places = np.empty(len(ids), np.int64)
    places[order] = np.arange(len(ids))
    for view, rows_BC in enumerate(rows_VBC):
        where = f"{path}, view {view}"
        values_BC = torch.from_numpy(np.ascontiguousarray(rows_BC))
        labels.put(view, places, values_BC, where, probs=kind == "probabilities")
        met = ids if not policy.mixed else policy.stored_view(view)[ids, BOX_COLUMNS]
        alignment.add(where, labels.top(view, places), np.stack([targets[ids], targets[met]], axis=1))
    if not unaligned:
        alignment.check()
    return write_imported(out, data, NAME, policy, ids[order], labels, alignment.agreement)


def _labels(path: Path, arrays: dict[str, NDArray[Any]], values: str | None) -> tuple[str, NDArray[Any]]:
    named = [name for name in KINDS if name in arrays]
    if values is not None and values not in KINDS:
        raise InputError(f"values {values!r}: expected {' or '.join(KINDS)}")
    others = [name for name in arrays if name not in ("ids", "crops")]
    if len(named) == 1 and values in (None, named[0]):
        kind, found = named[0], arrays[named[0]]
    elif values is not None and len(others) == 1 and not named:
        kind, found = values, arrays[others[0]]
    else:
        shown = ", ".join(repr(name) for name in arrays)
        raise InputError(f"{path} has the arrays {shown}: expected one called logits or probabilities; or say --values")
    if found.ndim == 2:
        found = found[None]
    if found.ndim != 3 or found.dtype.kind != "f" or 0 in found.shape:
        raise DatasetError(f"{path}: labels are {found.dtype} {list(found.shape)}, expected [V, n, C] or [n, C]")
    return kind, found


def _ids(path: Path, arrays: dict[str, NDArray[Any]], count: int, num_samples: int) -> NDArray[np.int64]:
    given = arrays.get("ids")
    if given is None:
        if count != num_samples:
            raise DatasetError(f"{path} has labels of {count:,} samples, and the dataset has {num_samples:,}: add ids")
        return np.arange(num_samples, dtype=np.int64)
    if given.shape != (count,) or given.dtype.kind not in "iu":
        raise DatasetError(f"{path}: ids are {given.dtype} {list(given.shape)}, expected integers [{count}]")
    ids = given.astype(np.int64)
    if ids.min() < 0 or ids.max() >= num_samples or len(np.unique(ids)) < count:
        raise DatasetError(f"{path}: ids must be 0 to {num_samples - 1}, each once; got {ids.min()} to {ids.max()}")
    return ids


def stored_policy(
    path: Path, crops: NDArray[Any], ids: NDArray[np.int64], shape: tuple[int, ...], num_samples: int, size: int
) -> ViewPolicy:
    """The policy of a file's crops int [V, n, 5 or 11], of the samples `ids`. DatasetError for what does not fit."""
    widths = (BOX_COLUMNS, BOX_COLUMNS + MIX_COLUMNS)
    if crops.ndim != 3 or crops.shape[:2] != shape or crops.shape[2] not in widths or crops.dtype.kind not in "iu":
        raise DatasetError(
            f"{path}: crops are {crops.dtype} {list(crops.shape)}, expected integers [{shape[0]}, {shape[1]}, 5 or 11]"
        )
    tables = np.zeros((shape[0], num_samples, crops.shape[2]), np.int32)
    tables[:, ids] = crops
    if crops.shape[2] > BOX_COLUMNS:
        _check_mixes(path, tables[:, ids], set(ids.tolist()), size)
    return ViewPolicy.stored(size, tables)


def _check_mixes(path: Path, tables: NDArray[np.int32], known: set[int], size: int) -> None:
    weights, boxes = tables[..., BOX_COLUMNS + 1], tables[..., BOX_COLUMNS + 2 :]
    if not set(np.unique(tables[..., BOX_COLUMNS]).tolist()) <= known:
        raise DatasetError(f"{path}: a crop is mixed with a sample that has no labels here")
    if weights.min() < 0 or weights.max() > 1 << 16 or boxes.min() < 0 or boxes.max() > size:
        raise DatasetError(f"{path}: weights must be 0 to 65536, and mixed boxes lie in crops of {size} pixels")


def export_dense(
    store: LabelStore | str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    teacher: int = 0,
    temperature: float = 1.0,
    half: bool = False,
) -> Path:
    """Write a store as one file of `logits` [V, n, C], `ids` and `crops`: `.npz` or `.safetensors`, by its name.

    The whole array is held in memory. Raises InputError for pixel operations, which the columns of crops do not say.
    """
    opened = store if isinstance(store, LabelStore) else LabelStore.open(store)
    data, out = Beton.open(beton), Path(out)
    if out.suffix not in WRITTEN:
        raise InputError(f"{out}: expected a name that ends in .npz or .safetensors")
    opened.check_teacher(teacher)
    opened.check_dataset(data.num_samples, data.fingerprint(), data.path)
    ids, logits = opened.ids, []
    for view in range(opened.num_views):
        rows = logits_of(opened.plane(view, teacher)[ids], temperature).numpy()
        logits.append(rows.astype(np.float16) if half else rows)
    crops = [crops_of(opened, data, view) for view in range(opened.num_views)]
    arrays = {"logits": np.stack(logits), "ids": ids, "crops": np.stack(crops)}
    with new_file(out) as handle:
        if out.suffix == ".npz":
            np.savez(handle, **arrays)  # type: ignore[arg-type]
        else:
            from safetensors.numpy import save

            handle.write(save(arrays))
    return out


def crops_of(store: LabelStore, data: Beton, view: int) -> NDArray[np.int32]:
    """int32 [n, 5 or 11]: the columns of stored crops of a store's samples.

    Raises InputError for pixel operations, and for crops that leave their images: the columns do not say these.
    """
    if store.views.pixels is not None:
        raise InputError(f"{store.path} changes the pixels of its crops, which this format does not say")
    columns = BOX_COLUMNS + (MIX_COLUMNS if store.views.mixes else 0)
    found = crop_table(store.views, store.partners, view, store.ids, data.heights, data.widths)[:, :columns]
    if (found[:, :2] < 0).any():
        raise InputError(
            f"{store.path} has crops that leave their images ({store.views.name}), which this format lacks"
        )
    return found
