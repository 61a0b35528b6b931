"""Learned labels in the baseline: a store that came with the images, beside hard labels and the expert's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.interchange.distilled import write_distilled
from fastlabel.studies.augment import SiameseAugmentation
from fastlabel.studies.in_memory import decode_pixels
from fastlabel.studies.learned_labels import Unrolling, learn_labels
from fastlabel.studies.registry import find_study
from fastlabel.studies.runner import run_study
from tests.studies.tiny import CLASSES, SIDE, colour_images, study_config


def distilled(data: Any, folder: Path, sure: float = 0.8) -> tuple[Path, Path]:
    """Two images a class with a little noise, and labels that lean to their class."""
    beton = Beton.open(data.train)
    ids = np.concatenate([np.flatnonzero(np.asarray(beton.targets) == one)[:2] for one in range(CLASSES)])
    random = np.random.default_rng(0)
    images = decode_pixels(beton, ids, SIDE).numpy() / np.float32(255) + random.normal(0, 0.05, (10, 3, SIDE, SIDE))
    probs = np.full((10, CLASSES), (1 - sure) / 4, np.float32)
    probs[np.arange(10), np.arange(10) // 2] = sure
    np.savez(folder / "both.npz", images=images.astype(np.float32), labels=probs)
    out, store = folder / "distilled.beton", folder / "learned.zarr"
    write_distilled(f"tensors:{folder / 'both.npz'}", out, labels_out=store, classes_of=data.train, progress=False)
    return out, store


def test_learned_labels_lower_the_loss_of_new_students() -> None:
    images = colour_images(per_class=1, classes=3)
    real = colour_images(per_class=20, classes=3, seed=1)
    how = Unrolling(updates=40, steps=4, window=4, lr=0.1, label_lr=0.2, batch_size=60)

    def network(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))

    begin = torch.zeros(3, 3)  # labels that say nothing
    learned, losses = learn_labels(network, images, begin, real, how, SiameseAugmentation.from_name("none"), seed=0)
    assert learned.argmax(1).tolist() == images.targets.tolist()
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1


def test_the_gradient_of_a_label_is_that_of_finite_differences() -> None:
    images, real = colour_images(per_class=1, classes=3), colour_images(per_class=4, classes=3, seed=1)
    how = Unrolling(updates=1, steps=0, window=3, lr=0.1, label_lr=1e-2, batch_size=12)

    def network(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))

    def loss(logits: torch.Tensor) -> float:
        none = SiameseAugmentation.from_name("none")
        return learn_labels(network, images, logits, real, how, none, seed=0)[1][0]

    begin = torch.tensor([[0.5, -0.2, 0.1], [0.0, 0.3, -0.4], [0.2, 0.2, 0.0]])
    learned, _ = learn_labels(network, images, begin, real, how, SiameseAugmentation.from_name("none"), seed=0)
    moved = (learned - begin).sign()  # Adam's first step is the sign of the gradient
    for row, column in ((0, 0), (1, 2), (2, 1)):
        step = torch.zeros(3, 3)
        step[row, column] = 0.05
        slope = loss(begin + step) - loss(begin - step)
        assert np.sign(slope) == -moved[row, column]


@pytest.mark.slow
def test_the_study_of_learned_labels_runs(study: Any) -> None:
    found = study("learned-labels", {"ipc": (1,), "updates": (3,), "window": (2,)}, augment="none")
    assert sorted({row.cell["labels"] for row in found.rows}) == ["hard", "learned", "soft"]
    assert "learned, %" in (Path(found.out) / "report.md").read_text()


@pytest.mark.slow
def test_the_baseline_has_a_column_of_learned_labels(data: Any, experts: Path, tmp_path: Path) -> None:
    out, store = distilled(data, tmp_path)
    config = study_config(data, experts, tmp_path / "study", grid={"ipc": (2,), "learned": (str(store),)})
    object.__setattr__(config, "data", out)
    outcome = run_study(find_study("baseline"), config)
    kinds = [row.cell["labels"] for row in outcome.rows]
    assert sorted(set(kinds)) == ["hard", "learned", "soft"] and kinds.count("learned") == 2
    report = (Path(outcome.out) / "report.md").read_text()
    assert "learned, %" in report
    # Entropy of 0.8 and four times 0.05, by arithmetic.
    wanted = -(0.8 * np.log(0.8) + 4 * 0.05 * np.log(0.05))
    found = outcome.rows.where(labels="learned").spread("label_entropy").mean
    assert found == pytest.approx(wanted, abs=0.05)
    # Another store in its place is another study.
    assert run_study(find_study("baseline"), config).done == 0
    other = tmp_path / "other"
    other.mkdir()
    store.rename(tmp_path / "first.zarr")
    distilled(data, other, sure=0.6)[1].rename(store)
    with pytest.raises(InputError, match=r"its learned.*learned.zarr.* is .*this one has .*choose another folder"):
        run_study(find_study("baseline"), config)


def test_a_store_of_other_images_is_refused(data: Any, experts: Path, tmp_path: Path) -> None:
    _, store = distilled(data, tmp_path)
    config = study_config(data, experts, tmp_path / "study", grid={"ipc": (2,), "learned": (str(store), "x")})
    with pytest.raises(InputError, match="one store"):
        run_study(find_study("baseline"), config)
