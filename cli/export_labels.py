"""fastlabel export"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FORMATS = ("fkd-mix", "fkd", "tinyvit", "dense")
# Options that not all formats have: the name that the command line shows, and these formats.
OWNERS = {
    "temperature": ("--temperature", ("fkd-mix", "dense")),
    "half": ("--half", ("fkd-mix", "dense")),
    "batch_size": ("--batch-size", ("fkd-mix",)),
    "order_seed": ("--order-seed", ("fkd-mix",)),
}


@click.command("export")
@click.argument("format_", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("store", metavar="STORE.zarr", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA.beton", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--teacher", type=click.IntRange(min=0), default=0, show_default=True, help="Whose labels, by number.")
@click.option("--temperature", type=float, help="At which the written logits give the labels.  [default: 1]")
@click.option("--half", is_flag=True, default=None, help="Write float16, as SRe2L's --use-fp16 does.")
@click.option("--batch-size", type=click.IntRange(min=1), help="fkd-mix: labels in a file.  [default: 1024]")
@click.option("--order-seed", type=click.IntRange(0, 2**63 - 1), help="fkd-mix: its --fkd-seed.  [default: 42]")
def command(format_: str, store: Path, data: Path, out: Path, teacher: int, **own: Any) -> None:
    """Write the labels and crops of STORE.zarr, whose images are in DATA.beton, as files that another trainer reads.

    FORMAT is fkd-mix, fkd or tinyvit (OUT is a folder), or dense (OUT ends in .npz or .safetensors).
    docs/interchange.md says what each cannot hold.
    """
    from fastlabel.interchange.dense import export_dense
    from fastlabel.interchange.fkd_images import export_fkd
    from fastlabel.interchange.fkd_mix import export_fkd_mix
    from fastlabel.interchange.tinyvit import export_tinyvit

    given = {name: value for name, value in own.items() if value is not None}
    for name in given:
        if format_ not in OWNERS[name][1]:
            raise click.UsageError(f"{OWNERS[name][0]} is an option of {', '.join(OWNERS[name][1])}; this is {format_}")
    functions: dict[str, Any] = {
        "fkd-mix": export_fkd_mix, "fkd": export_fkd, "tinyvit": export_tinyvit, "dense": export_dense
    }  # fmt: skip
    functions[format_](store, data, out, teacher=teacher, **given)
    click.echo(f"exported {store} to {out}")
