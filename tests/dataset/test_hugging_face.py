"""Parquet files and saved datasets of Hugging Face: the images and numbers of the folder that they were made from."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.sources import open_source
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import DatasetError, InputError
from tests.dataset.hugging_face_tables import table
from tests.dataset.tiny_images import NAMES


def save_to_disk(made: pa.Table, folder: Path, split: str, **state: Any) -> None:
    """Two Arrow files and a state, as `datasets` 2 to 4 lay them out."""
    folder.mkdir(parents=True)
    for number, part in enumerate((made.slice(0, 20), made.slice(20))):
        path = str(folder / f"data-{number:05d}-of-00002.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(part, max_chunksize=7)
    names = [{"filename": f"data-{number:05d}-of-00002.arrow"} for number in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": names, "_split": split} | state))


def test_parquet_and_a_saved_dataset_are_the_folder(tiny, tmp_path):
    made = table(tiny)
    (tmp_path / "repo" / "data").mkdir(parents=True)
    for number, part in enumerate((made.slice(0, 20), made.slice(20))):
        pq.write_table(part, tmp_path / "repo" / "data" / f"train-{number:05d}-of-00002.parquet", row_group_size=7)
    pq.write_table(made.slice(0, 1), tmp_path / "repo" / "data" / "test-00000-of-00001.parquet")
    pq.write_table(made, tmp_path / "one.parquet")
    save_to_disk(made, tmp_path / "saved" / "train", "train")
    save_to_disk(made, tmp_path / "single", "train")
    sources = [
        tiny,
        *(f"hf:{tmp_path}/{name}" for name in ("repo:train", "one.parquet", "saved:train", "single:train")),
    ]
    fingerprints = set()
    for number, source in enumerate(sources):
        report = write_dataset(source, tmp_path / f"{number}.beton", progress=False)
        assert report.num_samples == 50 and tuple(report.classes) == NAMES
        fingerprints.add(Beton.open(tmp_path / f"{number}.beton").fingerprint())
    assert len(fingerprints) == 1
    assert len(open_source(f"hf:{tmp_path}/repo:test")) == 1


def test_rows_come_in_any_order_from_many_threads(tiny, tmp_path):
    pq.write_table(table(tiny), tmp_path / "one.parquet", row_group_size=3)
    source, folder = open_source(f"hf:{tmp_path}/one.parquet"), open_source(tiny)
    rows = np.random.default_rng(0).integers(0, 50, 300).tolist()
    with ThreadPoolExecutor(8) as pool:
        for row, (image, target) in zip(rows, pool.map(source.sample, rows), strict=True):
            expected = folder.sample(row)
            assert target == expected[1] and np.array_equal(image, expected[0])
    assert source.name(49) == f"row 49 of {tmp_path}/one.parquet"


def test_the_column_of_the_classes_is_said_where_there_are_two(tiny, tmp_path):
    (tmp_path / "d").mkdir()
    pq.write_table(table(tiny, fine=True), tmp_path / "d" / "train-0.parquet")
    with pytest.raises(InputError, match="classes in label, fine: say which"):
        open_source(f"hf:{tmp_path}/d:train")
    assert open_source(f"hf:{tmp_path}/d:train:fine").classes == ["a", "b"]
    with pytest.raises(InputError, match="no column coarse: expected one of image, label, fine"):
        open_source(f"hf:{tmp_path}/d:train:coarse")


def test_files_without_features_and_classes_in_words(tiny, tmp_path):
    plain = table(tiny, typed=False)
    pq.write_table(plain, tmp_path / "plain.parquet")
    assert open_source(f"hf:{tmp_path}/plain.parquet").classes == []
    words = pa.array([["dog", "cat", "cow"][label] for label in plain["label"].to_pylist()])
    pq.write_table(plain.set_column(1, "label", words), tmp_path / "words.parquet")
    source = open_source(f"hf:{tmp_path}/words.parquet")
    assert source.classes == ["cat", "cow", "dog"]
    assert [source.sample(row)[1] for row in (0, 20, 40)] == [
        {"dog": 2, "cat": 0, "cow": 1}[words[r].as_py()] for r in (0, 20, 40)
    ]
    paths = pa.array([{"bytes": None, "path": str(path)} for path in sorted(tiny.rglob("*.JPEG"))])
    pq.write_table(plain.set_column(0, "image", paths), tmp_path / "paths.parquet")
    assert np.array_equal(open_source(f"hf:{tmp_path}/paths.parquet").sample(7)[0], open_source(tiny).sample(7)[0])


def test_what_is_no_such_dataset_is_refused(tiny, tmp_path):
    made = table(tiny)
    folder = tmp_path / "d"
    folder.mkdir()
    pq.write_table(made, folder / "train-0.parquet")
    pq.write_table(made.drop_columns(["label"]), folder / "nolabel-0.parquet")
    pq.write_table(made.drop_columns(["image"]), folder / "noimage-0.parquet")
    pq.write_table(made.drop_columns(["label"]), folder / "odd-0.parquet")
    pq.write_table(made, folder / "odd-1.parquet")
    pq.write_table(made.set_column(1, "label", pa.array([None] * 50, pa.int64())), folder / "null-0.parquet")
    pq.write_table(made.set_column(1, "label", pa.array([0.5] * 50)), folder / "float-0.parquet")
    pq.write_table(made.slice(0, 0), folder / "empty-0.parquet")
    data = (folder / "train-0.parquet").read_bytes()
    (folder / "cut-0.parquet").write_bytes(data[:1000])
    for config in ("a", "b"):  # two configurations of one dataset, or two snapshots of it
        (tmp_path / "two" / config).mkdir(parents=True)
        pq.write_table(made, tmp_path / "two" / config / "train-00000-of-00001.parquet")
    with pytest.raises(InputError, match="train is in 2 folders, give one of them"):
        open_source(f"hf:{tmp_path}/two:train")
    assert len(open_source(f"hf:{tmp_path}/two/a:train")) == 50
    save_to_disk(made, tmp_path / "chosen", "train", _indices_files=[{"filename": "i.arrow"}])
    save_to_disk(made, tmp_path / "broken", "train", _data_files=3)
    refused = {
        f"{folder}:val": "no val-.*the Parquet files there: cut-0.parquet",
        f"{folder}:nolabel": "no column of the kind class among image",
        f"{folder}:noimage": "no column of the kind image among label",
        f"{folder}:odd": "its 2 files have other columns",
        f"{folder}:null": "50 of 50 rows have no label",
        f"{folder}:float": "of type double, expected whole numbers or text",
        f"{folder}:empty": "holds no samples",
        f"{folder}:cut": "cannot be read",
        f"{tmp_path}/none:train": "does not exist: download it first",
        f"{tmp_path}/chosen:train": "call flatten_indices",
        f"{tmp_path}/broken:train": "not as save_to_disk writes it",
    }
    for source, message in refused.items():
        with (
            pytest.raises(DatasetError, match=message)
            if "kind" not in message
            else pytest.raises(InputError, match=message)
        ):
            open_source(f"hf:{source}")
    for source, message in {"": "expected hf:PATH", "a:b:c:d": "expected hf:PATH", f"{folder}": "which split"}.items():
        with pytest.raises(InputError, match=message):
            open_source(f"hf:{source}")


def test_shards_that_do_not_belong_together_are_refused(tiny, tmp_path):
    made, other = table(tiny), table(tiny, (NAMES[1], NAMES[0], NAMES[2]))
    (tmp_path / "d").mkdir()
    pq.write_table(made, tmp_path / "d" / "train-00000-of-00002.parquet")
    with pytest.raises(DatasetError, match="not one whole split"):
        open_source(f"hf:{tmp_path}/d:train")
    pq.write_table(other, tmp_path / "d" / "train-00001-of-00002.parquet")
    with pytest.raises(DatasetError, match="has other classes or columns"):
        open_source(f"hf:{tmp_path}/d:train")
    pq.write_table(made.set_column(1, "label", pa.array([10**9] * 50)), tmp_path / "ids.parquet")
    with pytest.raises(DatasetError, match="goes from 1000000000 to 1000000000, expected 0 to 2"):
        open_source(f"hf:{tmp_path}/ids.parquet")
    with pytest.raises(InputError, match="is one file"):
        open_source(f"hf:{tmp_path}/ids.parquet:train:label")


def test_a_damaged_image_and_a_damaged_group_are_named(tiny, tmp_path, cli):
    made = table(tiny)
    images = made["image"].to_pylist()
    images[3]["bytes"] = b"no image"
    images[4] = {"bytes": None, "path": None}
    pq.write_table(made.set_column(0, "image", pa.array(images)), tmp_path / "x.parquet")
    found = cli("write-dataset", f"hf:{tmp_path}/x.parquet", tmp_path / "x.beton")
    assert found.exit_code == 2 and "row 3 of" in found.stderr
    found = cli("write-dataset", f"hf:{tmp_path}/x.parquet", tmp_path / "x.beton", "--skip-broken")
    assert found.exit_code == 0 and len(Beton.open(tmp_path / "x.beton").targets) == 48
    pq.write_table(made, tmp_path / "y.parquet", compression="none", row_group_size=10)
    data = bytearray((tmp_path / "y.parquet").read_bytes())
    data[4:400] = bytes(396)
    (tmp_path / "y.parquet").write_bytes(data)
    found = cli("write-dataset", f"hf:{tmp_path}/y.parquet", tmp_path / "y.beton")
    assert found.exit_code in (1, 2) and "Traceback" not in found.stderr and "y.parquet" in found.stderr


def test_without_pyarrow_it_says_what_to_install(tiny, tmp_path, monkeypatch):
    pq.write_table(table(tiny), tmp_path / "x.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'fastlabel\[hf\]'"):
        open_source(f"hf:{tmp_path}/x.parquet")
