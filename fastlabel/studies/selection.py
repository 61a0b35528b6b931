"""Images chosen by the expert's cross-entropy: easy or hard ones, by decile of their class (arXiv 2406.10485)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastlabel.errors import InputError
from fastlabel.labels.loss import SoftLabels
from fastlabel.sampling import images_per_class
from fastlabel.studies.config import Params
from fastlabel.studies.context import Workbench
from fastlabel.studies.report import Report, Table
from fastlabel.studies.results import Students
from fastlabel.studies.study import Axis, Ids, Study, crossed, one_expert

DECILES = tuple(map(str, range(10)))
STRATEGIES = (*DECILES, "stratified", "random")


def decile_of(losses_N: npt.NDArray[np.float64], targets_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The decile of each sample's loss within its class: 0 the easiest, 9 the hardest; int64 [N].

    Samples of a class rank by loss, equal ones by their index; of n samples decile d holds ranks from d n / 10 on.
    """
    deciles = np.empty(len(losses_N), np.int64)
    for c in np.unique(targets_N):
        members = np.flatnonzero(targets_N == c)
        order = members[np.argsort(losses_N[members], kind="stable")]
        deciles[order] = np.arange(len(order)) * 10 // len(order)
    return deciles


def choose(
    strategy: str, ipc: int, seed: int, targets_N: npt.NDArray[np.int64], deciles_N: npt.NDArray[np.int64], classes: int
) -> Ids:
    """Sorted ids of `ipc` samples of each class: random ones of a decile, or as evenly as can be from all deciles.

    "stratified" of fewer than ten takes the deciles in the middle of equal parts. Raises InputError for an unknown
    strategy, and where a class has too few samples in a decile.
    """
    if strategy == "random":
        return images_per_class(targets_N, ipc, seed, num_classes=classes)
    if strategy in DECILES:
        among = np.flatnonzero(deciles_N == int(strategy))
        return images_per_class(targets_N, ipc, seed, among=among, num_classes=classes)
    if strategy != "stratified":
        raise InputError(f"unknown strategy {strategy!r}: known are {', '.join(STRATEGIES)}")
    wanted = np.bincount((2 * np.arange(ipc) + 1) * 10 // (2 * ipc), minlength=10)
    parts = [
        images_per_class(targets_N, int(count), seed, among=np.flatnonzero(deciles_N == decile), num_classes=classes)
        for decile, count in enumerate(wanted)
        if count
    ]
    return np.sort(np.concatenate(parts))


def expert_losses(bench: Workbench, epoch: int) -> npt.NDArray[np.float64]:
    """Cross-entropy in nats of the expert's label of each sample of the dataset with its class; labels all of them."""
    everyone = np.arange(bench.data.num_samples)
    bench.label([(0, epoch)], everyone)
    labels = bench.labels((0, epoch), everyone).sparse()
    targets = torch.from_numpy(bench.data.targets).to(bench.device)
    probs = labels.weights_of(targets[:, None])[:, 0].double().cpu().numpy()
    return -np.log(np.maximum(probs, np.finfo(np.float64).tiny))


def _deciles(bench: Workbench, epoch: int) -> npt.NDArray[np.int64]:
    found: dict[int, npt.NDArray[np.int64]] = bench.notes.setdefault("deciles", {})
    if epoch not in found:
        found[epoch] = decile_of(expert_losses(bench, epoch), bench.data.targets)
    return found[epoch]


def _cells(bench: Workbench, grid: Mapping[str, Any]) -> list[Params]:
    epoch = bench.one_epoch(grid["epoch"])
    if unknown := set(grid["strategy"]) - set(STRATEGIES):
        raise InputError(f"unknown strategy {', '.join(sorted(unknown))}: known are {', '.join(STRATEGIES)}")
    return crossed(ipc=grid["ipc"], epoch=[epoch], strategy=grid["strategy"], labels=["soft", "hard"])


def _samples(bench: Workbench, cell: Params, repeat: int) -> Ids:
    deciles = _deciles(bench, cell["epoch"])
    seed = bench.config.image_seed(repeat)
    return choose(cell["strategy"], cell["ipc"], seed, bench.data.targets, deciles, bench.num_classes)


def _target(bench: Workbench, cell: Params, ids: Ids, repeat: int) -> SoftLabels | None:
    return None if cell["labels"] == "hard" else bench.labels((0, cell["epoch"]), ids)


def _experts(bench: Workbench, cell: Params) -> list[tuple[int, int]]:
    # Hard-label cells too: their images are chosen by the expert's labels.
    return one_expert(bench, {**cell, "labels": "soft"})


def _report(bench: Workbench, rows: Students) -> Report:
    lines, findings = [], []
    for ipc in rows.values("ipc"):
        for strategy in rows.values("strategy"):
            some = rows.where(ipc=ipc, strategy=strategy)
            soft, hard = (some.where(labels=labels) for labels in ("soft", "hard"))
            lines.append(
                [
                    str(ipc),
                    strategy,
                    f"{soft.spread('label_entropy').mean:.2f}",
                    f"{100 * soft.spread('label_top1').mean:.1f}",
                    soft.spread().percent(),
                    hard.spread().percent(),
                ]
            )
        for labels in ("soft", "hard"):
            some = rows.where(ipc=ipc, labels=labels)
            best = max(some.values("strategy"), key=lambda strategy: some.where(strategy=strategy).spread().mean)
            findings.append(
                f"{ipc} images per class, {labels} labels: best are images of strategy {best}, "
                f"{some.where(strategy=best).spread().percent()} %."
            )
    table = Table(
        "Test accuracy of students in percent by the decile of the expert's cross-entropy that their images are from "
        "(0 the easiest); entropy of the labels in nats, and how often their top class is true.",
        ["images per class", "images", "entropy", "label top-1, %", "soft, %", "hard, %"],
        lines,
    )
    return Report([table], findings, [_panel(rows)])


def _panel(rows: Students) -> Any:
    def draw(axes: Any) -> None:
        names = rows.values("strategy")
        for ipc in rows.values("ipc"):
            for labels, style in (("soft", "-"), ("hard", ":")):
                spreads = [rows.where(ipc=ipc, labels=labels, strategy=name).spread() for name in names]
                means, stds = [100 * s.mean for s in spreads], [100 * s.std for s in spreads]
                axes.errorbar(range(len(names)), means, stds, linestyle=style, marker="o", label=f"{labels}, {ipc}")
        axes.set_xticks(range(len(names)), names, rotation=45, fontsize="small")
        axes.set_title("Images chosen by the expert's cross-entropy")
        axes.set_xlabel("decile of the expert's cross-entropy")
        axes.set_ylabel("test accuracy, %")
        axes.legend(title="labels, images per class", frameon=False, fontsize="small")

    return draw


STUDY = Study(
    name="selection",
    question="Selection: do easy or hard images teach more?",
    axes=(
        Axis("ipc", int, (1, 10), "Images per class."),
        Axis("epoch", int, None, "Expert epoch.  [default: the last]"),
        Axis("strategy", str, STRATEGIES, "0 (easiest) to 9 (hardest), stratified, random.  [default: all]"),
    ),
    cells=_cells,
    experts=_experts,
    target=_target,
    report=_report,
    samples=_samples,
)
