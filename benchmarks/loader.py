"""How many crops a second do loaders make of JPEGs, ours and its peers, on two cores?

    python -m fastlabel.benchmarks.loader [--photos FOLDER] [--json OUT]

ImageLoader at 1, 2, 4 and 8 views of each decoded image, SoftLabelLoader at one; FFCV's Loader with its
RandomResizedCrop; torch's DataLoader with torchvision's. All decode the very same JPEGs, with two workers, and every
record of an epoch is another one: copies of a sample in one batch would be decoded once. And the
kernel that makes one crop, on one core.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fastlabel.benchmarks import crop_kernel, loader_cases
from fastlabel.benchmarks.harness import Timing, alternate, write_json
from fastlabel.benchmarks.isolated import Isolated
from fastlabel.benchmarks.photos import photo_beton, write_jpegs
from fastlabel.benchmarks.question import Answer, Setup, bars, rate, rate_cells
from fastlabel.dataset.beton import Beton

QUESTION = "crops a second of loaders of JPEGs, two workers: several views of a decoded image, and the peers"
VIEWS = (1, 2, 4, 8)
FFCV, TORCHVISION, WITH_LABELS = "FFCV RandomResizedCrop", "torchvision DataLoader", "SoftLabelLoader"


@dataclass(frozen=True)
class Loaded:
    """A loader's epochs: how long, how many crops, and how far its process grew at its peak (None: not known).

    Growth is that of private memory since its modules were imported; of a loader with worker processes it is unknown.
    cpu_ms is the processor time of a crop in milliseconds, of all processes of the loader.
    """

    seconds: Timing
    crops: int
    times_ffcv: float
    memory_bytes: int | None
    cpu_ms: float | None


def view_name(views: int) -> str:
    return f"ImageLoader, {views} view{'s' if views > 1 else ''}"


def measure(
    beton: Path, jpegs: Path, size: int, batch_size: int, epoch_of: int, views: Sequence[int], rounds: int
) -> dict[str, Loaded]:
    """Every loader's epochs of about ``epoch_of`` images, in turns, each in a process of its own."""
    shape = (size, batch_size, epoch_of)
    with ExitStack() as stack:

        def isolated(make: Any, *arguments: Any) -> Isolated:
            return stack.enter_context(Isolated(make, *arguments))

        cases = {view_name(v): isolated(loader_cases.our_views, beton, *shape, v) for v in views}
        cases[WITH_LABELS] = isolated(loader_cases.our_loader, beton, *shape)
        cases[FFCV] = isolated(loader_cases.ffcv_loader, beton, *shape)
        cases[TORCHVISION] = isolated(loader_cases.torchvision_loader, jpegs, *shape)
        seconds = alternate(cases, rounds)
        crops = {name: int(case.result) for name, case in cases.items()}
        cpu = {name: case.cpu_seconds() for name, case in cases.items()}
        memory = {name: None if name == TORCHVISION else case.memory_bytes() for name, case in cases.items()}
    rates = {name: crops[name] / seconds[name].median for name in cases}
    return {
        name: Loaded(seconds[name], crops[name], rates[name] / rates[FFCV], memory[name], _each(cpu[name], crops[name]))
        for name in cases
    }


def _each(seconds: float | None, count: int) -> float | None:
    """Milliseconds of one of so many."""
    return None if seconds is None else 1e3 * seconds / count


def answer(setup: Setup) -> Answer:
    """The question at 224 pixels and batches of 256 crops."""
    size, batch_size = (32, 8) if setup.quick else (224, 256)
    # Long epochs: FFCV allocates gigabytes at the beginning of each, which a real one would hardly notice.
    epoch_of, views = setup.size(5600, 16), VIEWS[1:2] if setup.quick else VIEWS
    beton = photo_beton(setup.folder, setup.photos, setup.size(200, 16), 1000, at_least=epoch_of)
    jpegs = setup.folder / "loader-jpegs"
    write_jpegs(Beton.open(beton), jpegs)
    loaders = measure(beton, jpegs, size, batch_size, epoch_of, views, setup.rounds_or(5))
    kernel = crop_kernel.measure(setup.size(50, 2))
    shape = {"size": size, "batch_size": batch_size, "workers": loader_cases.WORKERS, "epoch_of": epoch_of}
    notes = [
        f"{'Photos' if setup.photos else 'Photo-like images made here'}, at most 500 pixels, JPEG 90; crops of "
        f"{size} pixels, {batch_size} in a batch; private memory beyond the imports, at its peak.",
        "One crop of 340x360 to 224x224 on one core: "
        + ", ".join(f"{name} {1e3 * timing.median:.3f} ms" for name, timing in kernel.items()),
    ]
    rates = {name: rate(loaded.seconds, loaded.crops) for name, loaded in loaders.items()}
    plot = bars(rates, "crops/s", [name for name in rates if name not in (FFCV, TORCHVISION)])
    heads = ("loader", "crops/s", "p20 to p80", "times FFCV", "CPU ms a crop", "MB")
    figures = {"photos": setup.photos is not None, **shape, "loaders": loaders, "kernel": kernel}
    return Answer(QUESTION, figures, heads, _rows(loaders), notes, plot)


def _rows(loaders: dict[str, Loaded]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, loaded in loaders.items():
        memory = "" if loaded.memory_bytes is None else f"{loaded.memory_bytes / 1e6:.0f}"
        speed = rate_cells(loaded.seconds, loaded.crops)
        cpu = "" if loaded.cpu_ms is None else f"{loaded.cpu_ms:.3f}"
        rows.append((name, *speed, f"{loaded.times_ffcv:.2f}", cpu, memory))
    return rows


@click.command()
@click.option("--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="[default: made here]")
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help="Tiny sizes, whose figures mean nothing.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(photos: Path | None, rounds: int, quick: bool, out: Path | None) -> None:
    """Measure loaders of JPEGs."""
    with tempfile.TemporaryDirectory() as folder:
        result = answer(Setup(Path(folder), photos, rounds, quick))
    click.echo("\n".join(result.lines()))
    if out is not None:
        figures = {key: value for key, value in result.to_dict().items() if key != "question"}
        write_json(out, QUESTION, figures)


if __name__ == "__main__":
    main()
