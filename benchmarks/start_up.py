"""How long each command takes on a dataset so small that starting is all: python -m fastlabel.benchmarks.start_up

Cold is the first run without compiled kernels (an empty NUMBA_CACHE_DIR), warm the runs after it. Beside the seconds
that pass stand those of the processor, which say more where other work goes on.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Start:
    """A command's seconds, and those of the processor: cold, once; and warm."""

    cold: float
    cold_cpu: float
    warm: Timing
    warm_cpu: Timing


def run(arguments: str, folder: Path, checkout: Path | None, cache: Path | None) -> tuple[float, float]:
    """Seconds that a command takes in a new process, and those of the processor; kernels as set up, or of a folder."""
    paths = [str(checkout)] if checkout else []
    environment = {
        **os.environ,
        **({"NUMBA_CACHE_DIR": str(cache)} if cache else {}),
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "fastlabel.cli.main", *arguments.split()]
    started, used = time.perf_counter(), processor_seconds()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started, processor_seconds() - used


def processor_seconds() -> float:
    """Of all processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(names: tuple[str, ...], folder: Path, checkout: Path | None, rounds: int) -> dict[str, Start]:
    for arguments in PREPARE:
        run(arguments, folder, checkout, None)
    found = {}
    for name in names:
        cache = folder / f"kernels of {name}".replace(" ", "-")
        cold, *warm = [run(COMMANDS[name].format(n=number), folder, checkout, cache) for number in range(rounds + 1)]
        found[name] = Start(*cold, *(summary(list(seconds)) for seconds in zip(*warm, strict=True)))
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
    click.echo(f"{'seconds (of the processor)':28} {'cold':>16} {'warm':>16}")
    for name, start in found.items():
        cold, warm = (
            f"{start.cold:.2f} ({start.cold_cpu:.2f})",
            f"{start.warm.median:.2f} ({start.warm_cpu.median:.2f})",
        )
        click.echo(f"{name:28} {cold:>16} {warm:>16}")
    if out is not None:
        write_json(out, QUESTION, {"seconds": {name: asdict(start) for name, start in found.items()}})


if __name__ == "__main__":
    main()
