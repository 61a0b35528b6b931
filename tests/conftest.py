"""Fixtures for every test: the command line, and folders of images that are made on the spot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

# As the command line does: spinning OpenMP threads would starve other workers of pytest-xdist. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

# Triton reads this when it is imported, which any module may do: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts background jobs with SIGINT ignored, and children inherit that: tests of Ctrl-C could not reach theirs.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; skip the tests marked gpu where there is no CUDA device."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none here"))


@pytest.fixture(autouse=True, scope="module")
def module_leaves_no_setting_changed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a module whose own fixtures leave a setting of the process changed."""
    from tests.process_state import guarded

    with guarded(f"the module {request.node.nodeid} (or a fixture of it)"):
        yield


@pytest.fixture(autouse=True)
def test_leaves_no_setting_changed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves threads, precision, environment, ... changed; seed the global random numbers before."""
    from tests.process_state import guarded, seed_everything

    seed_everything()
    with guarded(request.node.nodeid):
        yield


@pytest.fixture
def cli() -> Callable[..., Result]:
    """cli("write-dataset", path, ...) runs the command in this process; .exit_code, .stdout, .stderr.

    An exception that the command line does not turn into an exit code fails the test.
    """
    from fastlabel.cli.main import main

    def run(*args: object) -> Result:
        result = CliRunner().invoke(main, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def lines_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress in a log is a line for each thing that is done, not one each half minute."""
    monkeypatch.setattr("fastlabel.system.progress.SECONDS_BETWEEN_LINES", 0.0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The 12 photos of three classes in one .beton file."""
    from tests.stores import write_photos

    return write_photos(make_photo_folder(tmp_path / "photos"), tmp_path / "photos.beton")


@pytest.fixture
def make_store(photos: Path, tmp_path: Path) -> Callable[..., Path]:
    """make_store("name", views=3, k=2, ...) -> the path of a store of those photos."""
    from tests.stores import store_maker

    return store_maker(photos, tmp_path)


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """12 JPEG photos of differing sizes (48 to 128 pixels) in the class folders bird, cat and dog."""
    return make_photo_folder(tmp_path / "photos")


def make_photo_folder(root: Path, classes: tuple[str, ...] = ("bird", "cat", "dog"), per_class: int = 4) -> Path:
    random = np.random.default_rng(20)
    for target, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            height, width = random.integers(48, 129, size=2)
            photo = photo_like(int(height), int(width), hue=target, seed=100 * target + index)
            Image.fromarray(photo).save(root / name / f"{index:03d}.jpg", quality=95)
    return root


def photo_like(height: int, width: int, hue: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3]: gradients of a class's colour, a bright disc, and grain."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phases = random.uniform(0, 2 * np.pi, size=3) * 0.2 + np.arange(3) * 2 + hue
    pixels = 110 + 70 * np.sin(3 * x[..., None] + 2 * y[..., None] + phases)
    disc = (x - random.uniform(0.3, 0.7)) ** 2 + (y - random.uniform(0.3, 0.7)) ** 2 < 0.04
    pixels[disc] += 50
    return np.clip(pixels + random.normal(0, 6, size=pixels.shape), 0, 255).astype(np.uint8)
