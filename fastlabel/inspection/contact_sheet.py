"""A contact sheet: crops exactly as the teacher saw them, beside bars of the classes that its labels hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.images.loader import ImageLoader
from fastlabel.inspection.statistics import class_name
from fastlabel.inspection.survey import class_of_target, names_of_classes
from fastlabel.kernels.label_format import widen
from fastlabel.labels.topk import TopKLabels
from fastlabel.sampling import random_order
from fastlabel.store.store import LabelStore
from fastlabel.store.units import UnitAddress

SOFT, TARGET, REST, INK = "#1f6fb4", "#d1603d", "#c8c8c8", "#222222"
CELL_WIDTH, LINE_HEIGHT, CROP_HEIGHT = 4.3, 0.25, 1.55  # inches
NAME_LENGTH = 30


@dataclass(frozen=True)
class Bar:
    """One line of a label: a class, or all others together; ``kind`` is "class", "target" or "rest"."""

    name: str
    probability: float
    kind: str


@dataclass(frozen=True, eq=False)
class Cell:
    """One crop, uint8 [S, S, 3], and the bars of its label."""

    sample: int
    view: int
    crop: NDArray[np.uint8]
    bars: tuple[Bar, ...]


def draw_contact_sheet(
    out: str | os.PathLike[str],
    beton: Beton | str | os.PathLike[str],
    store: LabelStore | str | os.PathLike[str],
    *,
    teacher: int = 0,
    views: Sequence[int] | None = None,
    samples: int = 4,
    columns: int = 3,
    seed: int = 0,
) -> None:
    """Draw the cells of :func:`contact_sheet` into a file, whose ending says its format, for instance .png.

    Raises InputError where matplotlib does not know that format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    opened = store if isinstance(store, LabelStore) else LabelStore.open(store)
    formats = FigureCanvasAgg(Figure()).get_supported_filetypes()
    if Path(out).suffix[1:].lower() not in formats:
        raise InputError(f"{out} must end in one of .{', .'.join(sorted(formats))}")
    rows = contact_sheet(beton, opened, teacher=teacher, views=views, samples=samples, columns=columns, seed=seed)
    places = max(len(cell.bars) for cells in rows for cell in cells)
    height = max(CROP_HEIGHT, LINE_HEIGHT * places) * len(rows) + 0.75
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.02)
    figure = Figure(figsize=(CELL_WIDTH * len(rows[0]), height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    info = opened.manifest.teachers[teacher]
    figure.suptitle(
        f"{opened.path.name}: labels of {info.name}, the top {info.codec.k} of {info.codec.num_classes:,} classes kept",
        fontsize=11,
    )
    grid = figure.subplots(len(rows), 2 * len(rows[0]), width_ratios=(1, 1.55) * len(rows[0]), squeeze=False)
    for line, cells in zip(grid, rows, strict=True):
        for cell, crop, bars in zip(cells, line[::2], line[1::2], strict=True):
            _draw_crop(crop, cell)
            _draw_bars(bars, cell, places)
    figure.supxlabel("orange: the hard label        grey: all other classes together", fontsize=9, color=INK)
    figure.savefig(out, dpi=130)


def contact_sheet(
    beton: Beton | str | os.PathLike[str],
    store: LabelStore | str | os.PathLike[str],
    *,
    teacher: int = 0,
    views: Sequence[int] | None = None,
    samples: int = 4,
    columns: int = 3,
    seed: int = 0,
    top: int = 5,
) -> list[list[Cell]]:
    """Crops and labels: a row for each of some random samples, a column for each of the first views.

    Args:
        views: take the views from these; default all.
        samples, columns: how many at most.
        seed: of the choice of samples.
        top: classes shown of each label, besides the hard one.

    Raises:
        ManifestMismatchError: the store is of another dataset, or its crops were others.
        MissingLabelsError: nothing is committed of those views.
    """
    if samples < 1 or columns < 1:
        raise InputError(f"a contact sheet of {samples} samples x {columns} views has no cell; give 1 or more of each")
    data, opened = Beton.open(beton), store if isinstance(store, LabelStore) else LabelStore.open(store)
    opened.check_dataset(data.num_samples, data.fingerprint(), data.path)
    opened.check_teacher(teacher)
    units = _units_by_view(opened, teacher, views, columns)
    known = [np.concatenate([opened.unit_ids(unit) for unit in group]) for group in units.values()]
    common = known[0]
    for ids in known[1:]:
        common = np.intersect1d(common, ids)
    if not common.size:  # views that have no sample in common, in a store that is partly committed
        return contact_sheet(data, opened, teacher=teacher, views=list(units)[:1], samples=samples, seed=seed, top=top)
    chosen = random_order(np.sort(common), seed, 0)[:samples]
    images = ImageLoader(data, opened.views, len(chosen))
    images.partners = opened.partners
    crops = images.decode(chosen, list(units)).images.numpy()
    info = opened.manifest.teachers[teacher]
    columns_of = class_of_target(info, opened.num_classes)
    names = names_of_classes(info, opened.class_names or data.class_names)
    sheet: list[list[Cell]] = [[] for _ in chosen]
    for column, (view, group) in enumerate(units.items()):
        for unit in group:
            ids = opened.unit_ids(unit)
            rows, order = np.flatnonzero(np.isin(chosen, ids)), np.argsort(ids)
            if not rows.size:
                continue
            opened.check_unit_boxes(unit, view, data.heights, data.widths, teacher)
            at = order[np.searchsorted(ids, chosen[rows], sorter=order)]
            labels = opened.unit_labels(unit, range(view, view + 1), teacher)[0][at]
            hard = None if columns_of is None else columns_of[data.targets[chosen[rows]]]
            for row, bars in zip(rows, _bars(labels, hard, names, top), strict=True):
                sheet[row].append(Cell(int(chosen[row]), view, crops[row, column], bars))
    return sheet


def _units_by_view(
    store: LabelStore, teacher: int, views: Sequence[int] | None, columns: int
) -> dict[int, list[UnitAddress]]:
    """The committed units of each of the first ``columns`` views that have any."""
    wanted = sorted(set(range(store.num_views) if views is None else views))
    wrong = [view for view in wanted if not 0 <= view < store.num_views]
    if wrong:
        raise InputError(f"the store has no view {wrong[0]}; it has {store.num_views}, counted from 0")
    committed = store.committed(teacher)
    found = {view: [unit for unit in committed if unit.view_start <= view < unit.view_stop] for view in wanted}
    kept = [view for view in wanted if found[view]][:columns]
    if not kept:
        raise MissingLabelsError(f"{store.path} has no labels of teacher {teacher} in these views yet")
    return {view: found[view] for view in kept}


def _bars(
    labels: TopKLabels,
    hard_B: NDArray[np.int64] | None,
    names: tuple[str, ...] | None,
    top: int,
) -> list[tuple[Bar, ...]]:
    """For each label: its top classes, its hard label where that is not among them, and the rest."""
    found = []
    for row, (probs, kept) in enumerate(zip(labels.dense().numpy(), widen(labels.classes).numpy(), strict=True)):
        target = None if hard_B is None else int(hard_B[row])
        shown = [int(number) for number in kept[:top]]
        if target is not None and target not in shown:
            shown.append(target)
        bars = [Bar(class_name(names, c), float(probs[c]), "target" if c == target else "class") for c in shown]
        others = labels.num_classes - len(shown)
        if others:
            rest = max(0.0, 1 - sum(bar.probability for bar in bars))
            bars.append(Bar(f"{others:,} other class{'es' if others > 1 else ''}", rest, "rest"))
        found.append(tuple(bars))
    return found


def _draw_crop(axes: Any, cell: Cell) -> None:
    axes.imshow(cell.crop)
    axes.set_title(f"sample {cell.sample}, view {cell.view}", fontsize=8, color=INK, pad=3)
    axes.set_axis_off()


def _draw_bars(axes: Any, cell: Cell, places: int) -> None:
    """A thin bar below each name and percentage; all cells have room for ``places`` of them."""
    colours = {"class": SOFT, "target": TARGET, "rest": REST}
    for place, bar in enumerate(cell.bars):
        axes.barh(place + 0.28, 1, height=0.2, color="#f0f0f0")
        axes.barh(place + 0.28, bar.probability, height=0.2, color=colours[bar.kind])
        weight = "bold" if bar.kind == "target" else "normal"
        style = {"fontsize": 7, "va": "center", "color": TARGET if bar.kind == "target" else INK, "weight": weight}
        axes.text(0, place - 0.1, _short(bar.name), ha="left", **style)
        axes.text(1, place - 0.1, _percent(bar.probability), ha="right", **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(places - 0.5, -0.5)
    axes.set_axis_off()


def _short(name: str) -> str:
    # Matplotlib reads what stands between dollar signs as a formula.
    cut = name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1].rstrip()}…"
    return cut.replace("$", r"\$")


def _percent(probability: float) -> str:
    percent = 100 * probability
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"
