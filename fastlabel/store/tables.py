"""Labels as tables of other tools: NumPy arrays, a DataFrame of pandas, a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.errors import InputError
from fastlabel.labels.ops.measure import entropy
from fastlabel.system.arguments import integer
from fastlabel.system.atomic_files import new_file
from fastlabel.system.optional_packages import optional_module

if TYPE_CHECKING:
    from fastlabel.store.store import LabelStore

Views = int | Sequence[int] | None
ROWS_AT_ONCE = 65536  # bounds the memory of what is made of the labels of one view
CLASSES, PROBS, REST, ENTROPY = "classes", "probs", "rest", "entropy"


def as_numpy(store: LabelStore, views: Views, teacher: int, temperature: float) -> dict[str, NDArray[Any]]:
    """As `LabelStore.to_numpy` says."""
    wanted = _views(store, views)
    found: dict[str, NDArray[Any]] = {}
    for at, view in enumerate(wanted):
        start = 0
        for block in _blocks(store, view, teacher, temperature):
            stop = start + len(block["ids"])
            for name in (CLASSES, PROBS, REST, ENTROPY):
                values = block[name]
                if name not in found:
                    found[name] = np.empty((len(wanted), len(store.ids), *values.shape[1:]), values.dtype)
                found[name][at, start:stop] = values
            start = stop
    return {"ids": store.ids.copy(), "views": np.array(wanted, np.int64), **found}


def as_pandas(store: LabelStore, views: Views, teacher: int, temperature: float) -> Any:
    """As `LabelStore.to_pandas` says."""
    pandas = optional_module("pandas")
    frames = [
        pandas.DataFrame({name: _cells(values) for name, values in _columns(view, block).items()})
        for view in _views(store, views)
        for block in _blocks(store, view, teacher, temperature)
    ]
    return pandas.concat(frames, ignore_index=True)


def write_parquet(store: LabelStore, path: Path, views: Views, teacher: int, temperature: float, force: bool) -> None:
    """As `LabelStore.to_parquet` says."""
    arrow, wanted = optional_module("pyarrow", "hf"), _views(store, views)
    parquet = optional_module("pyarrow.parquet", "hf")
    # Left before the file is: a writer that is still open would write its end into a closed file.
    with new_file(path, replace=force, error=InputError) as file, ExitStack() as opened:
        writer = None
        for view in wanted:
            for block in _blocks(store, view, teacher, temperature):
                table = arrow.table({name: _arrow_column(arrow, v) for name, v in _columns(view, block).items()})
                if writer is None:
                    writer = opened.enter_context(parquet.ParquetWriter(file, table.schema))
                writer.write_table(table)


def _views(store: LabelStore, views: Views) -> list[int]:
    if views is None:
        return list(range(store.num_views))
    wanted = [integer("view", view) for view in ([views] if isinstance(views, (int, np.integer)) else views)]
    if not wanted:
        raise InputError(f"views {views!r} are none: expected views from 0 to {store.num_views - 1}")
    return wanted


def _blocks(store: LabelStore, view: int, teacher: int, temperature: float) -> Iterator[dict[str, NDArray[Any]]]:
    """The labels of one view by ascending sample, some rows at a time."""
    plane, ids = store.plane(view, teacher), torch.from_numpy(store.ids)
    for start in range(0, len(ids), ROWS_AT_ONCE):
        some = ids[start : start + ROWS_AT_ONCE]
        labels = plane[some].sparse(temperature)
        yield {
            "ids": some.numpy(),
            CLASSES: labels.classes.numpy(),
            PROBS: labels.probs.numpy(),
            REST: labels.rest.numpy(),
            ENTROPY: entropy(labels).numpy(),
        }


def _columns(view: int, block: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """One row for each label; its most probable class and how probable, as they are asked for most."""
    best = block[PROBS].argmax(1)[:, None]
    return {
        "view": np.full(len(best), view, np.int64),
        "id": block["ids"],
        "top1": np.take_along_axis(block[CLASSES], best, 1)[:, 0],
        "top1_prob": np.take_along_axis(block[PROBS], best, 1)[:, 0],
    } | {name: block[name] for name in (ENTROPY, REST, CLASSES, PROBS)}


def _cells(values: NDArray[Any]) -> Any:
    return values if values.ndim == 1 else list(values)


def _arrow_column(arrow: Any, values: NDArray[Any]) -> Any:
    if values.ndim == 1:
        return arrow.array(values)
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), values.shape[1])
