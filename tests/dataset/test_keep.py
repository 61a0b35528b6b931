"""Write mode keep: a JPEG that fits is stored as it is; all else is encoded anew, and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.image_files import read_image
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import DatasetError, InputError
from fastlabel.images.ffcv_api import Loader, OrderOption, SimpleRGBImageDecoder
from fastlabel.images.loader import ImageLoader
from fastlabel.views import ViewPolicy
from tests.conftest import photo_like
from tests.dataset.hugging_face_tables import table
from tests.dataset.test_other_sources import Items, as_tars
from tests.dataset.tiny_images import NAMES
from tests.process_state import restored


def save(path: Path, *, mode: str = "RGB", height: int = 40, width: int = 56, **options: object) -> None:
    image = Image.fromarray(photo_like(height, width, 1, 2)).convert(mode)
    image.save(path, **options)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six JPEGs that fit, and four images that do not."""
    folder = tmp_path / "mixed" / "c"
    folder.mkdir(parents=True)
    save(folder / "a.jpg", quality=97, subsampling=0)
    save(folder / "b.jpg", quality=60, progressive=True)
    save(folder / "c.jpg", mode="L")
    save(folder / "d.jpg", subsampling=1, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00")
    save(folder / "e.jpg", restart_marker_blocks=3)
    save(folder / "f.jpeg", height=1, width=1)
    save(folder / "w.jpg", mode="CMYK")
    save(folder / "x.png")
    save(folder / "y.jpg", height=200, width=80)
    data = (folder / "a.jpg").read_bytes()
    (folder / "z.jpg").write_bytes(data[:-2] + b"\x00" * 7 + data[-2:])  # libjpeg warns, and loses nothing
    return folder.parent


def test_bytes_of_jpegs_are_those_of_the_files(mixed, tmp_path, cli):
    done = cli("write-dataset", mixed, tmp_path / "k.beton", "--write-mode", "keep", "--max-resolution", "100")
    assert done.exit_code == 0, done.stderr
    assert "6 JPEGs as they were, 4 images encoded anew" in done.stdout
    beton, files = Beton.open(tmp_path / "k.beton"), sorted((mixed / "c").iterdir())
    for row, file in enumerate(files):
        assert (beton.payload(row) == file.read_bytes()) == (file.stem in "abcdef"), file
    assert int(beton.heights[8]) == 100


def test_pixels_are_those_of_the_source_in_our_loader_and_in_ffcvs(tmp_path):
    folder = tmp_path / "d" / "c"
    folder.mkdir(parents=True)
    for number, options in enumerate(({"subsampling": 0}, {"progressive": True}, {"mode": "L"}, {"subsampling": 1})):
        save(folder / f"{number}.jpg", height=32, width=32, **options)
    report = write_dataset(tmp_path / "d", tmp_path / "k.beton", write_mode="keep", progress=False)
    assert report.kept == 4
    pixels = np.stack([read_image(file) for file in sorted(folder.iterdir())])
    ours = ImageLoader(tmp_path / "k.beton", ViewPolicy.identity(32), 4)
    assert np.array_equal(ours.decode(np.arange(4), [0]).images.numpy().reshape(4, 32, 32, 3), pixels)
    with restored():  # FFCV sets how many threads PyTorch and Numba have
        loader = Loader(
            str(tmp_path / "k.beton"),
            batch_size=4,
            num_workers=1,
            order=OrderOption.SEQUENTIAL,
            pipelines={"image": [SimpleRGBImageDecoder()]},
        )
        images = next(iter(loader))[0]
        # FFCV asks for a faster, less exact transform.
        assert np.abs(np.asarray(images).astype(int) - pixels).max() <= 8


def test_every_source_of_files_keeps_the_same_bytes(tiny, tmp_path):
    pq.write_table(table(tiny), tmp_path / "train.parquet")
    sources = {"folder": tiny, "tar": as_tars(tiny), "hf": f"hf:{tmp_path}/train.parquet"}
    sources |= {kind: Items(tiny, kind) for kind in ("path", "bytes")}
    fingerprints = set()
    for name, source in sources.items():
        report = write_dataset(source, tmp_path / f"{name}.beton", write_mode="keep", progress=False, classes=NAMES)
        assert report.kept == 50
        fingerprints.add(Beton.open(tmp_path / f"{name}.beton").fingerprint())
    assert len(fingerprints) == 1


def test_sources_of_pixels_and_markers_are_refused(tiny, tmp_path, cli):
    for source in ("digits:train",):
        found = cli("write-dataset", source, tmp_path / "x.beton", "--write-mode", "keep")
        assert found.exit_code == 2 and "this source gives pixels: use jpg or raw" in found.stderr
    with pytest.raises(DatasetError, match="keep takes paths and encoded bytes"):
        write_dataset(Items(tiny, "pil"), tmp_path / "x.beton", write_mode="keep", progress=False)
    with pytest.raises(InputError, match="expected write mode jpg or smart, not keep"):
        write_dataset(tiny, tmp_path / "x.beton", write_mode="keep", restart_interval=2, progress=False)


def test_broken_files_are_named_and_can_be_left_out(tiny, tmp_path):
    victims = sorted(tiny.rglob("*.JPEG"))[:3]
    victims[0].write_bytes(victims[0].read_bytes()[:300])
    victims[1].write_bytes(b"")
    victims[2].unlink()
    victims[2].symlink_to(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=victims[0].name):
        write_dataset(tiny, tmp_path / "x.beton", write_mode="keep", progress=False)
    report = write_dataset(tiny, tmp_path / "x.beton", write_mode="keep", skip_broken=True, progress=False)
    assert (report.num_samples, report.kept, len(report.left_out)) == (47, 47, 3)
