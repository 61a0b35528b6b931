"""Learned labels in the baseline: a store that came with the images, beside hard labels and the expert's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.interchange.distilled import write_distilled
from fastlabel.studies.in_memory import decode_pixels
from fastlabel.studies.registry import find_study
from fastlabel.studies.runner import run_study
from tests.studies.tiny import CLASSES, SIDE, study_config


def distilled(data: Any, folder: Path, learned: bool = True) -> tuple[Path, Path]:
    """Two images a class with a little noise, and labels that lean to their class."""
    beton = Beton.open(data.train)
    ids = np.concatenate([np.flatnonzero(np.asarray(beton.targets) == one)[:2] for one in range(CLASSES)])
    random = np.random.default_rng(0)
    images = decode_pixels(beton, ids, SIDE).numpy() / np.float32(255) + random.normal(0, 0.05, (10, 3, SIDE, SIDE))
    probs = np.full((10, CLASSES), 0.05, np.float32)
    probs[np.arange(10), np.arange(10) // 2] = 0.8
    np.savez(folder / "both.npz", images=images.astype(np.float32), labels=probs)
    out, store = folder / "distilled.beton", folder / "learned.zarr"
    write_distilled(f"tensors:{folder / 'both.npz'}", out, labels_out=store, classes_of=data.train, progress=False)
    return out, store


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


def test_a_store_of_other_images_is_refused(data: Any, experts: Path, tmp_path: Path) -> None:
    _, store = distilled(data, tmp_path)
    config = study_config(data, experts, tmp_path / "study", grid={"ipc": (2,), "learned": (str(store), "x")})
    with pytest.raises(InputError, match="one store"):
        run_study(find_study("baseline"), config)
