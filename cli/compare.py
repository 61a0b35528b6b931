"""fastlabel compare"""

from __future__ import annotations

import json
from pathlib import Path

import click

CROPS = {True: "the same", False: "others", None: "not known: the stores have other units"}


@click.command("compare")
@click.argument("store_a", metavar="STORE_A", type=click.Path(path_type=Path))
@click.argument("store_b", metavar="STORE_B", type=click.Path(path_type=Path))
@click.option("--teacher-a", type=click.IntRange(min=0), default=0, show_default=True, help="Of STORE_A, by number.")
@click.option("--teacher-b", type=click.IntRange(min=0), default=0, show_default=True, help="Of STORE_B, by number.")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=2048,
    show_default=True,
    help="Random samples, in at most 8 views; 0: all, in all views.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Chooses them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    store_a: Path, store_b: Path, teacher_a: int, teacher_b: int, samples: int, seed: int, as_json: bool
) -> None:
    """Say how the labels of two stores of one dataset differ: divergence, agreement, bytes."""
    from fastlabel.inspection.compare import compare_stores

    found = compare_stores(
        store_a, store_b, teacher_a=teacher_a, teacher_b=teacher_b, samples=samples, seed=seed, progress=True
    )
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    click.echo(f"compared     {found.labels:,} labels; both have {found.samples:,} samples x {found.views:,} views")
    click.echo(f"crops        {CROPS[found.same_crops]}")
    click.echo(f"top class    the same in {found.agreement:.2%}")
    if found.equal is not None:
        click.echo(f"labels       equal to the last code in {found.equal:.2%}")
    for one in found.divergences:
        click.echo(
            f"T = {one.temperature:<4g}     KL(A||B) {one.forward:.4g}, KL(B||A) {one.backward:.4g} nats; "
            f"KL(A||uniform) {one.uniform:.4g}"
        )
    click.echo(f"kept         {found.k[0]} and {found.k[1]} classes, {found.bytes[0]:,} and {found.bytes[1]:,} bytes")
