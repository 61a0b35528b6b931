"""wds:PATTERN: tars as WebDataset has them, read by position: KEY.jpg (or another image) beside KEY.cls."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from fastlabel.dataset.image_files import UnreadableImageError, read_image_bytes
from fastlabel.errors import DatasetError, InputError
from fastlabel.system.regular_files import open_regular

IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif"}
TARGET = "cls"
MOST_DIGITS = 18
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class _Place:
    shard: Path
    key: str
    offset: int
    nbytes: int
    target: int


class TarSource:
    """Samples in the order of the shards' names, and within a shard in its own. Classes are numbers."""

    write_mode = "jpg"

    def __init__(self, text: str) -> None:
        shards = _shards(text.partition(":")[2])
        self.classes: list[str] = []
        self.not_images: list[str] = []
        self._places = [place for shard in shards for place in self._read(shard)]
        if not self._places:
            raise DatasetError(f"{text} holds no images: expected KEY.jpg and KEY.{TARGET} in each tar")

    def __len__(self) -> int:
        return len(self._places)

    def name(self, row: int) -> str:
        place = self._places[row]
        return f"{place.key} in {place.shard}"

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        data, target = self.file(row)
        return read_image_bytes(data), target

    def file(self, row: int) -> tuple[bytes, int]:
        place = self._places[row]
        try:
            with open(open_regular(place.shard), "rb") as file:
                data = os.pread(file.fileno(), place.nbytes, place.offset)
        except OSError as error:
            raise UnreadableImageError(str(error)) from error
        return data, place.target

    def _read(self, shard: Path) -> list[_Place]:
        """The samples of one tar, of whose images only the headers are read."""
        images: dict[str, tarfile.TarInfo] = {}
        targets: dict[str, int] = {}
        try:
            # Not compressed ("r:"): what is read by position must be there as it is.
            with open(open_regular(shard), "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    key, suffix = _key(member.name)
                    if not member.isfile():
                        continue
                    if suffix in IMAGES:
                        if key in images:
                            raise DatasetError(f"{shard} has two images of {key}: expected one of each key")
                        images[key] = member
                    elif suffix == TARGET:
                        targets[key] = _target(shard, key, tar, member)
                    else:
                        self.not_images.append(f"{member.name} in {shard}")
        except (OSError, tarfile.TarError) as error:
            raise DatasetError(f"{shard} cannot be read as a tar that is not compressed: {error}") from error
        lacking = [key for key in images if key not in targets]
        if lacking:
            raise DatasetError(
                f"{shard} has no class of {len(lacking)} images, for example {lacking[0]}: expected "
                f"{lacking[0]}.{TARGET}"
            )
        size = shard.stat().st_size
        for key, member in images.items():
            if member.offset_data + member.size > size:
                raise DatasetError(f"{shard} is cut short: {key} ends after its last byte")
        return [_Place(shard, key, one.offset_data, one.size, targets[key]) for key, one in images.items()]


def _shards(pattern: str) -> list[Path]:
    """The tars of a pattern: * and ? as of a shell, {000..012} as of WebDataset."""
    ranges = _RANGE.findall(pattern)
    count = 1
    for low, high in ranges:
        count *= max(0, int(high) - int(low) + 1)
    if not pattern or not 0 < count <= MOST_SHARDS:
        raise InputError(f"wds:{pattern}: expected tars, as in wds:data/train-*.tar or wds:train-{{000..012}}.tar")
    parts = _RANGE.split(pattern)[::3]
    numbers = [[f"{n:0{len(low)}d}" for n in range(int(low), int(high) + 1)] for low, high in ranges]
    names = ["".join(f"{part}{n}" for part, n in zip(parts, [*some, ""], strict=True)) for some in product(*numbers)]
    shards = [Path(found) for name in names for found in (sorted(glob.glob(name)) or [name])]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise DatasetError(f"wds:{pattern}: {len(missing)} tars do not exist, for example {missing[0]}")
    return shards


def _key(name: str) -> tuple[str, str]:
    """The key of a sample and the suffix in lower case: a key ends at the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    key, _, suffix = file.partition(".")
    return (f"{folder}/{key}" if folder else key), suffix.lower()


def _target(shard: Path, key: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = tar.extractfile(member)
    text = b"" if file is None else file.read(MOST_DIGITS + 2).strip()
    if not text.isdigit() or len(text) > MOST_DIGITS:
        raise DatasetError(f"{key}.{TARGET} in {shard} must be the number of a class, not {text[:20]!r}")
    return int(text)
