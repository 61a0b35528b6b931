"""The definition of a view's box, in Python integers of any size: every backend equals this."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

RANDOM_RESIZED_CROP, PAD_CROP, CENTER, IDENTITY = range(4)
ATTEMPTS = 10  # as torchvision.transforms.RandomResizedCrop

STREAM_VIEWS = 0
WORD = 0xFFFFFFFF


def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: four random 32-bit words for a 128-bit counter and a 64-bit key.

    Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product_0, product_1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product_1 >> 32) ^ c1 ^ k0,
            product_1 & WORD,
            (product_0 >> 32) ^ c3 ^ k1,
            product_0 & WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def draw(seed: int, view: int, sample: int, index: int, stream: int = STREAM_VIEWS) -> tuple[int, int, int, int]:
    """The random words number ``index`` of one sample under one view: a function of nothing else."""
    counter = (sample & WORD, sample >> 32, view, (stream << 16) | index)
    return philox4x32(counter, (seed & WORD, seed >> 32))


def view_box_reference(
    kind: int,
    parameters: Sequence[int],
    aspects_q16: Sequence[int],
    size: int,
    seed: int,
    view: int,
    sample: int,
    height: int,
    width: int,
) -> tuple[int, int, int, int, int]:
    """Box (top, left, height, width) in pixels and flip (0 or 1) of one sample under one view.

    ``parameters`` by kind: random-resized-crop (scale_low_q24, scale_high_q24, ratio_low_q16,
    ratio_high_q16, flip), pad-crop (padding, flip), center (numerator, denominator), identity ().
    A box of height 0 says that the image is too small for the policy.
    """
    if kind == RANDOM_RESIZED_CROP:
        return _random_resized_crop(parameters, aspects_q16, seed, view, sample, height, width)
    if kind == PAD_CROP:
        padding, flip = parameters
        return _pad_crop(padding, flip, size, draw(seed, view, sample, 0), height, width)
    if kind == CENTER:
        numerator, denominator = parameters
        side = max(1, (2 * min(height, width) * numerator + denominator) // (2 * denominator))
        return (height - side) // 2, (width - side) // 2, side, side, 0
    return 0, 0, height, width, 0


def _random_resized_crop(
    parameters: Sequence[int], aspects_q16: Sequence[int], seed: int, view: int, sample: int, height: int, width: int
) -> tuple[int, int, int, int, int]:
    scale_low, scale_high, ratio_low, ratio_high, flips = parameters
    flip = draw(seed, view, sample, 0)[1] & 1 if flips else 0
    for attempt in range(ATTEMPTS):
        u_area, u_aspect, u_top, u_left = draw(seed, view, sample, attempt)
        fraction_q24 = scale_low + ((scale_high - scale_low) * u_area >> 32)
        side_q12 = isqrt(height * width * fraction_q24)
        aspect_q16 = aspects_q16[u_aspect >> 24]
        w = (side_q12 * aspect_q16 + (1 << 27)) >> 28
        h = (32 * side_q12 + aspect_q16) // (2 * aspect_q16)
        if 0 < w <= width and 0 < h <= height:
            return u_top * (height - h + 1) >> 32, u_left * (width - w + 1) >> 32, h, w, flip
    # No box fitted: the largest central one within the ratio, as torchvision does.
    h, w = height, width
    if width << 16 < ratio_low * height:
        h = min(height, (2 * (width << 16) + ratio_low) // (2 * ratio_low))
    elif width << 16 > ratio_high * height:
        w = min(width, (height * ratio_high + (1 << 15)) >> 16)
    h, w = max(1, h), max(1, w)
    return (height - h) // 2, (width - w) // 2, h, w, flip


def _pad_crop(
    padding: int, flips: int, size: int, words: tuple[int, int, int, int], height: int, width: int
) -> tuple[int, int, int, int, int]:
    rows, columns = height + 2 * padding - size + 1, width + 2 * padding - size + 1
    if rows < 1 or columns < 1:
        return 0, 0, 0, 0, 0
    _, u_flip, u_top, u_left = words
    flip = u_flip & 1 if flips else 0
    return (u_top * rows >> 32) - padding, (u_left * columns >> 32) - padding, size, size, flip
