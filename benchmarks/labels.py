"""How many labels a second can be fetched and decoded, against the formats of others?

    fastlabel bench labels

An epoch of synthetic labels of 1,000 classes, in random order, in batches of 256, up to dense float32 probabilities
[B, C]: what all can give, though our loss needs no dense target. Ours reads and checks the plane of the view each
epoch. FKD and TinyViT read sample by sample, as their data sets do, in the workers of a
DataLoader, one for each core. The same page cache is behind all: every file was written just before and is read once
before it is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastlabel.benchmarks.big_store import HEIGHT, ROWS, WIDTH, SyntheticLogits, make_manifest, make_unit
from fastlabel.benchmarks.harness import alternate
from fastlabel.benchmarks.peers import fkd, tinyvit
from fastlabel.benchmarks.question import Answer, Setup, bars, rate, rate_cells
from fastlabel.labels.topk import TopKLabels
from fastlabel.store.store import LabelStore

QUESTION = "labels fetched and decoded a second, one view of every sample in random order"
K, CLASSES, BATCH, VIEWS, FKD_CROPS = 16, 1000, 256, 8, 4
EPOCHS = 10  # in one timed call, of the ways that take milliseconds
OURS, DENSE = "ours", "dense fp16"


@dataclass(frozen=True)
class Files:
    """The same labels in every format: view 0 of all samples, and in ours and FKD's all views."""

    folder: Path
    samples: int

    store = property(lambda self: self.folder / "labels.zarr")
    fkd = property(lambda self: self.folder / "fkd")
    tinyvit = property(lambda self: self.folder / "epoch-0.bin")
    dense = property(lambda self: self.folder / "dense.npy")


def write_files(folder: Path, samples: int) -> Files:
    """Make the labels, and write them in all formats."""
    files, logits, ids = Files(folder, samples), SyntheticLogits(samples, CLASSES), np.arange(samples)
    store = LabelStore.create(files.store, make_manifest(samples, VIEWS, K, CLASSES), [ids])
    sizes = np.full(samples, HEIGHT, np.int32), np.full(samples, WIDTH, np.int32)
    boxes = np.stack([store.views.boxes(view, ids, *sizes) for view in range(VIEWS)])
    for unit in store.units():
        rows = slice(unit.sample_start, unit.sample_stop)
        of_unit = [boxes[view, rows] for view in range(unit.view_start, unit.view_stop)]
        store.write(unit, 0, make_unit(logits, store, unit), of_unit)
    dense = np.lib.format.open_memmap(files.dense, "w+", np.float16, (samples, CLASSES))
    with open(files.tinyvit, "wb") as log:
        for start in range(0, samples, ROWS):
            stop = min(start + ROWS, samples)
            logits_VnC = torch.stack([logits(view, start, stop) for view in range(VIEWS)])
            dense[start:stop] = logits_VnC[0].numpy()
            log.write(tinyvit.encode(logits_VnC[0], np.arange(start, stop, dtype=np.int32)))
            _write_fkd(files, start, torch.from_numpy(boxes[:, start:stop]), logits_VnC)
    dense.flush()
    return files


def _write_fkd(files: Files, start: int, boxes_Vn5: Tensor, logits_VnC: Tensor) -> None:
    labels = torch.stack([fkd.encode(logits_nC) for logits_nC in logits_VnC])
    for row in range(labels.shape[1]):
        path = fkd.image_path(files.fkd, start + row)
        path.parent.mkdir(parents=True, exist_ok=True)
        fkd.write_image(path, boxes_Vn5[:, row], HEIGHT, WIDTH, labels[:, row])


def ours(store: LabelStore, order: Tensor, epochs: int) -> Iterator[TopKLabels]:
    """The labels of one batch after another, of another view in each epoch."""
    for epoch in range(epochs):
        plane = store.plane(epoch % VIEWS)
        for ids in order.split(BATCH):
            yield plane[ids]


def dense_memmap(files: Files, order: Tensor, epochs: int) -> Iterator[Tensor]:
    logits = np.load(files.dense, mmap_mode="r")
    for ids in order.split(BATCH) * epochs:
        yield torch.from_numpy(logits[ids.numpy()]).float().softmax(1)


def of_fkd(loader: DataLoader[Any]) -> Iterator[Tensor]:
    for _, _, labels_nM2K in loader:
        yield fkd.dense(labels_nM2K.flatten(0, 1), CLASSES)


def of_tinyvit(loader: DataLoader[Any]) -> Iterator[Tensor]:
    for _, classes_BK, probs_BK in loader:
        yield tinyvit.dense(classes_BK, probs_BK, CLASSES)


def cases(files: Files, order: Tensor, workers: int) -> dict[str, Callable[[], Iterator[Any]]]:
    """Every way, as an iterator over batches: of one epoch, or of ``EPOCHS`` where one is over in no time."""
    store = LabelStore.open(files.store)

    def load(data: Any, crops: int = 1) -> DataLoader[Any]:
        options: dict[str, Any] = {"batch_size": BATCH // crops, "num_workers": workers}
        return DataLoader(data, sampler=order.tolist(), persistent_workers=workers > 0, **options)

    one = load(fkd.FkdLabels(files.fkd, files.samples, [0]))
    several = load(fkd.FkdLabels(files.fkd, files.samples, range(FKD_CROPS)), FKD_CROPS)
    records = load(tinyvit.TinyVitLabels(files.tinyvit))
    return {
        OURS: lambda: (labels.dense() for labels in ours(store, order, EPOCHS)),
        "fkd": lambda: of_fkd(one),
        f"fkd, {FKD_CROPS} crops a file": lambda: of_fkd(several),
        "tinyvit": lambda: of_tinyvit(records),
        DENSE: lambda: dense_memmap(files, order, EPOCHS),
    }


def check(ways: dict[str, Callable[[], Iterator[Any]]]) -> None:
    """AssertionError unless all that decode say the same of the first batch, as far as each can."""
    dense = {name: next(iter(ways[name]())) for name in (OURS, "fkd", "tinyvit", DENSE)}
    truth = dense.pop(DENSE)
    for name, probs in dense.items():
        found, kept = probs.topk(fkd.K).values, truth.topk(fkd.K).values
        # Ours has steps of 1/8 nat.
        torch.testing.assert_close(found, kept, rtol=0.07, atol=1e-3, msg=f"top classes of {name}")
        torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)), rtol=0, atol=2e-3, msg=f"sum of {name}")


def answer(setup: Setup) -> Answer:
    """Seconds of an epoch in every way, labels a second, and how ours compares."""
    samples, workers = setup.size(50_000, 300), setup.size(os.cpu_count() or 1, 0)
    folder = setup.folder / "labels"
    folder.mkdir()
    files = write_files(folder, samples)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    ways = cases(files, order, workers)
    check(ways)
    timings = alternate({name: partial(_consume, way) for name, way in ways.items()}, setup.rounds_or(3))
    times = {OURS: EPOCHS, DENSE: EPOCHS}
    counts = {name: samples * (FKD_CROPS if "crops" in name else times.get(name, 1)) for name in timings}
    rates = {name: rate(timing, counts[name]) for name, timing in timings.items()}
    against = {name: rates[OURS][0] / rates[name][0] for name in rates}
    rows = [(name, *rate_cells(timings[name], counts[name]), f"{against[name]:,.1f}x") for name in timings]
    figures: dict[str, Any] = {"samples": samples, "views": VIEWS, "classes": CLASSES, "k": K, "batch": BATCH}
    figures |= {"workers": workers, "synthetic_labels": True, "page_cache": "warm", "labels": counts}
    figures |= {
        "seconds": timings,
        "labels_per_second": {n: r[0] for n, r in rates.items()},
        "times_faster_than": against,
    }
    notes = [
        f"{samples:,} synthetic labels of {CLASSES:,} classes, up to dense float32; all files in the page cache.",
        f"K is {K} in ours, {fkd.K} in FKD's, {tinyvit.K} in TinyViT's; {workers} workers read the peers' files.",
        f"A file of FKD's has {VIEWS} crops.",
    ]
    heads = ("labels", "labels/s", "p20 to p80", "ours is")
    return Answer(QUESTION, figures, heads, rows, notes, bars(rates, "labels/s", [OURS], log=True))


def _consume(way: Callable[[], Iterator[Any]]) -> None:
    for _ in way():
        pass
