"""fastlabel demo"""

from __future__ import annotations

from typing import Any

import click


@click.command("demo")
@click.option("--out", default="demo-run", show_default=True, type=click.Path(file_okay=False), help="Where files go.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Students in each cell.")
@click.option(
    "--workers", "num_workers", type=click.IntRange(min=0), default=0, help="Decoding threads. [default: 0, all cores]"
)
def command(**options: Any) -> None:
    """Digits -> teacher -> label cache -> students with hard and with soft labels, in minutes.

    Prints a table and writes a figure. What an earlier run finished in the same folder is not run again.
    """
    from fastlabel.demo.run import DemoConfig, run_demo

    report = run_demo(DemoConfig(**options), lambda line: click.echo(line, err=True))
    click.echo(f"test accuracy, mean +- standard deviation over {options['seeds']} seeds")
    click.echo(report.table())
    click.echo(f"teacher (all images): {100 * report.teacher_accuracy:.1f} %")
    click.echo(f"figure: {report.figure}   numbers: {report.results}")
