"""write_dataset(): images into one .beton file, the same bytes however many threads encode them."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastlabel.dataset.beton_writer import BetonFile
from fastlabel.dataset.class_names import class_names_path
from fastlabel.dataset.encode import RESTART_INTERVAL, Encoded, Encoder
from fastlabel.dataset.given_classes import Renumbered, given_names
from fastlabel.dataset.image_files import UnreadableImageError
from fastlabel.dataset.sources import Source, open_source, with_files
from fastlabel.errors import DatasetError, InputError
from fastlabel.system.atomic_files import new_file, write_file
from fastlabel.system.progress import Progress

IN_FLIGHT_PER_WORKER = 4  # bounds the memory: encoded images waiting for their turn


@dataclass(frozen=True)
class WriteReport:
    """What was written.

    Attributes:
        left_out: one "name: reason" for each unreadable image, in order.
        not_images: files and folders of the source that were not looked at, as their names tell no image.
        kept: JPEGs that were stored as they were.
    """

    path: str
    num_samples: int
    classes: tuple[str, ...]
    nbytes: int
    write_mode: str
    left_out: tuple[str, ...]
    not_images: tuple[str, ...]
    kept: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_dataset(
    source: str | Path | Source | Any,
    out: str | Path,
    *,
    write_mode: str | None = None,
    max_resolution: int | None = None,
    jpeg_quality: int = 90,
    smart_threshold: int | None = None,
    restart_interval: int | None = None,
    workers: int = 0,
    skip_broken: bool = False,
    force: bool = False,
    progress: bool = True,
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
) -> WriteReport:
    """Write `source` (see open_source) to `out`, and its class names to `out`.json beside it.

    source: a folder, a name, or any torch dataset whose items are (image, class). classes: names in order, a text file
    of them, or another .beton: a class gets its number there, as a validation set needs those of its training set.

    write_mode: jpg, raw, smart, keep (JPEGs that fit as they are, the others as jpg), or None for the source's own:
    raw for the digits, jpg for the others.
    restart_interval: MCUs between restart markers of the JPEGs, at most; 0 for none; None for 2.
    workers: threads that read and encode; 0 takes every core. skip_broken: leave unreadable images out (the
    report lists them) instead of stopping at the first. `out` appears whole or not at all.
    Raises InputError for arguments, DatasetError for the data.
    """
    out = Path(out)
    if workers < 0:
        raise InputError(f"{workers} workers: expected 0 (every core) or more")
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out} cannot be a file: expected a name inside an existing folder")
    if out.exists() and not force:
        raise DatasetError(f"{out} exists: choose another name, or pass --force to replace it")
    options = (max_resolution, jpeg_quality, smart_threshold)
    _encoder(write_mode or "jpg", options, restart_interval)  # before the source is read
    opened = open_source(source)
    encoder = _encoder(write_mode or opened.write_mode, options, restart_interval)
    if encoder.write_mode == "keep":
        with_files(opened)
    opened = _with_classes(opened, source, classes)
    with new_file(out, replace=force, error=DatasetError) as handle:
        beton = BetonFile(handle, max_samples=len(opened))
        written = _write_samples(beton, opened, encoder, workers or _num_cores(), skip_broken, progress)
        nbytes = beton.finish()
        named = source if isinstance(source, (str, Path)) else type(source).__name__
        _write_class_names(out, written.classes, str(named))
    return WriteReport(
        str(out),
        written.num_samples,
        tuple(written.classes),
        nbytes,
        encoder.write_mode,
        tuple(written.left_out),
        tuple(opened.not_images),
        written.kept,
    )


def _encoder(write_mode: str, options: tuple[int | None, int, int | None], restart_interval: int | None) -> Encoder:
    if restart_interval is None:
        restart_interval = 0 if write_mode in ("raw", "keep") else RESTART_INTERVAL
    return Encoder(write_mode, *options, restart_interval)


def _with_classes(opened: Source, source: Any, classes: Any) -> Source:
    """The source with the classes that are given. DatasetError for one whose only class can be none."""
    if classes is not None:
        names = given_names(classes)
        if opened.classes:
            return Renumbered(opened, names)
        opened.classes = names
    elif getattr(opened, "one_folder", None) is not None:
        raise DatasetError(
            f"{source} has one folder, {opened.classes[0]}, which looks like all images and not like a class: sort "
            "them into a folder for each class; if it is one, name it with --classes FILE"
        )
    return opened


@dataclass(frozen=True)
class _Written:
    num_samples: int
    classes: list[str]
    left_out: list[str]
    kept: int


def _write_samples(
    beton: BetonFile, source: Source, encoder: Encoder, workers: int, skip_broken: bool, progress: bool
) -> _Written:
    counts: Counter[int] = Counter()
    left_out: list[str] = []
    kept = 0
    bar = Progress("write-dataset", len(source), "images", shown=progress)
    with bar, closing(_in_order(source, encoder, workers)) as futures:
        for row, future in futures:
            try:
                encoded, target = future.result()
            except UnreadableImageError as error:
                if not skip_broken:
                    raise DatasetError(
                        f"{source.name(row)}: {error}; repair it, or pass --skip-broken to leave it out"
                    ) from error
                left_out.append(f"{source.name(row)}: {error}")
            else:
                if target < 0 or (source.classes and target >= len(source.classes)):
                    raise DatasetError(f"{source.name(row)}: class {target} of {len(source.classes)} classes")
                beton.append(encoded.image_field, encoded.payload, target)
                counts[target] += 1
                kept += encoded.kept
            bar.update()
    if not counts:
        raise DatasetError(f"not one of the {len(source)} images can be read; the first: {left_out[:1]}")
    classes = source.classes or [str(target) for target in range(max(counts) + 1)]
    empty = [name for target, name in enumerate(classes) if not counts[target]]
    if left_out and empty:
        raise DatasetError(f"no readable image is left in class {', '.join(empty)}; the first left out: {left_out[0]}")
    return _Written(counts.total(), classes, left_out, kept)


def _in_order(
    source: Source, encoder: Encoder, workers: int
) -> Generator[tuple[int, Future[tuple[Encoded, int]]], None, None]:
    """Every row of the source with its encoding, in order; a bounded number of them in the works."""

    files = with_files(source) if encoder.write_mode == "keep" else None

    def work(row: int) -> tuple[Encoded, int]:
        if files is not None:
            data, target = files.file(row)
            return encoder.keep(data), target
        image, target = source.sample(row)
        return encoder.encode(image), target

    waiting: deque[tuple[int, Future[tuple[Encoded, int]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fastlabel-write")
    try:
        for row in range(len(source)):
            waiting.append((row, pool.submit(work, row)))
            if len(waiting) >= workers * IN_FLIGHT_PER_WORKER:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_class_names(out: Path, classes: list[str], source: str) -> None:
    text = json.dumps({"format": 1, "classes": classes, "source": source}, ensure_ascii=False, indent=1)
    # A path of bytes that are no UTF-8 becomes an escape, which JSON knows too.
    write_file(class_names_path(out), text.encode("utf-8", "backslashreplace") + b"\n")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
