"""Figures for reports. matplotlib draws into files; no window is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlabel.dataset.beton import Beton
from fastlabel.images.loader import ImageLoader
from fastlabel.inspection.contact_sheet import SOFT
from fastlabel.store.store import LabelStore

if TYPE_CHECKING:
    from fastlabel.demo.run import DemoCell

HARD = "#8a8a8a"


def draw_demo(out: Path, cells: Sequence[DemoCell], teacher_accuracy: float, beton: Path, store: Path) -> None:
    """Accuracy over images per class, beside a few crops and the soft labels that the cache holds for them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.1))[0]
    _draw_accuracies(left.subplots(), cells, teacher_accuracy)
    _draw_labels(right, Beton.open(beton), LabelStore.open(store))
    figure.savefig(out, dpi=130)


def _draw_accuracies(axes: Any, all_cells: Sequence[DemoCell], teacher_accuracy: float) -> None:
    for labels, colour, name in (("cache", SOFT, "cached soft labels"), ("hard", HARD, "hard labels")):
        cells = sorted((c for c in all_cells if c.labels == labels), key=lambda c: c.ipc)
        x = [cell.ipc for cell in cells]
        y, spread = [100 * cell.mean for cell in cells], [100 * cell.std for cell in cells]
        axes.errorbar(x, y, spread, color=colour, marker="o", capsize=4, linewidth=2, label=name)
    axes.axhline(100 * teacher_accuracy, color="black", linewidth=1, linestyle=":", label="teacher, all images")
    axes.set_xticks(sorted({cell.ipc for cell in all_cells}))
    axes.set_xlabel("training images per class")
    axes.set_ylabel("test accuracy in percent")
    axes.set_title("The same images, with hard and with soft labels")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_labels(figure: Any, beton: Beton, store: LabelStore, rows: int = 4) -> None:
    ids = _least_certain(store, rows)
    images = ImageLoader(beton, store.views, rows)
    images.partners = store.partners
    with images.epoch(ids, [0]) as epoch:
        crops = next(epoch).images[:, 0].numpy()
    probabilities = store.plane(view=0)[ids].dense().numpy()
    names = store.class_names or tuple(map(str, range(store.num_classes)))
    figure.suptitle("What the cache holds: crops and their soft labels")
    for row, (image, bars) in enumerate(
        zip(figure.subplots(rows, 2, width_ratios=(1, 4))[:, 0], figure.axes[1::2], strict=True)
    ):
        image.imshow(crops[row])
        image.set_axis_off()
        target = int(beton.targets[ids[row]])
        colours = [SOFT if c != target else "#d1603d" for c in range(store.num_classes)]
        bars.bar(range(store.num_classes), probabilities[row], color=colours)
        bars.set_ylim(0, 1)
        bars.set_yticks([])
        bars.set_xticks(range(store.num_classes), names if row == rows - 1 else [""] * store.num_classes)
        bars.spines[["top", "right", "left"]].set_visible(False)
    figure.supxlabel("class (orange: the true one)", fontsize="medium")


def _least_certain(store: LabelStore, count: int) -> Any:
    """Samples whose labels say most: the top probability nearest to one half."""
    top = store.plane(view=0)[store.ids].probabilities()[0][:, 0].numpy()
    return store.ids[np.argsort(np.abs(top - 0.5), kind="stable")[:count]]
