"""Labels of every format out of a store and in again, 10,000 of each; and files that other projects write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.write import write_dataset
from fastlabel.interchange.dense import import_dense
from fastlabel.store.store import LabelStore

VIEWS, CLASSES, K = 32, 3, 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Beton, Path]:
    """A store of more than 10,000 labels with crops of its own, of the digits."""
    root = tmp_path_factory.mktemp("formats")
    write_dataset("digits:test", root / "digits.beton", progress=False)
    beton = Beton.open(root / "digits.beton")
    shape, random = (VIEWS, beton.num_samples), np.random.default_rng(0)
    logits = random.normal(size=(*shape, 10)).astype(np.float32) * 3
    h, w = (random.integers(1, side + 1, shape) for side in (beton.heights, beton.widths))
    tops, lefts = random.integers(0, beton.heights - h + 1), random.integers(0, beton.widths - w + 1)
    crops = np.stack([tops, lefts, h, w, random.integers(0, 2, shape)], axis=2).astype(np.int32)
    np.savez(root / "dense.npz", logits=logits, crops=crops)
    import_dense(root / "dense.npz", beton, root / "source.zarr", size=8, k=K, unaligned=True)
    assert VIEWS * beton.num_samples > 10_000
    return beton, root / "source.zarr"


FORMATS: dict[str, tuple[str, tuple[Any, ...], tuple[Any, ...]]] = {
    "fkd-mix": ("out", ("--batch-size", 128), ()),
    "fkd": ("out", (), ()),
    "tinyvit": ("out", (), ("--crops", "out/crops.npy")),
    "dense npz": ("out.npz", (), ()),
    "dense safetensors": ("out.safetensors", (), ()),
    "dense half": ("out.npz", ("--half",), ()),
}


@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_labels_come_back(
    source: tuple[Beton, Path], tmp_path: Path, name: str, cli: Callable[..., Result]
) -> None:
    beton, path = source
    file, on_export, on_import = FORMATS[name]
    options = [tmp_path / one if str(one).startswith("out") else one for one in on_import]
    done = cli("export", name.split()[0], path, beton.path, tmp_path / file, *on_export)
    assert done.exit_code == 0, done.stderr
    back = tmp_path / "back.zarr"
    done = cli(
        "import", name.split()[0], tmp_path / file, beton.path, back, "--size", 8, "--k", K, "--unaligned", *options
    )
    assert done.exit_code == 0, done.stderr
    one, other = LabelStore.open(path), LabelStore.open(back)
    assert one.views.digests == other.views.digests  # the same crops, to the pixel
    coarse = "half" in name or name == "tinyvit"  # float16: a step of 2**-11 of a logit or probability
    for view in range(VIEWS):
        a, b = one.plane(view)[:], other.plane(view)[:]
        torch.testing.assert_close(a.dense(), b.dense(), atol=0.02 if coarse else 1e-3, rtol=0)
        if not coarse:
            assert torch.equal(a.codes, b.codes) and torch.equal(a.classes.int(), b.classes.int())
            assert (a.tail[:, 0].int() - b.tail[:, 0].int()).abs().max() <= 1
    assert cli("verify", back, beton.path).exit_code == 0


def test_quantised_labels_of_fkd_are_read_as_it_defines_them() -> None:
    from fastlabel.interchange.fkd_images import dense_probabilities

    hard = dense_probabilities(torch.tensor([2, 0]), 4, "x")
    assert hard.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    smooth = dense_probabilities(torch.tensor([[1.0, 0.7]]), 4, "x")
    torch.testing.assert_close(smooth, torch.tensor([[0.1, 0.7, 0.1, 0.1]], dtype=torch.float64))
    marginal = dense_probabilities(torch.tensor([[[3.0, 1.0], [0.5, 0.3]]]), 4, "x")
    torch.testing.assert_close(marginal, torch.tensor([[0.1, 0.3, 0.1, 0.5]], dtype=torch.float64))


def bad_dense(name: str, beton: Beton, path: Path) -> None:
    logits = np.zeros((1, 12, CLASSES), np.float32)
    crops = np.zeros((1, 12, 5), np.int32)
    crops[..., 2:4] = 8
    arrays: dict[str, np.ndarray] = {"logits": logits}
    if name == "NaN":
        logits[0, 3, 1] = np.nan
    elif name == "another size":
        arrays["logits"] = np.zeros((1, 12, 7), np.float32)
    elif name == "no name":
        arrays = {"x": logits}
    elif name == "fewer samples":
        arrays["logits"] = logits[:, :5]
    elif name == "an id twice":
        arrays["ids"] = np.zeros(12, np.int64)
    elif name == "crops outside":
        crops[0, 4] = [0, 0, 500, 500, 0]
        arrays["crops"] = crops
    elif name == "a pickle":
        arrays["logits"] = np.array([{"a": 1}], object)
    elif name == "logits as probabilities":
        arrays = {"probabilities": logits - 1}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    if name == "cut short":
        path.write_bytes(path.read_bytes()[:200])


WORDS = {
    "NaN": "has NaN", "another size": "3 classes, as the dataset has", "no name": "one called logits",
    "fewer samples": "add ids", "an id twice": "each once", "crops outside": "crops of other images",
    "a pickle": "cannot be read", "logits as probabilities": "no probabilities", "cut short": "cannot be read",
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_bad_arrays_are_one_error(photos: Path, tmp_path: Path, name: str, cli: Callable[..., Result]) -> None:
    bad_dense(name, Beton.open(photos), tmp_path / "bad.npz")
    done = cli("import", "dense", tmp_path / "bad.npz", photos, tmp_path / "s.zarr", "--size", 16, "--unaligned")
    assert done.exit_code in (1, 2) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert WORDS[name] in done.stderr, done.stderr
    assert not list(tmp_path.glob("s.zarr*"))


@pytest.mark.parametrize("damage", ["cut short", "lacking", "unknown key", "no crops"])
def test_bad_records_of_tinyvit(photos: Path, tmp_path: Path, damage: str, cli: Callable[..., Result]) -> None:
    folder = tmp_path / "records"
    epoch = folder / "logits_top2_epoch0"
    epoch.mkdir(parents=True)
    kind = np.dtype([("seed", "<i4"), ("classes", "<i2", (2,)), ("probs", "<f2", (2,))])
    records = np.zeros(12, kind)
    records["classes"], records["probs"] = [0, 1], [0.7, 0.2]
    keys = [str(sample) for sample in range(12)]
    if damage == "lacking":
        keys, records = keys[:-1], records[:-1]
    if damage == "unknown key":
        keys[3] = "n01440764_18"
    (epoch / "rank0-keys.txt").write_text("\n".join(keys) + "\n")
    content = records.tobytes()
    (epoch / "rank0-values.bin").write_bytes(content[:-5] if damage == "cut short" else content)
    options = () if damage == "no crops" else ("--whole-images",)
    done = cli("import", "tinyvit", folder, photos, tmp_path / "s.zarr", "--size", 16, "--unaligned", *options)
    wanted = {"cut short": "cut short", "lacking": "no record", "unknown key": "--keys", "no crops": "--crops"}[damage]
    assert done.exit_code in (1, 2) and wanted in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("s.zarr*"))
