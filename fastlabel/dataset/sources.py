"""Where write-dataset takes its images from: a folder of class folders, the digits, a torchvision dataset."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from PIL import Image

from fastlabel.dataset.digits import SPLITS, load_digits
from fastlabel.dataset.image_files import UnreadableImageError, read_bytes, read_image, to_rgb
from fastlabel.errors import DatasetError, InputError

# What file managers and disk stations leave behind, besides hidden files.
LEFT_BEHIND = {"thumbs.db", "desktop.ini", "@eadir", "@recycle", "#recycle", "__macosx", "lost+found"}
# A folder of all images, without classes, as Tiny-ImageNet's val/images.
NO_CLASS = {"images", "image", "imgs", "img", "jpegs", "jpegimages"}


class Source(Protocol):
    """N samples in a fixed order. `sample` may be called from many threads."""

    classes: list[str]
    write_mode: str  # how this source is stored unless the user says otherwise
    not_images: list[str]  # files and folders that were not looked at

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What to call a sample in a message."""

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        """RGB uint8 [H, W, 3] and the class id. Raises UnreadableImageError."""


class FileSource(Source, Protocol):
    """A source whose samples are image files, of which it gives the bytes too."""

    def file(self, row: int) -> tuple[bytes, int]:
        """The bytes of the image file and the class id. Raises UnreadableImageError."""


def open_source(source: str | Path | Source) -> Source:
    """The source that SRC names; InputError (DatasetError for missing data) when there is none."""
    if not isinstance(source, (str, Path)):
        from fastlabel.dataset.torch_source import TorchSource

        return source if hasattr(source, "sample") else TorchSource(source)
    text = str(source)
    if text.startswith("wds:"):
        from fastlabel.dataset.tar_source import TarSource

        return TarSource(text)
    if text.startswith("hf:"):
        from fastlabel.dataset.hugging_face import HuggingFaceSource

        return HuggingFaceSource(text)
    if text.startswith("digits:"):
        return DigitsSource(text)
    if text.startswith("torchvision:"):
        return TorchvisionSource(text)
    return FolderSource(Path(source))


def with_files(source: Source) -> FileSource:
    """The source, where it has image files; InputError where it has pixels alone."""
    if not hasattr(source, "file"):
        raise InputError("write mode keep keeps the bytes of image files, and this source gives pixels: use jpg or raw")
    return cast(FileSource, source)


class FolderSource:
    """A folder of class folders: class ids by sorted folder name, images sorted by path in their class."""

    write_mode = "jpg"

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise DatasetError(
                f"{root} {what}: expected a folder of class folders, digits:train, digits:test "
                "or torchvision:CLASS:ROOT:train"
            )
        self.not_images: list[str] = []
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and self._is_wanted(entry))
        if not folders:
            raise DatasetError(f"{root} holds no class folders: expected one folder of images for every class")
        self.classes = [_utf8_name(folder) for folder in folders]
        self.one_folder = folders[0] if len(folders) == 1 and folders[0].name.lower() in NO_CLASS else None
        self._files: list[Path] = []
        self._targets: list[int] = []
        for target, folder in enumerate(folders):
            files = sorted(self._walk(folder, set()))
            if not files:
                raise DatasetError(f"class folder {folder} is empty: add images to it or remove it")
            self._files += files
            self._targets += [target] * len(files)

    def __len__(self) -> int:
        return len(self._files)

    def name(self, row: int) -> str:
        return printable(self._files[row])

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        return read_image(self._files[row]), self._targets[row]

    def file(self, row: int) -> tuple[bytes, int]:
        return read_bytes(self._files[row]), self._targets[row]

    def _walk(self, folder: Path, seen: set[Path]) -> Iterator[Path]:
        """Every image below, through links too (one that leads nowhere will be named as unreadable), each once."""
        if folder.resolve() in seen:
            return
        seen.add(folder.resolve())
        for entry in sorted(folder.iterdir()):
            if not self._is_wanted(entry):
                continue
            if entry.is_dir():
                yield from self._walk(entry, seen)
            elif entry.suffix and entry.suffix.lower() not in _image_suffixes():
                self.not_images.append(printable(entry))
            else:
                yield entry

    def _is_wanted(self, path: Path) -> bool:
        if path.name.startswith("."):
            return False
        if path.name.lower() in LEFT_BEHIND:
            self.not_images.append(printable(path))
            return False
        return True


class DigitsSource:
    """digits:train or digits:test, stored without loss."""

    write_mode = "raw"

    def __init__(self, text: str) -> None:
        split = text.partition(":")[2]
        if split not in SPLITS:
            raise InputError(f"{text}: expected digits:train or digits:test")
        self._images, self._targets = load_digits(split)
        self.classes = [str(digit) for digit in range(10)]
        self.not_images: list[str] = []

    def __len__(self) -> int:
        return len(self._targets)

    def name(self, row: int) -> str:
        return f"digit {row}"

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        return self._images[row], int(self._targets[row])


class TorchvisionSource:
    """torchvision:CLASS:ROOT:SPLIT, for the dataset classes that take a root and a `train` or a `split`."""

    write_mode = "jpg"

    def __init__(self, text: str) -> None:
        parts = text.split(":", 2)
        root, colon, split = parts[-1].rpartition(":")
        if len(parts) < 3 or not (parts[1] and root and colon and split):
            raise InputError(f"{text}: expected torchvision:CLASS:ROOT:SPLIT, as in torchvision:CIFAR10:data:train")
        self._text = text
        self._data = _open_torchvision(parts[1], root, split)
        self.classes = [_class_name(name) for name in getattr(self._data, "classes", [])]
        self.not_images: list[str] = []

    def __len__(self) -> int:
        return len(self._data)

    def name(self, row: int) -> str:
        return f"sample {row} of {self._text}"

    def sample(self, row: int) -> tuple[np.ndarray, int]:
        try:
            image, target = self._data[row]
            return to_rgb(image), int(target)
        except (OSError, SyntaxError, ValueError, TypeError) as error:
            raise UnreadableImageError(f"{error}") from error


def printable(path: str | Path) -> str:
    """A path as text that any terminal and any UTF-8 file takes: what is no UTF-8 in it is escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _utf8_name(folder: Path) -> str:
    try:
        folder.name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"the name of class folder {os.fsencode(folder.name)!r} in {printable(folder.parent)} is not UTF-8: "
            "rename it"
        ) from error
    return folder.name


@cache
def _image_suffixes() -> frozenset[str]:
    """Endings of the files that Pillow opens, in lower case. A file without any may be an image too."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in Image.OPEN)


def _class_name(name: Any) -> str:
    return name if isinstance(name, str) else ", ".join(map(str, name))  # ImageNet gives tuples of synonyms


def _open_torchvision(name: str, root: str, split: str) -> Any:
    from torchvision import datasets

    cls: Any = getattr(datasets, name, None)
    if name not in datasets.__all__:
        near = difflib.get_close_matches(name, datasets.__all__, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"torchvision has no dataset class {name}{hint}")
    parameters = inspect.signature(cls).parameters
    options: dict[str, Any] = {"download": False} if "download" in parameters else {}
    if "train" in parameters:
        if split not in SPLITS:
            raise InputError(f"{name} has no split {split}: expected train or test")
        options["train"] = split == "train"
    elif "split" in parameters:
        options["split"] = split
    else:
        raise InputError(f"torchvision's {name} takes neither `train` nor `split`: it cannot be used here")
    try:
        return cls(root, **options)
    except (OSError, RuntimeError, ValueError, TypeError, ImportError) as error:
        raise DatasetError(f"cannot open {name} under {root} ({split}): {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).replace("You can use download=True to download it", "").split())
