"""scikit-learn's 1,797 real handwritten digits, 8x8 pixels: the data that the demo needs no download for."""

from __future__ import annotations

import hashlib

import numpy as np

UPSCALE = 2
TEST_SHARE = 5  # one in five digits of every class is a test digit
SPLITS = ("train", "test")


def load_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of one split, in the order of scikit-learn: images uint8 [N, 16, 16, 3], targets int64 [N].

    Every pixel is repeated 2x2, so nothing is invented and the pixels are the same on every machine.
    """
    from sklearn.datasets import load_digits as load

    digits = load()
    rows = split_rows(digits.target, split)
    gray = (digits.images[rows].astype(np.int64) * 255 + 8) // 16  # 0..16 to 0..255, rounded
    large = gray.astype(np.uint8).repeat(UPSCALE, axis=1).repeat(UPSCALE, axis=2)
    return np.repeat(large[..., None], 3, axis=3), digits.target[rows].astype(np.int64)


def split_rows(targets: np.ndarray, split: str) -> np.ndarray:
    """The rows of a split, ascending: the same share of every class, by a fixed hash of the row."""
    test = np.zeros(len(targets), dtype=bool)
    for target in np.unique(targets):
        rows = sorted(np.flatnonzero(targets == target).tolist(), key=_hash)
        test[rows[: len(rows) // TEST_SHARE]] = True
    return np.flatnonzero(test if split == "test" else ~test)


def _hash(row: int) -> bytes:
    return hashlib.sha256(b"fastlabel digits %d" % row).digest()
