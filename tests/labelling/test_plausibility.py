"""What is said aloud of a teacher's first labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastlabel.labelling.plausibility import warn_of_doubts
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.manifest import TeacherInfo
from tests.synthetic import teacher

C, V, N = 12, 2, 240
TARGETS = np.arange(N) % C


def labels(top_N: NDArray[np.int64], sure: float = 4.0) -> dict[str, NDArray[Any]]:
    """Arrays [V, N, ...] of labels whose top classes are these."""
    logits = torch.zeros(N, C)
    logits[torch.arange(N), torch.from_numpy(top_N)] = sure
    found = TopKCodec(3, C).encode(logits)
    return {name: np.stack([getattr(found, name).numpy()] * V) for name in ("classes", "codes", "tail")}


def said(caplog: pytest.LogCaptureFixture, found: dict[str, NDArray[Any]], **options: Any) -> str:
    info: TeacherInfo = replace(teacher(0), codec=TopKCodec(3, C), **options)
    caplog.clear()
    warn_of_doubts(info, found, TARGETS)
    return caplog.text


@pytest.mark.fault("11.3 class order")
def test_a_perfect_teacher_in_another_order_of_classes(caplog: pytest.LogCaptureFixture) -> None:
    text_order = np.argsort(np.argsort([str(number) for number in range(C)]))
    text = said(caplog, labels(text_order[TARGETS]))
    assert "its top class is the class of the image for only 16.7% of 480 crops, chance is 8.3%" in text
    assert "its classes seem to be in another order (2 is called 4" in text and "--class-map" in text


def test_a_teacher_that_guesses(caplog: pytest.LogCaptureFixture) -> None:
    guesses = np.random.default_rng(0).integers(C, size=N)
    for top in (guesses, np.zeros(N, dtype=np.int64)):
        assert "is it a teacher of this dataset" in said(caplog, labels(top))


def test_a_good_teacher_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    half = np.where(np.arange(N) % 24 < 12, TARGETS, 0)
    assert said(caplog, labels(TARGETS)) == "" and said(caplog, labels(half)) == ""


def test_agreement_is_that_of_the_mapped_classes(caplog: pytest.LogCaptureFixture) -> None:
    turned = tuple(np.roll(np.arange(C), 1).tolist())
    found = labels(np.asarray(turned)[TARGETS])
    assert said(caplog, found, keeps_classes=True, class_map=turned) == ""
    assert said(caplog, found, keeps_classes=True) == ""  # nothing says which class an image has
    assert "seem to be in another order" in said(caplog, found)


@pytest.mark.fault("11.4 labels of entropy ln C")
def test_labels_that_are_nearly_flat(caplog: pytest.LogCaptureFixture) -> None:
    assert "its labels are nearly flat: their mean entropy is 2.4" in said(caplog, labels(TARGETS, sure=0.25))
