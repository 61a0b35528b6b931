"""FKD with mixed crops, as SRe2L and its family write it: `epoch_E/batch_B.tar`.

A file is `torch.save` of [coordinates float32 [B, 4], flips bool [B], mix index int64 [B] or None, lambda or None,
box [top, left, bottom, right] or None, logits [B, C]]. Which samples a batch has is not in it: epoch after epoch they
are drawn by one `RandomSampler` over all images, in the order of torchvision's ImageFolder, from a generator of a seed.
Source: github.com/VILA-Lab/SRe2L, folder relabel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import RandomSampler

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.saved_files import read_saved
from fastlabel.errors import DatasetError, InputError
from fastlabel.interchange.alignment import Alignment
from fastlabel.interchange.crops import boxes_of_fractions, fractions_of_boxes
from fastlabel.interchange.imported import ImportReport, LabelArrays, check_size, write_imported
from fastlabel.interchange.logits import logits_of
from fastlabel.store.store import LabelStore
from fastlabel.system.atomic_files import new_folder
from fastlabel.views import BOX_COLUMNS, MIX_COLUMNS, ViewPolicy
from fastlabel.views.mixing import ONE_Q16

NAME = "fkd-mix"
ORDER_SEED, BATCH_SIZE = 42, 1024  # of SRe2L's scripts


def epoch_orders(num_samples: int, seed: int, epochs: int) -> Iterator[NDArray[np.int64]]:
    """int64 [N]: the samples of each epoch in the order in which they were labelled."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    sampler = RandomSampler(range(num_samples), generator=generator)
    for _ in range(epochs):
        yield np.array(list(sampler), np.int64)  # to its end: it draws once more there


def import_fkd_mix(
    folder: str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int,
    k: int | None = None,
    order_seed: int = ORDER_SEED,
    unaligned: bool = False,
) -> ImportReport:
    """Make a store of the labels and crops of a folder of FKD-with-mix files: epoch e becomes view e.

    Args:
        folder: holds epoch_0, epoch_1, ...
        beton: the images that were labelled, in the order of ImageFolder, at their own size.
        size: side of the crops in pixels (SRe2L's --input-size).
        k: classes to keep of each label.
        order_seed: of the order of the samples (SRe2L's --fkd-seed).
        unaligned: import labels whose classes fit their samples no better than by chance.

    Raises:
        DatasetError: a file is lacking, damaged, or does not fit the dataset. Nothing is written then.
    """
    root, data, size = Path(folder), Beton.open(beton), check_size(size)
    epochs = _epochs(root)
    labels = LabelArrays(len(epochs), data.num_samples, data.num_classes, k)
    tables = np.zeros((len(epochs), data.num_samples, BOX_COLUMNS + MIX_COLUMNS), np.int32)
    alignment, mixed = Alignment(), False
    for view, order in enumerate(epoch_orders(data.num_samples, order_seed, len(epochs))):
        start = 0
        for path in epochs[view]:
            batch = _Batch.read(path)
            ids = order[start : start + len(batch)]
            _check_count(path, len(batch), start, data.num_samples)
            tables[view, ids] = batch.table(ids, data.heights[ids], data.widths[ids], size)
            labels.put(view, ids, batch.logits, str(path), probs=False)
            partners = tables[view, ids, BOX_COLUMNS].astype(np.int64)
            alignment.add(str(path), labels.top(view, ids), np.stack([data.targets[ids], data.targets[partners]], 1))
            mixed |= batch.mix_index is not None
            start += len(batch)
        if start < data.num_samples:
            raise DatasetError(
                f"{epochs[view][0].parent} holds labels of {start:,} images, and {data.path} has "
                f"{data.num_samples:,}: a batch is lacking, or it is another dataset"
            )
    if not unaligned:
        alignment.check()
    policy = ViewPolicy.stored(size, tables if mixed else tables[:, :, :BOX_COLUMNS])
    ids = np.arange(data.num_samples, dtype=np.int64)
    return write_imported(out, data, NAME, policy, ids, labels, alignment.agreement)


def _check_count(path: Path, count: int, start: int, num_samples: int) -> None:
    if start + count > num_samples:
        raise DatasetError(
            f"{path}: with its {count:,} labels the epoch has more than the {num_samples:,} images of the dataset"
        )


def _epochs(root: Path) -> list[list[Path]]:
    """The files of each epoch in the order of their numbers. DatasetError where one is lacking."""
    folders = _numbered(root, "epoch_", "", "an epoch's folder")
    epochs = [_numbered(folder, "batch_", ".tar", "a batch's file") for folder in folders]
    counts = [len(batches) for batches in epochs]
    for folder, count in zip(folders, counts, strict=True):
        if count != counts[0]:
            raise DatasetError(f"{folder} has {count:,} batches, and {folders[0]} has {counts[0]:,}: one is lacking")
    return epochs


def _numbered(folder: Path, prefix: str, suffix: str, what: str) -> list[Path]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder: expected {prefix}0{suffix}, {prefix}1{suffix}, ... in it")
    pattern = re.compile(re.escape(prefix) + r"(0|[1-9][0-9]{0,8})" + re.escape(suffix))
    found = {int(match[1]): path for path in folder.iterdir() if (match := pattern.fullmatch(path.name))}
    if not found:
        raise DatasetError(f"{folder} holds no {prefix}0{suffix}: {what} is expected there")
    missing = sorted(set(range(max(found) + 1)) - set(found))
    if missing:
        raise DatasetError(
            f"{folder} lacks {prefix}{missing[0]}{suffix}: it has {max(found)}, and {what} for each number"
        )
    return [found[number] for number in range(len(found))]


@dataclass(frozen=True, eq=False)
class _Batch:
    """What one file holds, checked."""

    path: Path
    fractions: NDArray[Any]
    flips: NDArray[Any]
    mix_index: NDArray[np.int64] | None
    weight: int
    box: tuple[int, int, int, int] | None
    logits: torch.Tensor

    def __len__(self) -> int:
        return len(self.fractions)

    @classmethod
    def read(cls, path: Path) -> _Batch:
        content = read_saved(path)
        if not isinstance(content, (list, tuple)) or len(content) != 6:
            raise DatasetError(
                f"{path} is no batch of FKD with mix: expected coordinates, flips, mix index, lambda, box, logits"
            )
        coords, flips, index, lam, box, logits = content
        fractions = _array(path, "coordinates", coords)
        flipped = _array(path, "flips", flips)
        if fractions.ndim != 2 or fractions.shape[1] != 4 or flipped.shape != fractions.shape[:1] or not len(flipped):
            raise DatasetError(
                f"{path}: coordinates {list(fractions.shape)} and flips {list(flipped.shape)}, expected [B, 4] and [B]"
            )
        if not isinstance(logits, torch.Tensor):
            raise DatasetError(f"{path}: its labels are {type(logits).__name__}, expected a tensor [B, C]")
        mix_index = None if index is None else _array(path, "mix index", index).astype(np.int64)
        count = len(fractions)
        if mix_index is not None and (mix_index.shape != (count,) or set(mix_index) - set(range(count))):
            raise DatasetError(f"{path}: its mix index must be [{count}] rows of the batch, 0 to {count - 1}")
        if mix_index is not None and (lam is None or not 0 <= float(lam) <= 1):
            raise DatasetError(f"{path}: lambda is {lam}, expected a number from 0 to 1")
        corners = None if box is None else tuple(int(corner) for corner in box)
        if corners is not None and (len(corners) != 4 or mix_index is None):
            raise DatasetError(f"{path}: its box is {corners}, expected top, left, bottom, right, and a mix index")
        weight = ONE_Q16 if mix_index is None else 0 if corners is not None else round(float(lam) * ONE_Q16)
        return cls(path, fractions, flipped, mix_index, weight, corners, logits)

    def table(
        self, ids: NDArray[np.int64], heights: NDArray[np.int32], widths: NDArray[np.int32], size: int
    ) -> NDArray[np.int32]:
        """int32 [B, 11]: the columns of stored crops."""
        found = np.zeros((len(self), BOX_COLUMNS + MIX_COLUMNS), np.int32)
        found[:, :BOX_COLUMNS] = boxes_of_fractions(self.fractions, self.flips, heights, widths, str(self.path))
        found[:, BOX_COLUMNS] = ids if self.mix_index is None else ids[self.mix_index]
        found[:, BOX_COLUMNS + 1] = self.weight
        box = self.box if self.box is not None else (0, 0, size, size)
        if min(box) < 0 or max(box) > size or box[0] > box[2] or box[1] > box[3]:
            raise DatasetError(f"{self.path}: the box {list(box)} leaves a crop of {size} pixels; is --size right?")
        if self.mix_index is not None:
            found[:, BOX_COLUMNS + 2 :] = box
        return found


def _array(path: Path, what: str, value: Any) -> NDArray[Any]:
    found: NDArray[Any] = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if found.dtype.kind not in "biuf":
        raise DatasetError(f"{path}: its {what} are {found.dtype}, expected numbers")
    return found


def export_fkd_mix(
    store: LabelStore | str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    teacher: int = 0,
    temperature: float = 1.0,
    half: bool = False,
    batch_size: int = BATCH_SIZE,
    order_seed: int = ORDER_SEED,
) -> Path:
    """Write a store as a folder of FKD-with-mix files: view e becomes epoch e.

    The format has one lambda and one box for a batch, and partners within it: a store of mixed views fits only if it
    was imported from such files, with the same `batch_size` and `order_seed`.

    Args:
        temperature: the softmax of the written logits at it is the store's label at it.
        half: write float16, as SRe2L's --use-fp16 does.

    Raises InputError where the store does not fit the format. Nothing is written then.
    """
    opened = store if isinstance(store, LabelStore) else LabelStore.open(store)
    data, out = Beton.open(beton), Path(out)
    opened.check_teacher(teacher)
    opened.check_dataset(data.num_samples, data.fingerprint(), data.path)
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size} must be at least 1")
    if opened.manifest.num_labelled != data.num_samples or opened.views.pixels is not None:
        raise InputError(
            f"{opened.path} has {opened.manifest.num_labelled:,} of {data.num_samples:,} samples, or changes pixels; "
            "these files hold crops of all images of a folder, and no pixel operation"
        )
    with new_folder(out) as folder:
        for view, order in enumerate(epoch_orders(data.num_samples, order_seed, opened.num_views)):
            (folder / f"epoch_{view}").mkdir()
            plane = opened.plane(view, teacher)
            for number, start in enumerate(range(0, data.num_samples, batch_size)):
                ids = order[start : start + batch_size]
                boxes = opened.views.boxes(view, ids, data.heights[ids], data.widths[ids])
                _check_inside(opened, boxes)
                coords, flips = fractions_of_boxes(boxes, data.heights[ids], data.widths[ids])
                logits = logits_of(plane[ids], temperature)
                mix = _mix_of_batch(opened, view, ids)
                content = [
                    torch.from_numpy(coords), torch.from_numpy(flips), *mix, logits.half() if half else logits
                ]  # fmt: skip
                torch.save(content, folder / f"epoch_{view}" / f"batch_{number}.tar")
    return out


def _check_inside(store: LabelStore, boxes: NDArray[np.int32]) -> None:
    if (boxes[:, :2] < 0).any():
        raise InputError(
            f"{store.path} has crops that leave their images ({store.views.name}), which fractions do not say"
        )


def _mix_of_batch(store: LabelStore, view: int, ids: NDArray[np.int64]) -> list[Any]:
    """Mix index, lambda and box of a batch. InputError where its samples are not mixed alike, and with each other."""
    if store.partners is None:
        return [None, None, None]
    table = store.partners.table(view, ids).astype(np.int64)
    places = {int(sample): row for row, sample in enumerate(ids)}
    if any(int(partner) not in places for partner in table[:, 0]) or (table[:, 1:] != table[0, 1:]).any():
        raise InputError(
            f"{store.path}: the crops of a batch of {len(ids)} in view {view} are mixed with others, or "
            "not all alike, which these files do not say: export a store that was imported from such files, with "
            "their batch size and order seed, or one whose views are not mixed"
        )
    index = torch.tensor([places[int(partner)] for partner in table[:, 0]])
    weight, top, left, bottom, right = table[0, 1:].tolist()
    if weight:
        return [index, weight / ONE_Q16, None]
    size = store.views.size
    return [index, 1 - (bottom - top) * (right - left) / size**2, [top, left, bottom, right]]
