"""Datasets for the tests of reading images: written by FFCV itself, and small ones of any content."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fastlabel.dataset.beton_writer import BetonFile
from fastlabel.dataset.encode import Encoder
from tests.dataset.ffcv_betons import make_images

WriteBeton = Callable[..., Path]


@pytest.fixture(scope="session")
def ffcv_images() -> list[NDArray[np.uint8]]:
    """The images that went into the files of ``ffcv_betons``; sample i has label i % 5."""
    return make_images()


@pytest.fixture(scope="session")
def ffcv_betons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of .beton files that FFCV's own writer made (ffcv_betons.py): once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ffcv-betons"
    program = Path(__file__).parent / "dataset" / "ffcv_betons.py"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            done = subprocess.run([sys.executable, program, folder], capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr
            (folder / "done").touch()
    return folder


def beton_writer(folder: Path) -> WriteBeton:
    """write(images, mode="jpg", name="data") -> path of a .beton in the folder; labels 0, 1, 2, 0, ...; small pages."""

    def write(images: Sequence[NDArray[np.uint8]], mode: str = "jpg", name: str = "data") -> Path:
        path, encoder = folder / f"{name}.beton", Encoder(mode)
        with open(path, "wb") as handle:
            file = BetonFile(handle, len(images), page_size=4096)
            for index, image in enumerate(images):
                encoded = encoder.encode(image)
                file.append(encoded.image_field, encoded.payload, index % 3)
            file.finish()
        return path

    return write


@pytest.fixture
def write_beton(tmp_path: Path) -> WriteBeton:
    """write_beton(images, mode="jpg", name="data") -> path, see beton_writer."""
    return beton_writer(tmp_path)
