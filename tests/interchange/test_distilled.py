"""Images and labels of other methods: tensors in, the same values in front of a student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.tensor_source import read_exact
from fastlabel.store.store import LabelStore
from fastlabel.studies.in_memory import load_resident
from tests.stores import make_teacher

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def tensors(count: int = 6, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images float32 [N, 3, S, S], and probabilities [N, 3] of three classes."""
    random = np.random.default_rng(3)
    images = random.normal(size=(count, 3, side, side)).astype(np.float32) * 2
    logits = random.normal(size=(count, 3)).astype(np.float32)
    logits[np.arange(count), np.arange(count) % 3] += 3
    return images, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def save(root: Path, suffix: str, images: np.ndarray, labels: np.ndarray) -> str:
    path = root / f"both{suffix}"
    if suffix == ".pt":
        torch.save(torch.from_numpy(images), root / "images.pt")
        torch.save(torch.from_numpy(labels), root / "labels.pt")
        return f"tensors:{root / 'images.pt'},{root / 'labels.pt'}"
    if suffix == ".npz":
        np.savez(path, images=images.transpose(0, 2, 3, 1), labels=labels)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["data"], file["label"] = images, labels
    return f"tensors:{path}"


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".h5"])
def test_a_network_gets_the_images_and_labels_of_the_tensors(
    tmp_path: Path, suffix: str, cli: Callable[..., Result]
) -> None:
    images, labels = tensors()
    source = save(tmp_path, suffix, images, labels)
    out, store = tmp_path / "d.beton", tmp_path / "learned.zarr"
    done = cli("write-dataset", source, out, "--labels", store, "--mean", *MEAN, "--std", *STD)
    assert done.exit_code == 0, done.stderr
    beton, model = Beton.open(out), make_teacher().model
    shape = (1, 3, 1, 1)
    pixels = images * np.float32(STD).reshape(shape) + np.float32(MEAN).reshape(shape)
    wanted = model.normalise(torch.from_numpy(pixels * 255))
    found = load_resident(beton, np.arange(6), model, torch.device("cpu"))
    assert torch.equal(found.images, wanted) and found.targets.tolist() == [0, 1, 2, 0, 1, 2]
    kept = LabelStore.open(store)
    assert kept.views.name == "identity" and cli("verify", store, out).exit_code == 0
    # Codes are steps of 1/8 nat: half a step of a log-probability.
    log_ratio = kept.plane(0)[:].dense().log() - torch.from_numpy(labels).log()
    assert log_ratio.abs().max() < 1 / 8


def test_whitened_images_reach_a_network_as_they_are(tmp_path: Path, cli: Callable[..., Result]) -> None:
    images, _ = tensors()
    torch.save(torch.from_numpy(images), tmp_path / "i.pt")
    torch.save(torch.arange(6) % 3, tmp_path / "l.pt")
    source = f"tensors:{tmp_path / 'i.pt'},{tmp_path / 'l.pt'}"
    assert cli("write-dataset", source, tmp_path / "d.beton", "--network-input").exit_code == 0
    found = load_resident(Beton.open(tmp_path / "d.beton"), np.arange(6), make_teacher().model, torch.device("cpu"))
    assert torch.equal(found.images, torch.from_numpy(images))


def test_images_that_8_bits_hold_need_no_file_of_exact_values(tmp_path: Path, cli: Callable[..., Result]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), np.uint8)
    for name, images in (("a", levels), ("b", levels.astype(np.float32) / 255)):
        np.savez(tmp_path / "x.npz", images=images, labels=np.arange(3))
        assert cli("write-dataset", f"tensors:{tmp_path / 'x.npz'}", tmp_path / f"{name}.beton").exit_code == 0
        assert read_exact(tmp_path / f"{name}.beton") is None
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


BAD = {
    "NaN": ("has NaN", ()),
    "normalised, not said": ("--mean and --std", ()),
    "regression targets": ("no probabilities", ("--mean", *MEAN, "--std", *STD, "--labels", "s.zarr")),
    "no store": ("give --labels", ("--mean", *MEAN, "--std", *STD)),
    "fewer labels": ("5 labels", ()),
    "a pickle": ("can run code", ()),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tensors_are_one_error_and_nothing_is_written(
    tmp_path: Path, case: str, cli: Callable[..., Result]
) -> None:
    images, labels = tensors()
    if case == "NaN":
        images[2, 0, 0, 0] = np.nan
    if case == "regression targets":
        labels = labels - labels.mean(1, keepdims=True)
    if case == "fewer labels":
        labels = labels[:5]
    source = save(tmp_path, ".pt", images, labels)
    if case == "a pickle":
        torch.save(tmp_path, tmp_path / "images.pt")
    wanted, options = BAD[case]
    given = [tmp_path / one if one == "s.zarr" else one for one in options]
    done = cli("write-dataset", source, tmp_path / "d.beton", *given)
    assert done.exit_code in (1, 2) and wanted in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"images.pt", "labels.pt"}
