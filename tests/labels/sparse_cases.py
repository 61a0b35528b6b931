"""Random sparse labels for tests, and what they stand for, written out row by row in float64."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from fastlabel.labels.sparse import SparseLabels

WEIGHTS = st.sampled_from([0.0, 0.0, 0.03, 0.1, 0.1, 0.25, 0.5, 1.0]) | st.floats(2**-20, 1, width=32)


@st.composite
def sparse_labels(draw, rows=None, num_classes=None) -> SparseLabels:
    """Rows with ties, zero weights, empty places anywhere, and listed classes below the rest; also B=0, M=1, M=C."""
    num_classes = draw(st.integers(1, 9)) if num_classes is None else num_classes
    rows = draw(st.integers(0, 4)) if rows is None else rows
    width = draw(st.sampled_from([1, num_classes]) | st.integers(1, num_classes))
    full = draw(st.booleans())
    classes = np.full((rows, width), -1, np.int32)
    probs = np.zeros((rows, width), np.float32)
    rest = np.zeros(rows, np.float32)
    for b in range(rows):
        order = draw(st.permutations(range(num_classes)))
        for place in range(width):
            if full or draw(st.integers(0, 3)):
                classes[b, place], probs[b, place] = order[place], draw(WEIGHTS)
        rest[b] = draw(WEIGHTS)
    return from_numpy(classes, probs, rest, num_classes)


def from_numpy(classes, probs, rest, num_classes: int) -> SparseLabels:
    """Labels of arrays or nested lists."""
    return SparseLabels(
        torch.tensor(np.asarray(classes), dtype=torch.int32),
        torch.tensor(np.asarray(probs), dtype=torch.float32),
        torch.tensor(np.asarray(rest), dtype=torch.float32),
        num_classes,
    )


def dense_rows(labels: SparseLabels) -> np.ndarray:
    """float64 [B, C]: the rest everywhere, then each listed class."""
    dense = np.empty((len(labels), labels.num_classes))
    for b, (classes, probs, rest) in enumerate(
        zip(labels.classes.tolist(), labels.probs.tolist(), labels.rest.tolist(), strict=True)
    ):
        dense[b] = rest
        for c, p in zip(classes, probs, strict=True):
            if c >= 0:
                dense[b, c] = p
    return dense


def listed_in_order(labels: SparseLabels, b: int) -> list[int]:
    """The listed classes of row b from the most likely to the least, equal ones by place."""
    weights = dict(zip(labels.classes[b].tolist(), labels.probs[b].tolist(), strict=True))
    weights.pop(-1, None)
    return sorted(weights, key=lambda c: -weights[c])


def assert_stands_for(labels: SparseLabels, expected: np.ndarray, rtol: float = 1e-6, atol: float = 1e-30) -> None:
    """The labels are well-formed, and their dense form is `expected` up to the rounding to float32."""
    labels.check_values()
    np.testing.assert_allclose(dense_rows(labels), expected, rtol=rtol, atol=atol)
    assert torch.equal(labels.dense(), torch.tensor(dense_rows(labels), dtype=torch.float32))
