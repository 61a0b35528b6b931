"""FKD's files, one for each image: `CLASS/NAME.tar` beside the image `CLASS/NAME.JPEG`.

A file is `torch.save` of [coordinates float32 [n, 4], flips [n], labels of n crops]. The labels are probabilities
quantised in one of the ways of FKD: "hard" int64 [n]; "smoothing" [n, 2], class and probability; "marginal" [n, 2, K],
classes and probabilities of the top K, or all probabilities [n, C]. What is not listed is shared by the others evenly.
Source: Shen & Xing 2022, arXiv 2112.01528; github.com/szq0214/FKD.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.saved_files import read_saved
from fastlabel.errors import DatasetError, InputError
from fastlabel.interchange.alignment import Alignment
from fastlabel.interchange.crops import boxes_of_fractions, fractions_of_boxes
from fastlabel.interchange.imported import ImportReport, LabelArrays, check_size, write_imported
from fastlabel.interchange.logits import logits_of
from fastlabel.store.store import LabelStore
from fastlabel.system.atomic_files import new_folder
from fastlabel.views import BOX_COLUMNS, ViewPolicy

NAME = "fkd"


def import_fkd(
    folder: str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int,
    k: int | None = None,
    unaligned: bool = False,
) -> ImportReport:
    """Make a store of FKD's labels and crops: crop number v of an image becomes view v.

    Args:
        folder: holds a folder for each class, with a file for each image.
        beton: the images that were labelled, at their own size: the files of a class in the order of their names are
            its images in their order, as ImageFolder and `write-dataset` have them.

    Raises:
        DatasetError: a file is lacking, damaged, or does not fit its image. Nothing is written then.
    """
    data, size = Beton.open(beton), check_size(size)
    files = _files(Path(folder), data)
    count = len(_read(files[0])[0])
    labels = LabelArrays(count, data.num_samples, data.num_classes, k)
    tables = np.zeros((count, data.num_samples, BOX_COLUMNS), np.int32)
    alignment = Alignment()
    for sample, path in enumerate(files):
        fractions, flips, output = _read(path)
        if len(fractions) != count:
            raise DatasetError(f"{path} has {len(fractions)} crops, and {files[0]} has {count}: expected as many")
        heights, widths = (np.full(count, side[sample]) for side in (data.heights, data.widths))
        tables[:, sample] = boxes_of_fractions(fractions, flips, heights, widths, str(path))
        probs_BC = dense_probabilities(output, data.num_classes, str(path))
        labels.put(np.arange(count), np.full(count, sample), probs_BC, str(path), probs=True)
    ids = np.arange(data.num_samples, dtype=np.int64)
    targets = np.asarray(data.targets)[:, None]
    for view in range(count):
        alignment.add(f"crop {view} of the files", labels.top(view, ids), targets)
    if not unaligned:
        alignment.check()
    policy = ViewPolicy.stored(size, tables)
    return write_imported(out, data, NAME, policy, ids, labels, alignment.agreement)


def _files(root: Path, data: Beton) -> list[Path]:
    """The file of each sample."""
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder: expected a folder of files for each class in it")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(folders) != data.num_classes:
        raise DatasetError(f"{root} has folders of {len(folders)} classes, and {data.path} has {data.num_classes}")
    names = data.class_names
    if names is not None and all("," not in name for name in names) and [one.name for one in folders] != list(names):
        odd = next(pair for pair in zip([one.name for one in folders], names, strict=True) if pair[0] != pair[1])
        raise DatasetError(f"{root} has a folder {odd[0]} where {data.path} has the class {odd[1]}: other classes")
    found: dict[int, Path] = {}
    targets = np.asarray(data.targets)
    for target, folder in enumerate(folders):
        mine, files = np.flatnonzero(targets == target), sorted(folder.glob("*.tar"))
        if len(mine) != len(files):
            raise DatasetError(f"{folder} has {len(files)} files, and {data.path} has {len(mine)} images of that class")
        found |= dict(zip(mine.tolist(), files, strict=True))
    return [found[sample] for sample in range(data.num_samples)]


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any], Tensor]:
    content = read_saved(path)
    if not isinstance(content, (list, tuple)) or len(content) != 3:
        raise DatasetError(f"{path} is no file of FKD: expected a list of coordinates, flips and labels")
    coords, flips, output = content
    fractions, flipped = np.asarray(coords), np.asarray(flips)
    whole = isinstance(output, Tensor) and output.ndim in (1, 2, 3) and len(output) == len(fractions)
    if fractions.ndim != 2 or fractions.shape[1] != 4 or flipped.shape != fractions.shape[:1] or not whole:
        raise DatasetError(
            f"{path}: coordinates {list(fractions.shape)}, flips {list(flipped.shape)}, expected [n, 4], [n] and "
            "a tensor of n labels"
        )
    if not len(fractions) or fractions.dtype.kind != "f" or flipped.dtype.kind not in "biuf":
        raise DatasetError(f"{path}: it has no crop, or coordinates {fractions.dtype} and flips {flipped.dtype}")
    return fractions, flipped, output


def dense_probabilities(labels: Tensor, num_classes: int, where: str) -> Tensor:
    """float64 [n, C] of FKD's quantised labels; DatasetError of what is none of them."""
    if labels.ndim == 2 and labels.shape[1] == num_classes and num_classes != 2:
        return labels.double()
    if labels.ndim == 1:
        classes, probs = labels.long()[:, None], torch.ones(len(labels), 1, dtype=torch.float64)
    elif labels.ndim == 2 and labels.shape[1] == 2:
        classes, probs = labels[:, :1].long(), labels[:, 1:].double()
    elif labels.ndim == 3 and labels.shape[1] == 2 and 0 < labels.shape[2] <= num_classes:
        classes, probs = labels[:, 0].long(), labels[:, 1].double()
    else:
        raise DatasetError(
            f"{where}: labels {list(labels.shape)} are none of FKD's for {num_classes} classes: [n], [n, 2], [n, 2, K] "
            f"or [n, {num_classes}]"
        )
    if bool((classes < 0).any()) or bool((classes >= num_classes).any()):
        raise DatasetError(f"{where}: has class {int(classes.max())} (or below 0), and there are {num_classes}")
    if bool((classes.sort(dim=1).values.diff(dim=1) == 0).any()):
        raise DatasetError(f"{where}: a label lists a class twice")
    kept, rest = probs.sum(dim=1, keepdim=True), num_classes - classes.shape[1]
    # A sum may be a little above 1 after rounding to float16.
    if not bool(torch.isfinite(probs).all()) or bool((probs < 0).any()) or bool((kept > 1.02).any()):
        raise DatasetError(f"{where}: its probabilities are below 0, NaN, or have a sum above 1")
    share = ((1 - kept).clamp(min=0) / rest) if rest else torch.zeros_like(kept)
    dense = share.expand(-1, num_classes).clone().scatter_(1, classes, probs)
    return dense / dense.sum(dim=1, keepdim=True)


def export_fkd(
    store: LabelStore | str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    teacher: int = 0,
) -> Path:
    """Write a store as FKD's files, "marginal" labels of the K classes that it keeps, one file for each image.

    The names are the classes' and the samples' numbers: with class names CLASS/00000012.tar. A trainer finds the file
    of an image by its name, so rename them as the images are called.

    Raises InputError for views that are mixed or change pixels, and for crops that leave their image.
    """
    opened = store if isinstance(store, LabelStore) else LabelStore.open(store)
    data, out = Beton.open(beton), Path(out)
    opened.check_teacher(teacher)
    opened.check_dataset(data.num_samples, data.fingerprint(), data.path)
    if opened.views.mixes or opened.views.pixels is not None:
        raise InputError(f"{opened.path} has mixed views or pixel operations, which FKD's files do not say")
    ids, sizes = opened.ids, (data.heights[opened.ids], data.widths[opened.ids])
    coords: list[NDArray[Any]] = []
    flips: list[NDArray[Any]] = []
    labels: list[Tensor] = []
    for view in range(opened.num_views):
        boxes = opened.views.boxes(view, ids, *sizes)
        if (boxes[:, :2] < 0).any():
            raise InputError(f"{opened.path} has crops that leave their images, which fractions do not say")
        one_view = fractions_of_boxes(boxes, *sizes)
        coords.append(one_view[0])
        flips.append(one_view[1])
        labels.append(_marginal(opened.plane(view, teacher)[ids]))
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    with new_folder(out) as folder:
        for row, sample in enumerate(ids):
            path = folder / names[int(data.targets[sample])].replace("/", "_") / f"{sample:08d}.tar"
            path.parent.mkdir(exist_ok=True)
            one = [np.stack([part[row] for part in parts]) for parts in (coords, flips)]
            torch.save([*one, torch.stack([part[row] for part in labels])], path)
    return out


def _marginal(labels: Any) -> Tensor:
    """float32 [n, 2, K]: classes and probabilities."""
    probs_BC = logits_of(labels).double().softmax(dim=1)
    classes = labels.classes.to(torch.int64)
    return torch.stack([classes.float(), probs_BC.gather(1, classes).float()], dim=1)
