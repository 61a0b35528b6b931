"""What does a label store of ImageNet's size cost, next to the disk that it lies on?

    python -m fastlabel.benchmarks.big_store [--folder FOLDER] [--json OUT]

1.28 M samples, 8 views, K=16 of 1,000 classes: bytes per crop, and the time to write, open, read a plane and verify,
in turns with plain files of as many bytes in the same folder. The labels are synthetic: they are encoded from made
logits (groups of like classes, heavy-tailed noise of the sample and of the crop, samples in the order of their classes
as write-dataset has them), whose entropy is near that of an ImageNet teacher under random crops.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from fastlabel.benchmarks.harness import alternate, summary, write_json
from fastlabel.digests import ids_digest
from fastlabel.inspection.inspect import Inspection, inspect_store
from fastlabel.integrity.verify import verify_store
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels
from fastlabel.store import units as store_units
from fastlabel.store.manifest import DatasetInfo, Manifest, Segment, TeacherInfo, Unit
from fastlabel.store.store import LabelStore, compressed_bytes, empty_labels
from fastlabel.store.units import ARRAYS, UnitAddress
from fastlabel.views import ViewPolicy

QUESTION = (
    "an ImageNet-sized store of synthetic labels: bytes, and time to write, open, read and verify, next to the disk"
)
ROWS = 8192  # of logits at a time
POOL = 8192  # rows of noise
BLOCK = 1 << 20
HEIGHT, WIDTH = 375, 500
GROUP = 20  # classes that are like one another


class SyntheticLogits:
    """Logits of crops, a pure function of view and sample: no teacher, but labels of a plausible shape.

    The noise of a crop is the sum of two rows of one pool, one drawn for its sample and one for the crop itself: to
    draw all noise anew would take longer than everything that is measured.
    """

    def __init__(self, samples: int, classes: int) -> None:
        random = torch.Generator().manual_seed(0)
        groups = torch.arange(classes) // GROUP
        between = 1.5 * torch.randn(int(groups[-1]) + 1, int(groups[-1]) + 1, generator=random)
        like = between[groups][:, groups] + 4.0 * (groups[:, None] == groups)
        self._means_CC = like + torch.randn(classes, classes, generator=random)
        noise = torch.randn(POOL, classes, generator=random)
        self._pool_PC = 0.9 * (noise + 0.05 * noise * noise * noise)
        self._targets = torch.arange(samples) * classes // samples
        self._sample_rows = torch.randint(POOL, (samples,), generator=random)

    def __call__(self, view: int, start: int, stop: int) -> Tensor:
        """float32 [stop - start, C]."""
        random, targets = torch.Generator().manual_seed((start << 16) + view), self._targets[start:stop]
        logits = self._means_CC[targets]
        logits += self._pool_PC[self._sample_rows[start:stop]]
        logits += self._pool_PC[torch.randint(POOL, targets.shape, generator=random)]
        # How sure the teacher is of the true class, differs from crop to crop.
        logits[torch.arange(len(targets)), targets] += 7 + 3.5 * torch.randn(len(targets), generator=random)
        return logits


def make_manifest(samples: int, views: int, k: int, classes: int) -> Manifest:
    codec, ids = TopKCodec(k, classes), np.arange(samples, dtype=np.int64)
    teacher = TeacherInfo(
        name="synthetic",
        arch="none",
        sha256="0" * 64,
        epoch=0,
        size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        precision="fp32",
        tf32=False,
        device="cpu",
        forward_batch=64,
        codec=codec,
    )
    return Manifest(
        DatasetInfo(samples, classes, "0" * 64),
        (Segment(samples, ids_digest(ids)),),
        ViewPolicy.random_resized_crop(224),
        views,
        Unit.for_store(views, samples, codec.nbytes_per_label),
        (teacher,),
    )


def make_unit(logits: SyntheticLogits, store: LabelStore, unit: UnitAddress) -> dict[str, NDArray[Any]]:
    """The labels of a unit, as LabelStore.write takes them."""
    codec = store.manifest.teachers[0].codec
    arrays = empty_labels(codec, unit.shape)
    for view in range(unit.view_start, unit.view_stop):
        for start in range(unit.sample_start, unit.sample_stop, ROWS):
            stop = min(start + ROWS, unit.sample_stop)
            labels = codec.encode(logits(view, start, stop))
            for name in ARRAYS:
                rows = slice(start - unit.sample_start, stop - unit.sample_start)
                arrays[name][view - unit.view_start, rows] = getattr(labels, name).numpy()
    return arrays


def write_store(store: LabelStore, plain: Path) -> dict[str, Any]:
    """Write all units, each followed by a plain file of as many bytes; seconds of each unit and of each file."""
    logits = SyntheticLogits(len(store.ids), store.num_classes)
    units, disk, making = [], [], []
    written = 0
    for unit in tqdm(list(store.units()), "write", disable=None):
        started = time.perf_counter()
        labels, ids = make_unit(logits, store, unit), store.unit_ids(unit)
        sizes = np.full(len(ids), HEIGHT, np.int32), np.full(len(ids), WIDTH, np.int32)
        boxes = [store.views.boxes(view, ids, *sizes) for view in range(unit.view_start, unit.view_stop)]
        making.append(time.perf_counter() - started)
        started = time.perf_counter()
        store.write(unit, 0, labels, boxes)
        units.append(time.perf_counter() - started)
        nbytes = sum(store_units.shard_path(store.path, 0, name, unit).stat().st_size for name in ARRAYS)
        disk.append(_write_plain(plain, nbytes))
        written += nbytes
    shuffled = np.random.default_rng(0).permutation(len(labels["codes"][0]))
    classes, codes, tail = (torch.from_numpy(labels[name][0][shuffled]) for name in ARRAYS)
    last = TopKLabels(classes, codes, tail, store.num_classes)
    return {
        "write": {"seconds": sum(units), "unit": asdict(summary(units)), "bytes": written},
        "write_disk": {"seconds": sum(disk), "unit": asdict(summary(disk))},
        "encode": {"seconds": sum(making)},
        "bytes_per_crop_shuffled": compressed_bytes(last, store.manifest.teachers[0].codec) / len(last),
    }


def _write_plain(path: Path, nbytes: int) -> float:
    """Seconds to write and fsync a file of random bytes."""
    data = np.random.default_rng(0).bytes(nbytes)
    started = time.perf_counter()
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - started


def drop_cached(root: Path) -> None:
    """Ask the kernel to forget the pages of a file, or of all files of a folder; they are on disk already."""
    for path in root.rglob("*") if root.is_dir() else [root]:
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def _read_plain(path: Path) -> None:
    buffer = bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _cold(cases: dict[str, Any], files: dict[str, Path]) -> Iterator[tuple[str, Any]]:
    for name, case in cases.items():
        yield name, case
        yield f"{name}_cold", partial(_uncached, case, files[name])


def _uncached(case: Callable[[], object], file: Path) -> None:
    drop_cached(file)
    case()


def read_store(path: Path, plain: Path, nbytes: int, rounds: int) -> dict[str, Any]:
    """Seconds to open the store, to read a plane, and a plain file of its size; cached by the kernel, or not."""
    store = LabelStore.open(path)
    views = iter(np.arange(2 * (rounds + 1)) % store.num_views)
    _write_plain(plain, nbytes // store.num_views)
    cases = {"plane": lambda: store.plane(int(next(views))), "plane_disk": lambda: _read_plain(plain)}
    timings = alternate(dict(_cold(cases, {"plane": path, "plane_disk": plain})), rounds)
    opens = {"open": lambda: LabelStore.open(path), "open_and_ids": lambda: LabelStore.open(path).ids}
    return timings | alternate(opens, rounds)


def verify_all(path: Path, plain: Path, nbytes: int, rounds: int) -> dict[str, Any]:
    """Seconds to verify the whole store, and to read a plain file of its size."""
    _write_plain(plain, nbytes)

    def verify() -> None:
        report = verify_store(path)
        assert report.sound and report.complete, report.findings[:3]

    cases = {"verify": verify, "verify_disk": lambda: _read_plain(plain)}
    return alternate(dict(_cold(cases, {"verify": path, "verify_disk": plain})), rounds)


class PeakMemory:
    """The most memory that this process had during each phase, in bytes; Linux alone says so."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._reset()

    def phase(self, name: str) -> None:
        """A phase has ended, the next one begins."""
        lines = Path("/proc/self/status").read_text().splitlines()
        self.bytes[name] = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        self._reset()

    def _reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")


def measure(folder: Path, manifest: Manifest, rounds: int, verify_rounds: int) -> tuple[dict[str, Any], Inspection]:
    """All figures of a store that is made in ``folder``."""
    path, plain = folder / "labels.zarr", folder / "plain"
    memory = PeakMemory()
    memory.phase("imports")
    store = LabelStore.create(path, manifest, [np.arange(manifest.num_labelled, dtype=np.int64)])
    figures = write_store(store, plain)
    memory.phase("write")
    started = time.perf_counter()
    inspection = inspect_store(path)
    figures["inspect"] = {"seconds": time.perf_counter() - started}
    memory.phase("inspect")
    nbytes = figures["write"]["bytes"]
    figures |= read_store(path, plain, nbytes, rounds)
    memory.phase("plane")
    figures |= verify_all(path, plain, nbytes, verify_rounds)
    memory.phase("verify")
    # More processes than cores: absolute times are then of a busy machine, ratios are not.
    figures["load_average"] = os.getloadavg()[2]
    return figures | {"peak_memory_bytes": memory.bytes}, inspection


@click.command()
@click.option("--samples", default=1_281_167, show_default=True)
@click.option("--views", default=8, show_default=True)
@click.option("--k", default=16, show_default=True)
@click.option("--classes", default=1000, show_default=True)
@click.option("--rounds", default=9, show_default=True, help="For opening and planes.")
@click.option("--verify-rounds", default=3, show_default=True)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="On the disk to measure.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(
    samples: int,
    views: int,
    k: int,
    classes: int,
    rounds: int,
    verify_rounds: int,
    folder: Path | None,
    out: Path | None,
) -> None:
    """Write, open, read and verify a store of synthetic labels, next to plain files."""
    place = Path(tempfile.mkdtemp(prefix="big-store-", dir=folder))
    try:
        figures, found = measure(place, make_manifest(samples, views, k, classes), rounds, verify_rounds)
    finally:
        shutil.rmtree(place)
    teacher = found.teachers[0]
    labels = teacher.labels
    assert labels is not None and teacher.bytes_per_crop is not None
    shape = {"samples": samples, "views": views, "k": k, "classes": classes, "synthetic": True}
    size = {
        "bytes_per_crop": teacher.bytes_per_crop,
        "arrays": {name: array.on_disk / teacher.crops for name, array in teacher.arrays.items()},
        "total_bytes": found.total_bytes,
        "mean_entropy": labels.entropy.mean,
        "mean_kept_mass": labels.kept_mass.mean,
    }
    click.echo(
        f"{samples:,} samples x {views} views, synthetic labels of entropy {labels.entropy.mean:.2f} nats: "
        f"{teacher.bytes_per_crop:.1f} bytes per crop"
    )
    for name in ("write", "plane", "plane_cold", "verify", "verify_cold"):
        disk = name.replace("_cold", "_disk_cold") if name.endswith("_cold") else f"{name}_disk"
        mine, other = (_seconds(figures[case]) for case in (name, disk))
        click.echo(f"{name:12s} {mine:8.3f} s, the disk alone {other:8.3f} s")
    click.echo(f"open         {figures['open'].median:8.3f} s, with sample ids {figures['open_and_ids'].median:8.3f} s")
    click.echo(f"peak memory  {max(figures['peak_memory_bytes'].values()) / 1e6:,.0f} MB")
    if out is not None:
        write_json(out, QUESTION, {**shape, **size, **figures})


def _seconds(figure: Any) -> float:
    return figure["seconds"] if isinstance(figure, dict) else figure.median


if __name__ == "__main__":
    main()
