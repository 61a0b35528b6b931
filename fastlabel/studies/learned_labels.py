"""Labels that are learned for fixed random images, through short unrolled students, against an expert's labels.

Backpropagation through time, as the comparison of arXiv 2406.10485 (section 3) does it: a new student trains on the
images with the labels as they are, and the gradient of its loss on real images goes back through its last steps to the
labels (label distillation: Bohdal et al. 2020, arXiv 2006.08572). The window of steps that the gradient goes through
begins at a random step, as in RaT-BPTT (Feng et al. 2023, arXiv 2311.07025). The labels begin as the expert's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call

from fastlabel.digests import ids_digest
from fastlabel.errors import InputError
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.dense_losses import centred_logits
from fastlabel.labels.loss import SoftLabels
from fastlabel.models.architectures import build_model
from fastlabel.sampling import images_per_class
from fastlabel.studies.augment import SiameseAugmentation
from fastlabel.studies.config import Params, derived_seed
from fastlabel.studies.context import Expert, Workbench
from fastlabel.studies.in_memory import ResidentImages, load_resident
from fastlabel.studies.report import Report, Table, lines_panel
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study

KINDS = ("hard", "soft", "learned")
REAL_PER_CLASS = 200  # real images that the students' loss is taken on


@dataclass(frozen=True)
class Unrolling:
    """How labels are learned.

    Attributes:
        updates: of the labels, each with a new student.
        steps: most steps of a student before the window. window: steps that the gradient goes through.
        lr, momentum: of a student's steps, each on all images.
        label_lr: of the labels (Adam), in nats.
        batch_size: real images in a student's loss.
    """

    updates: int = 100
    steps: int = 30
    window: int = 10
    lr: float = 0.05
    momentum: float = 0.9
    label_lr: float = 0.05
    batch_size: int = 500


def learn_labels(
    make_network: Callable[[int], nn.Module],
    train: ResidentImages,
    logits_MC: Tensor,
    real: ResidentImages,
    how: Unrolling,
    augment: SiameseAugmentation,
    seed: int,
) -> tuple[Tensor, list[float]]:
    """Learned logits [M, C] of the images, and the loss of each student on real images, in nats.

    Args:
        make_network: a new student, by seed. train: the M images. logits_MC: labels to begin with.
        augment: of the images in a student's steps.
    """
    learned = logits_MC.detach().float().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([learned], lr=how.label_lr)
    random, losses = Generator().manual_seed(seed), []
    for update in range(how.updates):
        network = make_network(derived_seed(seed, 3, update)).train()
        start = int(torch.randint(how.steps + 1, (), generator=random))
        parts: list[dict[str, Tensor]] = [
            {name: value.detach().clone().requires_grad_(True) for name, value in network.named_parameters()},
            {name: torch.zeros_like(value) for name, value in network.named_parameters()},
        ]
        for step in range(start + how.window):
            inside = step >= start
            labels = learned if inside else learned.detach()
            images = augment(train.images, random)
            parts = _step(network, parts, images, labels, how, keep=inside)
        chosen = torch.randint(len(real), (min(how.batch_size, len(real)),), generator=random).to(real.images.device)
        loss = F.cross_entropy(functional_call(network, parts[0], (real.images[chosen],)), real.targets[chosen])
        optimizer.zero_grad()
        (learned.grad,) = torch.autograd.grad(loss, [learned])
        # One student whose training broke must not take the labels with it.
        nn.utils.clip_grad_norm_([learned], 1.0)
        if torch.isfinite(learned.grad).all():
            optimizer.step()
        losses.append(float(loss.detach()))
    return learned.detach(), losses


def _step(
    network: nn.Module, parts: list[dict[str, Tensor]], images: Tensor, labels: Tensor, how: Unrolling, keep: bool
) -> list[dict[str, Tensor]]:
    """Parameters and momentum after one step; with `keep` as functions of the labels."""
    weights, speed = parts
    outputs = functional_call(network, weights, (images,))
    loss = F.cross_entropy(outputs, labels.softmax(dim=1))
    grads = torch.autograd.grad(loss, list(weights.values()), create_graph=keep)
    speed = {name: how.momentum * speed[name] + grad for name, grad in zip(weights, grads, strict=True)}
    weights = {name: value - how.lr * speed[name] for name, value in weights.items()}
    if not keep:
        weights = {name: value.detach().requires_grad_(True) for name, value in weights.items()}
        speed = {name: value.detach() for name, value in speed.items()}
    return [weights, speed]


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    epochs = bench.epochs_of(grid["epoch"] or (bench.experts[0].final,))
    for name in ("updates", "window"):
        if min(grid[name]) < 1 or len(grid[name]) > 1:
            raise InputError(f"give one --{name}, 1 or more; got {', '.join(map(str, grid[name]))}")
    cells: list[Params] = []
    for ipc in grid["ipc"]:
        cells.append({"ipc": ipc, "labels": "hard", "epoch": epochs[0]})
        for epoch in epochs:
            cells.append({"ipc": ipc, "labels": "soft", "epoch": epoch})
            learned = {"updates": grid["updates"][0], "window": grid["window"][0]}
            cells.append({"ipc": ipc, "labels": "learned", "epoch": epoch, **learned})
    return cells


def _experts(bench: Workbench, cell: Params) -> list[Expert]:
    return [] if cell["labels"] == "hard" else [(0, int(cell["epoch"]))]


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels | None:
    if cell["labels"] == "hard":
        return None
    expert = bench.labels((0, cell["epoch"]), ids)
    if cell["labels"] == "soft":
        return expert
    # Students of the same images share the labels: learning them is most of the time.
    key = f"learned labels {sorted(cell.items())} {ids_digest(ids)}"
    if key not in bench.notes:
        how = Unrolling(updates=int(cell["updates"]), window=int(cell["window"]))
        seed = derived_seed(bench.config.seed, 4, repeat if not bench.config.same_images else 0)
        learned, _ = learn_labels(
            lambda number: _network(bench, number),
            _images(bench, ids),
            centred_logits(expert),
            _real(bench),
            how,
            SiameseAugmentation.from_name(bench.config.augment),
            seed,
        )
        bench.notes[key] = TopKCodec(bench.num_classes, bench.num_classes).encode(learned)
    found: SoftLabels = bench.notes[key]
    return found


def _network(bench: Workbench, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_model(bench.arch, bench.num_classes, bench.reference.spec.size)
    return network.to(bench.device)


def _images(bench: Workbench, ids: Ids) -> ResidentImages:
    return load_resident(bench.data, ids, bench.reference, bench.device, bench.config.num_workers).take(ids)


def _real(bench: Workbench) -> ResidentImages:
    """Real images that the students' loss is taken on: as many of each class, the same for all cells."""
    if "real" not in bench.notes:
        fewest = int(np.bincount(bench.data.targets).min())
        ids = images_per_class(bench.data.targets, min(REAL_PER_CLASS, fewest), derived_seed(bench.config.seed, 5, 0))
        bench.notes["real"] = _images(bench, ids)
    found: ResidentImages = bench.notes["real"]
    return found


def _report(bench: Workbench, rows: Students) -> Report:
    lines, findings = [], []
    for ipc in rows.values("ipc"):
        hard = rows.where(ipc=ipc, labels="hard").spread()
        for epoch in rows.where(ipc=ipc, labels="soft").values("epoch"):
            soft, learned = (rows.where(ipc=ipc, labels=kind, epoch=epoch) for kind in KINDS[1:])
            entropies = [f"{one.spread('label_entropy').mean:.2f}" for one in (soft, learned)]
            accuracies = [one.percent() for one in (hard, soft.spread(), learned.spread())]
            lines.append([str(ipc), str(epoch), *accuracies, *entropies])
            gain = 100 * (learned.spread().mean - soft.spread().mean)
            findings.append(
                f"{ipc} images per class, expert epoch {epoch}: learned labels change accuracy by {gain:+.1f} points "
                "against the expert's, from which they began."
            )
    table = Table(
        "Test accuracy in percent, mean ± standard deviation over students; entropy of the labels in nats.",
        ["images per class", "expert epoch", "hard, %", "expert's, %", "learned, %", "entropy, expert's", "learned"],
        lines,
    )
    panel = lines_panel(rows, "ipc", "labels", "Labels of the same random images", "images per class", log=True)
    return Report([table], findings, [panel])


STUDY = Study(
    name="learned-labels",
    question="Learned labels: do labels that are learned through unrolled students beat an expert's?",
    axes=(
        Axis("ipc", int, (1, 10), "Images per class."),
        Axis("epoch", int, None, "Expert epochs.  [default: the last]"),
        Axis("updates", int, (100,), "Updates of the labels, each through a new student."),
        Axis("window", int, (10,), "Steps of a student that the gradient goes through."),
    ),
    cells=_cells,
    experts=_experts,
    target=_target,
    report=_report,
)
