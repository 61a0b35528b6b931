"""How long each command takes on a dataset so small that starting is all of it: python -m fastlabel.benchmarks.start_up

Cold is the first run without compiled kernels (an empty NUMBA_CACHE_DIR), warm the runs after it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click

from fastlabel.benchmarks.harness import Timing, summary, write_json

QUESTION = "What does starting a command cost, with and without compiled kernels?"
DATA, STORE, TEACHER = "test.beton", "labels.zarr", "teacher/epoch-001.pt"
TRAIN = f"{DATA} --val {DATA} --arch convnet-d1-w8 --epochs 1"
PREPARE = (
    f"write-dataset digits:test {DATA}",
    f"train-teacher {TRAIN} --out teacher",
    f"cache-labels {DATA} {STORE} --teacher {TEACHER} --views 1 --k 3 --view-policy pad-crop",
)
COMMANDS = {  # name: arguments, with {n} for the number of the run
    "--help": "--help",
    "train-student --help": "train-student --help",
    "inspect STORE": f"inspect {STORE}",
    "verify STORE": f"verify {STORE}",
    "verify STORE DATA": f"verify {STORE} {DATA}",
    "copy STORE OUT": f"copy {STORE} copy-{{n}}.zarr",
    "cache-labels": f"cache-labels {DATA} new-{{n}}.zarr --teacher {TEACHER} --views 1 --k 3 --view-policy pad-crop",
    "train-student": f"train-student {TRAIN.replace(DATA, f'{DATA} {STORE}', 1)} --out student-{{n}}",
}


def run(arguments: str, folder: Path, checkout: Path | None, cache: Path) -> float:
    """Seconds that a command takes in a new process."""
    paths = [str(checkout)] if checkout else []
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "fastlabel.cli.main", *arguments.split()]
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def measure(
    names: tuple[str, ...], folder: Path, checkout: Path | None, rounds: int
) -> dict[str, tuple[float, Timing]]:
    """Seconds of each command: cold, once; and warm."""
    for arguments in PREPARE:
        run(arguments, folder, checkout, folder / "kernels")
    found = {}
    for name in names:
        cache = folder / f"kernels of {name}".replace(" ", "-")
        cold, *warm = [run(COMMANDS[name].format(n=number), folder, checkout, cache) for number in range(rounds + 1)]
        found[name] = cold, summary(warm)
    return found


@click.command()
@click.option("--command", "names", type=click.Choice(list(COMMANDS)), multiple=True, help="[default: all]")
@click.option("--rounds", default=5, show_default=True, help="Warm runs of each command.")
@click.option(
    "--checkout",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="Run the fastlabel of that folder instead, for a comparison.",
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(names: tuple[str, ...], rounds: int, checkout: Path | None, out: Path | None) -> None:
    """Measure the start of commands."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(names or tuple(COMMANDS), Path(folder), checkout, rounds)
    for name, (cold, warm) in found.items():
        click.echo(f"{name:22} cold {cold:6.2f} s  warm {warm.median:6.2f} s ({warm.p20:.2f} to {warm.p80:.2f})")
    if out is not None:
        figures = {name: {"cold": cold, "warm": asdict(warm)} for name, (cold, warm) in found.items()}
        write_json(out, QUESTION, {"seconds": figures})


if __name__ == "__main__":
    main()
