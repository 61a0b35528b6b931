"""python -m fastlabel.benchmarks.gpu_check [PART ...]: the parts one after another, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import click

from fastlabel.benchmarks.gpu_check.check import check_of, failed_cells, measure, read

PARTS = {"tests": "native_tests", "kernels": "kernels", "labelling": "labelling", "cifar10": "cifar10"}
SECONDS_TO_END = 60  # for a cell that was begun just before the deadline


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--out", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
@click.option("--kit", type=click.Path(path_type=Path), default=".kit", show_default=True, help="With the images.")
@click.option("--budget", default=360, show_default=True, help="Seconds after which a part begins nothing more.")
@click.option("--commit", help="Of this code, for a copy whose git does not know. [default: what git says]")
@click.option("--quick", is_flag=True, help="Tiny sizes, also without a GPU: shows that everything runs.")
@click.option("--in-this-process", is_flag=True, hidden=True)
def main(
    parts: tuple[str, ...],
    out: Path,
    kit: Path,
    budget: int,
    commit: str | None,
    quick: bool,
    in_this_process: bool,
) -> None:
    """Measure and test what only a GPU can tell. PARTS: tests, kernels, labelling, cifar10. [default: all]

    Each part writes OUT/gpu-check-PART.json, cell by cell; the same command goes on with what is missing there.
    """
    out.mkdir(parents=True, exist_ok=True)
    for part in parts or PARTS:
        if in_this_process:
            run_part(part, out / name_of(part), kit, budget, quick, commit)
            continue
        command = [sys.executable, "-m", "fastlabel.benchmarks.gpu_check", part, "--in-this-process"]
        options = ["--out", out, "--kit", kit, "--budget", budget, *(["--quick"] if quick else [])]
        options += ["--commit", commit] if commit else []
        try:
            subprocess.run([*command, *map(str, options)], timeout=budget + SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            click.echo(f"{part}: ended after {budget + SECONDS_TO_END} seconds in the midst of a cell", err=True)
    results = {part: read(out / name_of(part)) for part in parts or PARTS}
    for part, result in results.items():
        click.echo(describe(part, result))
    sys.exit(0 if all(result and result["complete"] for result in results.values()) else 1)


def name_of(part: str) -> str:
    """Of its file of results."""
    return f"gpu-check-{part}.json"


def run_part(part: str, out: Path, kit: Path, budget: float, quick: bool, commit: str | None) -> None:
    """Measure what `out` lacks of one part."""
    with tempfile.TemporaryDirectory(prefix="fastlabel-gpu-check-") as folder:
        check = check_of(kit, Path(folder), quick, budget, commit)
        module = import_module(f"fastlabel.benchmarks.gpu_check.{PARTS[part]}")
        measure(module.QUESTION, module.cells(check), check, out)


def describe(part: str, result: dict[str, object] | None) -> str:
    """One line: what was measured, and what was not."""
    if result is None:
        return f"{part}: no result"
    failed, left = failed_cells(result), result.get("left_out") or []
    cells = result["cells"]
    assert isinstance(cells, dict) and isinstance(left, list)
    parts = [f"{len(cells) - len(failed)} cells measured"]
    parts += [f"left out for lack of time: {', '.join(left)}"] if left else []
    parts += [f"failed: {name} ({error.splitlines()[0][:200]})" for name, error in failed.items()]
    return f"{part}: {'; '.join(parts)}"


if __name__ == "__main__":
    main()
