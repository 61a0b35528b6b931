"""fastlabel inspect STORE.zarr [DATA.beton]"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastlabel.inspection.inspect import Inspection, TeacherInspection
    from fastlabel.inspection.statistics import LabelSummary, Spread


@click.command("inspect")
@click.argument("store", metavar="STORE.zarr", type=click.Path(path_type=Path))
@click.argument("data", metavar="[DATA.beton]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--teacher", "teachers", type=int, multiple=True, metavar="N", help="Number N only. [default: all]")
@click.option("--views", metavar="LIST", help="Look at labels of these only: 0:8, or 0,3,5. [default: all]")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=1_000_000,
    show_default=True,
    metavar="N",
    help="Labels to look at of each teacher, at random where there are more; 0 looks at all.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every random choice.")
@click.option("--per-class", is_flag=True, help="A table of all classes: entropy, agreement, mass of the kept classes.")
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.png",
    help="Draw crops as the teacher saw them beside their labels; needs DATA.beton.",
)
@click.option("--figure-samples", type=click.IntRange(1, 50), default=4, show_default=True, help="Rows of the figure.")
@click.option("--figure-views", type=click.IntRange(1, 12), default=3, show_default=True, help="Columns of the figure.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(
    store: Path,
    data: Path | None,
    teachers: tuple[int, ...],
    views: str | None,
    samples: int,
    seed: int,
    per_class: bool,
    figure: Path | None,
    figure_samples: int,
    figure_views: int,
    as_json: bool,
) -> None:
    """Say what a label store holds, how large it is, and what its labels say.

    With DATA.beton, the dataset that it was made from, labels are compared with the hard ones. A store that is only
    partly labelled is looked at as far as it is.
    """
    if figure is not None and data is None:
        raise click.UsageError("--figure needs DATA.beton, whose crops it shows")
    from fastlabel.dataset.beton import Beton
    from fastlabel.inspection.inspect import inspect_store
    from fastlabel.store.store import LabelStore

    opened, beton = LabelStore.open(store), None if data is None else Beton.open(data)
    chosen = None if views is None else _view_list(views, opened.num_views)
    found = inspect_store(
        opened,
        beton,
        teachers=teachers or None,
        views=chosen,
        samples=samples,
        seed=seed,
        per_class=per_class,
        progress=True,
    )
    if figure is not None and beton is not None:
        from fastlabel.inspection.contact_sheet import draw_contact_sheet

        number = found.teachers[0].number
        sizes = {"samples": figure_samples, "columns": figure_views}
        draw_contact_sheet(figure, beton, opened, teacher=number, views=chosen, seed=seed, **sizes)
    if as_json:
        click.echo(json.dumps(found.to_dict() | {"figure": None if figure is None else str(figure)}))
        return
    click.echo("\n".join(_lines(found)))
    if figure is not None:
        click.echo(f"figure       {figure}")


def _view_list(text: str, count: int) -> list[int]:
    """Views that "0:8" or "0,3,5" name; either end of a range may be left out."""
    found: list[int] = []
    try:
        for part in text.split(","):
            start, colon, stop = part.partition(":")
            found += range(int(start or 0), int(stop) if stop else count) if colon else [int(part)]
    except ValueError:
        found = []
    if not found:
        raise click.BadParameter(f"{text!r} names no views; give for instance 0:8, or 0,3,5", param_hint="--views")
    return found


def _lines(found: Inspection) -> Iterable[str]:
    dataset, views = found.dataset, found.views
    yield f"store        {found.store}, format version {found.version}, {_size(found.total_bytes)}"
    yield (
        f"dataset      {dataset.num_samples:,} samples, {dataset.num_classes:,} classes, "
        f"fingerprint {dataset.fingerprint[:12]}"
    )
    yield f"labelled     {found.samples:,} samples"
    changes = "".join(f", {part}" for part in (views.pixels, views.mixing) if part is not None)
    changes += ", mixed with partners" if views.mixed else ""
    yield f"views        {found.num_views} x {views.name}, {views.size} pixels, seed {views.seed}{changes}"
    yield f"units        of {found.unit.views} views x {found.unit.samples:,} samples"
    rest = f", {_size(found.uncommitted_bytes)} of no committed unit" if found.uncommitted_bytes else ""
    yield f"metadata     {_size(found.metadata_bytes)}{rest}"
    for teacher in found.teachers:
        yield ""
        yield from _teacher_lines(teacher)


def _teacher_lines(teacher: TeacherInspection) -> Iterable[str]:
    from fastlabel.labels.transform_codec import TEMPERATURES, TransformCodec

    info, codec = teacher.info, teacher.info.codec
    tf32 = ", TF32" if info.tf32 else ""
    compiled = "" if info.forward == "eager" else f", {info.forward}"
    epoch = "" if info.epoch is None else f", epoch {info.epoch}"
    yield f"teacher {teacher.number}    {info.name}: {info.arch}{epoch}, weights {info.sha256[:12]}"
    if info.members:
        yield f"ensemble     {info.ensemble} of {', '.join(member.arch for member in info.members)}"
    yield f"precision    {info.precision}{tf32} on {info.device}, batches of {info.forward_batch}{compiled}"
    for network in info.networks:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (network.mean, network.std))
        mapped = "" if network.class_map is None else ", classes mapped"
        yield f"images       of {network.size} pixels, mean {mean}, std {std}{mapped}"
    own = "own " if info.keeps_classes else ""
    yield f"codec        {codec.to_dict()['name']}, the top {codec.k} of {codec.num_classes:,} {own}classes"
    if isinstance(codec, TransformCodec):
        yield f"transform    {codec.components} components in steps of {codec.step:g} nats"
        kept = ", ".join(
            f"{share:.1%} at T = {T}" for share, T in zip(codec.information_kept, TEMPERATURES, strict=False)
        )
        yield f"keeps        of KL(teacher, uniform) on calibration crops: {kept or 'not measured'}"
    yield (
        f"committed    {teacher.units_committed:,} of {teacher.units:,} units, {teacher.crops_committed:,} of "
        f"{teacher.crops:,} crops ({teacher.crops_committed / teacher.crops:.1%})"
    )
    if teacher.crops_committed:
        yield from _byte_lines(teacher)
    if teacher.labels is not None:
        yield from _label_lines(teacher.labels, teacher)


def _byte_lines(teacher: TeacherInspection) -> Iterable[str]:
    crops = teacher.crops_committed
    rows = [(name, f"{a.raw_per_crop}", f"{a.on_disk / crops:.2f}") for name, a in teacher.arrays.items()]
    rows.append(("records", "", f"{teacher.record_bytes / crops:.2f}"))
    raw = sum(a.raw_per_crop for a in teacher.arrays.values())
    rows.append(("together", f"{raw}", f"{teacher.bytes_per_crop:.2f}"))
    yield ""
    yield from _table(("bytes per crop", "raw", "on disk"), rows)


def _label_lines(labels: LabelSummary, teacher: TeacherInspection) -> Iterable[str]:
    yield ""
    which = "all"
    if teacher.sampled_views is not None:
        which = f"a random sample, of the views {', '.join(map(str, teacher.sampled_views))}"
    yield f"labels       {labels.labels:,} looked at: {which}"
    heads = ("nats or %", "mean", "1 %", "5 %", "25 %", "50 %", "75 %", "95 %", "99 %")
    rows = [
        ("entropy", *_spread(labels.entropy, "{:.3f}")),
        ("mass of the kept classes", *_spread(labels.kept_mass, "{:.2%}")),
    ]
    if labels.truncation_kl is not None:
        rows.append(("KL of the truncation, estimated", *_spread(labels.truncation_kl, "{:.4f}")))
    yield from _table(heads, rows)
    from fastlabel.labels.transform_codec import TransformCodec

    if labels.unknown_tails and not isinstance(teacher.info.codec, TransformCodec):
        yield f"             {labels.unknown_tails:,} labels have classes of probability zero: no KL is known of them"
    if labels.agreement is not None:
        yield f"agreement    the top class is the hard label in {labels.agreement:.2%}"
    if labels.confusions:
        worst = ", ".join(f"{c.target} as {c.predicted} {c.labels:,}" for c in labels.confusions[:5])
        yield f"confusions   {worst}"
    if labels.classes:
        yield ""
        yield from _class_lines(labels)


def _class_lines(labels: LabelSummary) -> Iterable[str]:
    rows = []
    for row in labels.classes:
        agreement = "" if row.agreement is None else f"{row.agreement:.1%}"
        rows.append((row.name, f"{row.labels:,}", f"{row.entropy:.3f}", agreement, f"{row.kept_mass:.2%}"))
    yield from _table((labels.by, "labels", "entropy", "agreement", "kept mass"), rows)


def _spread(spread: Spread, form: str) -> tuple[str, ...]:
    values = (spread.mean, spread.p1, spread.p5, spread.p25, spread.p50, spread.p75, spread.p95, spread.p99)
    return tuple(form.format(value) for value in values)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Aligned columns, the first to the left."""
    widths = [max(len(line[column]) for line in (heads, *rows)) for column in range(len(heads))]
    for line in (heads, *rows):
        rest = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        yield "  ".join((line[0].ljust(widths[0]), *rest)).rstrip()


def _size(count: int) -> str:
    if count < 10_000:
        return f"{count:,} bytes"
    power = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.1f} {('', 'kB', 'MB', 'GB', 'TB')[power]}"
