"""TinyViT's records: `logits_topK_epochE/rankR-keys.txt` and `rankR-values.bin`.

Each line of keys names an image; the record at its place in the values is a seed int32, K classes int16 and their
probabilities float16, little-endian. The seed is that of TinyViT's own random augmentation, whose crops nobody but its
code can make again: they are no part of the format.
Source: Wu et al. 2022, arXiv 2207.10666; github.com/microsoft/Cream.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.dataset.array_files import read_arrays
from fastlabel.dataset.beton import Beton
from fastlabel.errors import DatasetError, InputError
from fastlabel.interchange.alignment import Alignment
from fastlabel.interchange.dense import crops_of, stored_policy
from fastlabel.interchange.fkd_images import dense_probabilities
from fastlabel.interchange.imported import ImportReport, LabelArrays, check_size, write_imported
from fastlabel.store.store import LabelStore
from fastlabel.system.atomic_files import new_folder
from fastlabel.views import ViewPolicy

NAME = "tinyvit"
ROWS_AT_ONCE = 1024
MOST_CLASSES = 1 << 15  # of int16
_FOLDER = re.compile(r"logits_top([1-9][0-9]{0,5})_epoch(0|[1-9][0-9]{0,8})")


def record_type(k: int) -> np.dtype[np.void]:
    """One record."""
    return np.dtype([("seed", "<i4"), ("classes", "<i2", (k,)), ("probs", "<f2", (k,))])


def import_tinyvit(
    folder: str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int,
    k: int | None = None,
    crops: str | os.PathLike[str] | None = None,
    whole_images: bool = False,
    keys: str | os.PathLike[str] | None = None,
    unaligned: bool = False,
) -> ImportReport:
    """Make a store of the records of a folder: epoch e becomes view e.

    Args:
        folder: holds logits_topK_epoch0, logits_topK_epoch1, ...
        size: side of the crops in pixels.
        k: classes to keep of each label; default those of the records.
        crops: an `.npy` file int32 [V, samples of the file, 5 or 11], the columns of stored crops: what TinyViT's
            augmentation gave for each seed. whole_images: the labels are of whole images instead.
        keys: a text file whose line n is the key of sample n. Default: keys are the numbers of the samples.

    Raises:
        DatasetError: a record is lacking or damaged, or does not fit the dataset. Nothing is written then.
    """
    data, size = Beton.open(beton), check_size(size)
    if (crops is None) != whole_images:
        raise InputError(
            "TinyViT's records do not say which crops they are labels of: give --crops FILE.npy with the boxes, or "
            "--whole-images, one of both"
        )
    own_k, epochs = _epochs(Path(folder))
    samples = _samples_of_keys(None if keys is None else Path(keys), data.num_samples)
    labels = LabelArrays(
        len(epochs), data.num_samples, data.num_classes, min(own_k, data.num_classes) if k is None else k
    )
    policy = ViewPolicy.identity(size)
    if crops is not None:
        ids, shape = np.arange(data.num_samples, dtype=np.int64), (len(epochs), data.num_samples)
        policy = stored_policy(Path(crops), _only_array(Path(crops)), ids, shape, data.num_samples, size)
    alignment, targets = Alignment(), np.asarray(data.targets)
    for view, epoch in enumerate(epochs):
        seen = np.zeros(data.num_samples, bool)
        for ids, records, where in _records(epoch, own_k, samples):
            if seen[ids].any() or len(np.unique(ids)) < len(ids):
                raise DatasetError(f"{where}: has a sample twice")
            seen[ids] = True
            pairs = [torch.from_numpy(records[name].astype(np.float64)) for name in ("classes", "probs")]
            for start in range(0, len(ids), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                probs_BC = dense_probabilities(torch.stack([one[rows] for one in pairs], 1), data.num_classes, where)
                labels.put(view, ids[rows], probs_BC, where, probs=True)
            alignment.add(where, labels.top(view, ids), targets[ids][:, None])
        if not seen.all():
            missing = int(np.argmin(seen))
            raise DatasetError(f"{epoch} has no record of {int((~seen).sum()):,} samples, for example {missing}")
    if not unaligned:
        alignment.check()
    everyone = np.arange(data.num_samples, dtype=np.int64)
    return write_imported(out, data, NAME, policy, everyone, labels, alignment.agreement)


def _only_array(path: Path) -> NDArray[np.int32]:
    arrays = read_arrays(path)
    if len(arrays) != 1:
        raise InputError(f"{path} has {len(arrays)} arrays, expected one of crops")
    found: NDArray[np.int32] = next(iter(arrays.values()))
    return found


def _epochs(root: Path) -> tuple[int, list[Path]]:
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder: expected logits_topK_epoch0, ... in it")
    found = {match.groups(): path for path in root.iterdir() if (match := _FOLDER.fullmatch(path.name))}
    widths = sorted({int(k) for k, _ in found})
    if len(widths) != 1:
        raise DatasetError(
            f"{root} has records of top {widths or 'nothing'}: expected logits_topK_epoch0, ... of one K"
        )
    by_epoch = {int(epoch): path for (_, epoch), path in found.items()}
    missing = sorted(set(range(max(by_epoch) + 1)) - set(by_epoch))
    if missing:
        raise DatasetError(f"{root} lacks logits_top{widths[0]}_epoch{missing[0]}: it has epoch {max(by_epoch)}")
    return widths[0], [by_epoch[epoch] for epoch in range(len(by_epoch))]


def _samples_of_keys(path: Path | None, num_samples: int) -> dict[str, int]:
    if path is None:
        return {str(sample): sample for sample in range(num_samples)}
    keys = _lines(path)
    if len(keys) != num_samples or len(set(keys)) < len(keys):
        raise DatasetError(f"{path} has {len(set(keys)):,} keys, expected one for each of {num_samples:,} samples")
    return {key: sample for sample, key in enumerate(keys)}


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as lines of UTF-8: {error}") from error


def _records(epoch: Path, k: int, samples: dict[str, int]) -> list[tuple[NDArray[np.int64], NDArray[np.void], str]]:
    """Samples, records and the file's name of each rank."""
    files = sorted(epoch.glob("rank*-values.bin"))
    if not files:
        raise DatasetError(f"{epoch} holds no rank0-values.bin")
    found = []
    for values in files:
        keys = _lines(values.with_name(values.name.replace("-values.bin", "-keys.txt")))
        kind, nbytes = record_type(k), values.stat().st_size
        if nbytes != len(keys) * kind.itemsize:
            raise DatasetError(
                f"{values} has {nbytes:,} bytes, expected {len(keys):,} records of {kind.itemsize}: cut short, or "
                "of another K"
            )
        unknown = next((key for key in keys if key not in samples), None)
        if unknown is not None:
            raise DatasetError(f"{values}: key {unknown!r} is no sample of the dataset; --keys FILE gives their names")
        ids = np.array([samples[key] for key in keys], np.int64)
        found.append((ids, np.fromfile(values, kind), str(values)))
    return found


def export_tinyvit(
    store: LabelStore | str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    teacher: int = 0,
) -> Path:
    """Write a store as TinyViT's records of the K classes that it keeps, keys the numbers of samples, seeds 0.

    Its crops follow from no seed of TinyViT: `crops.npy` beside the records has them, for `import_tinyvit`.

    Raises InputError for pixel operations, and above 32,768 classes.
    """
    opened = store if isinstance(store, LabelStore) else LabelStore.open(store)
    data, out = Beton.open(beton), Path(out)
    opened.check_teacher(teacher)
    opened.check_dataset(data.num_samples, data.fingerprint(), data.path)
    codec = opened.manifest.teachers[teacher].codec
    if codec.num_classes > MOST_CLASSES:
        raise InputError(f"{codec.num_classes} classes: TinyViT's records count to {MOST_CLASSES:,}")
    ids = opened.ids
    tables = np.zeros((opened.num_views, data.num_samples, crops_of(opened, data, 0).shape[1]), np.int32)
    with new_folder(out) as folder:
        for view in range(opened.num_views):
            labels = opened.plane(view, teacher)[ids]
            records = np.zeros(len(ids), record_type(codec.k))
            records["classes"] = labels.classes.to(torch.int64).numpy()
            records["probs"] = labels.probabilities(1.0)[0].numpy()
            epoch = folder / f"logits_top{codec.k}_epoch{view}"
            epoch.mkdir()
            (epoch / "rank0-keys.txt").write_text("".join(f"{sample}\n" for sample in ids))
            records.tofile(epoch / "rank0-values.bin")
            tables[view, ids] = crops_of(opened, data, view)
        np.save(folder / "crops.npy", tables)
    return out
