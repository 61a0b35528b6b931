"""Our reading of a file's tables against ffcv's own, on files that FFCV wrote; ffcv is not imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastlabel.dataset import tables
from fastlabel.dataset.beton import Beton
from fastlabel.dataset.encode import Encoder
from fastlabel.dataset.watched_file import WatchedFile
from fastlabel.images.ffcv_api import Reader
from tests.conftest import photo_like

from ffcv import fields, types  # isort: skip
from ffcv.fields.rgb_image import IMAGE_MODES  # isort: skip


def test_types_are_those_of_ffcv() -> None:
    assert types.CURRENT_VERSION == tables.VERSION
    assert types.HeaderType == tables.HEADER
    assert types.FieldDescType == tables.DESCRIPTION
    assert types.ALLOC_TABLE_TYPE == tables.ALLOCATION
    assert dict(IMAGE_MODES.items()) == {"jpg": tables.JPEG, "raw": tables.RAW}
    handlers = {number: handler for number, handler in types.TYPE_ID_HANDLER.items() if handler is not None}
    assert {number: handler.__name__ for number, handler in handlers.items()} == {
        number: field.name for number, field in tables.FIELD_TYPES.items()
    }
    arguments = {"NDArrayField": (np.dtype("f4"), (3,)), "TorchTensorField": (__import__("torch").float32, (3,))}
    made = [handler(*arguments.get(handler.__name__, ())) for handler in handlers.values()]
    assert types.get_metadata_type(made) == tables.row_type([tables.FIELD_TYPES[number] for number in handlers])


NAMES = ["jpg", "raw", "smart", "proportion", "resized", "pages", "other-label", "extra", "large"]
NAMES += ["no-label", "float-label", "other-names"]


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_those_that_ffcv_reads(ffcv_betons: Path, name: str) -> None:
    path = ffcv_betons / f"{name}.beton"
    found, reader = tables.read_tables(WatchedFile(path)), Reader(str(path))
    assert list(found.fields) == reader.field_names
    type_ids = reader.field_descriptors["type_id"].tolist()
    assert list(found.fields.values()) == [tables.FIELD_TYPES[number] for number in type_ids]
    assert found.rows.dtype == reader.metadata.dtype and found.rows.tobytes() == reader.metadata.tobytes()
    assert found.allocations.tobytes() == reader.alloc_table.tobytes()
    assert found.payloads_end == reader.header["alloc_table_ptr"]


@pytest.mark.parametrize("mode", ["jpg", "raw", "smart"])
@pytest.mark.parametrize("threshold", [None, 0, 7_000, 10**6])
def test_images_are_encoded_as_ffcv_encodes_them(mode: str, threshold: int | None) -> None:
    if threshold is not None and mode != "smart":
        pytest.skip("a threshold needs smart")
    for quality in (30, 90):
        for height, width in ((1, 1), (40, 57), (90, 60)):
            image, stored = photo_like(max(height, 2), max(width, 2), 1, width)[:height, :width], []
            handler = fields.RGBImageField(write_mode=mode, jpeg_quality=quality, smart_threshold=threshold)
            if mode == "smart" and threshold is None:  # ours, see Encoder; ffcv would store all as raw pixels
                small = len(Encoder("jpg", jpeg_quality=quality).encode(image).payload) < image.nbytes
                handler = fields.RGBImageField(write_mode="jpg" if small else "raw", jpeg_quality=quality)

            def allocate(size: int, stored: list[np.ndarray] = stored) -> tuple[int, np.ndarray]:
                stored.append(np.empty(size, np.uint8))
                return 0, stored[-1]

            row = np.zeros(1, tables.IMAGE)
            handler.encode(row, image, allocate)
            found = Encoder(mode, jpeg_quality=quality, smart_threshold=threshold).encode(image)
            assert found.image_field.tobytes() == row.tobytes()
            assert found.payload.tobytes() == stored[0].tobytes()


def test_reading_and_fingerprints_do_without_ffcv_numba_and_torch(ffcv_betons: Path) -> None:
    path = ffcv_betons / "jpg.beton"
    script = (
        f"import sys; from fastlabel.dataset.beton import Beton; beton = Beton.open({str(path)!r})\n"
        "beton.fingerprint(); beton.payload(0); print(sorted({'ffcv', 'numba', 'torch', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert Beton.open(path).num_samples == 16
