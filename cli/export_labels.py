"""fastlabel export"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
@click.argument("format_", metavar="FORMAT", type=click.Choice(["fkd-mix"]))
@click.argument("store", metavar="STORE.zarr", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA.beton", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--teacher", type=click.IntRange(min=0), default=0, show_default=True, help="Whose labels, by number.")
@click.option(
    "--temperature", type=float, default=1.0, show_default=True, help="At which the written logits give the labels."
)
@click.option("--half", is_flag=True, help="Write float16, as --use-fp16 does there.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1024, show_default=True, help="Of fkd-mix.")
@click.option("--order-seed", type=click.IntRange(0, 2**63 - 1), default=42, show_default=True, help="Of fkd-mix.")
def command(
    format_: str,
    store: Path,
    data: Path,
    out: Path,
    teacher: int,
    temperature: float,
    half: bool,
    batch_size: int,
    order_seed: int,
) -> None:
    """Write the labels and crops of STORE.zarr, whose images are in DATA.beton, as files that another trainer reads."""
    from fastlabel.interchange.fkd_mix import export_fkd_mix

    options = {"teacher": teacher, "temperature": temperature, "half": half}
    export_fkd_mix(store, data, out, batch_size=batch_size, order_seed=order_seed, **options)  # type: ignore[arg-type]
    click.echo(f"exported {store} to {out}")
