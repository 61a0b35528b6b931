"""Nested class folders, tars and torch datasets: the same images and numbers; what is no class is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.sources import open_source
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import DatasetError, InputError
from fastlabel.labelling.cache import cache_labels
from tests.dataset.hugging_face_tables import table
from tests.dataset.tiny_images import NAMES
from tests.stores import digests, make_teacher


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def as_tars(root: Path) -> str:
    files = [(path, NAMES.index(path.parts[-3])) for path in sorted(root.rglob("*.JPEG"))]
    for shard, part in enumerate((files[:20], files[20:])):
        with tarfile.open(root.parent / f"t-{shard:03d}.tar", "w") as tar:
            for path, target in part:
                add(tar, f"{path.stem}.jpg", path.read_bytes())
                add(tar, f"{path.stem}.cls", f"{target}".encode())
                add(tar, f"{path.stem}.json", b"{}")
    return f"wds:{root.parent}/t-{{000..001}}.tar"


class Items:
    """A torch dataset of one kind of image."""

    classes = NAMES

    def __init__(self, root: Path, kind: str) -> None:
        self.files, self.kind = sorted(root.rglob("*.JPEG")), kind

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[object, int]:
        path = self.files[row]
        data = path.read_bytes()
        made = {"path": path, "bytes": data, "pil": Image.open(io.BytesIO(data))}
        return made[self.kind], NAMES.index(path.parts[-3])


def test_folder_tars_and_datasets_give_the_same_labels(tiny, tmp_path):
    sources = {"folder": tiny, "tar": as_tars(tiny), "hf": f"hf:{tmp_path}/train.parquet"} | {
        kind: Items(tiny, kind) for kind in ("path", "bytes", "pil")
    }
    pq.write_table(table(tiny), tmp_path / "train.parquet", row_group_size=7)
    stores, fingerprints = [], []
    for name, source in sources.items():
        report = write_dataset(source, tmp_path / f"{name}.beton", progress=False, classes=NAMES)
        assert report.num_samples == 50 and report.classes == NAMES
        assert len(report.not_images) == {"folder": 3, "tar": 50}.get(name, 0)
        fingerprints.append(Beton.open(tmp_path / f"{name}.beton").fingerprint())
        store = tmp_path / f"{name}.zarr"
        if name in ("folder", "tar", "hf"):
            cache_labels(tmp_path / f"{name}.beton", store, [make_teacher()], views=1, k=2, forward_batch=16)
            stores.append(digests(store))
    assert len(set(fingerprints)) == 1
    assert stores[0] == stores[1] == stores[2]


def test_one_folder_of_images_is_no_class(tmp_path, cli):
    (tmp_path / "val" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "images" / "1.JPEG")
    found = cli("write-dataset", tmp_path / "val", tmp_path / "x.beton")
    assert found.exit_code == 2 and "looks like all images and not like a class" in found.stderr
    (tmp_path / "names").write_text("cats\nimages\n")
    assert cli("write-dataset", tmp_path / "val", tmp_path / "x.beton", "--classes", tmp_path / "names").exit_code == 0
    assert Beton.open(tmp_path / "x.beton").targets.tolist() == [1]


def test_a_validation_folder_takes_the_numbers_of_its_training_set(tiny, tmp_path):
    write_dataset(tiny, tmp_path / "train.beton", progress=False)
    (tmp_path / "val" / "n03").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "n03" / "1.png")
    write_dataset(tmp_path / "val", tmp_path / "val.beton", progress=False, classes=tmp_path / "train.beton")
    val = Beton.open(tmp_path / "val.beton")
    assert val.targets.tolist() == [2] and val.class_names == NAMES
    with pytest.raises(DatasetError, match="1 of the source's 1 classes are not among the 2 given: n03"):
        write_dataset(tmp_path / "val", tmp_path / "no.beton", progress=False, classes=["n01", "n02"])
    for bad in (["a", "a"], [], tmp_path / "nothing.txt"):
        with pytest.raises(InputError, match="class names"):
            write_dataset(tmp_path / "val", tmp_path / "no.beton", progress=False, classes=bad)
    assert not (tmp_path / "no.beton").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"x")], "no class of 1 images, for example a: expected a.cls"),
        ([("a.jpg", b"x"), ("a.cls", b"cat")], "must be the number of a class"),
        ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"1")], "two images of a"),
        ([("a.txt", b"x")], "holds no images"),
    ],
)
def test_odd_tars_are_refused(tmp_path, members, message):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in members:
            add(tar, name, data)
    with pytest.raises(DatasetError, match=message):
        open_source(f"wds:{tmp_path}/a.tar")


def test_missing_damaged_and_malformed_tars(tiny, tmp_path):
    whole = Path(as_tars(tiny)[4:].replace("{000..001}", "000"))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "no.tar").write_bytes(b"not a tar" * 100)
    for name, message in (("cut", "cut short|cannot be read"), ("no", "cannot be read"), ("none", "do not exist")):
        with pytest.raises(DatasetError, match=message):
            open_source(f"wds:{tmp_path}/{name}.tar")
    for pattern in ("", "a-{5..3}.tar"):
        with pytest.raises(InputError, match="expected tars"):
            open_source(f"wds:{pattern}")


def test_items_of_another_kind_are_named(tmp_path):
    for items, message in (
        ([(np.zeros((2, 2)), 0)], "leave out the dataset's transform"),
        ([3], "expected .image, class."),
        ([(b"x", "cat")], "expected a number"),
    ):
        with pytest.raises(DatasetError, match=message):
            write_dataset(items, tmp_path / "x.beton", progress=False)
    with pytest.raises(InputError, match="is no source"):
        write_dataset(3, tmp_path / "x.beton", progress=False)
