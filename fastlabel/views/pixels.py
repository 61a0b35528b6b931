"""Operations on the pixels of a view: which a crop gets, and with what strength, pure in (seed, view, sample)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.errors import InputError
from fastlabel.kernels.pixel_operations.reference import BLUR, COLUMNS, GRAY, ONE, SOLARISE, TAPS
from fastlabel.kernels.view_boxes import random_keys
from fastlabel.system.arguments import integer_between, one_of, pair

# Of the random numbers; those below are of boxes, orders and mixed views. Patch p has number STREAM_PATCHES + p.
STREAM_KIND, STREAM_JITTER, STREAM_MORE, STREAM_AREA, STREAM_PLACE, STREAM_PATCHES = 8, 9, 10, 11, 12, 32
BLURS, ASPECTS, MOST_PATCHES = 16, 256, 8
IMAGENET_MEAN = (124, 116, 104)
_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class PixelOperations:
    """What happens to the pixels of a crop before it is mixed, in this order. Make one with `of`.

    1. At most one of gray, solarise and blur (3-Augment of DeiT III, arXiv 2204.07118, has a third of each).
    2. Brightness, contrast, saturation: each by a factor that is uniform around 1.
    3. Shuffled patches of a grid (RDED, arXiv 2312.03526).
    4. An erased box (random erasing, arXiv 1708.04896).

    Attributes:
        gray_q16, solarise_q16, blur_q16: probability of each, in units of 2**-16; together at most 1.
        blurs_q16: 16 equally likely blurs: 7 weights of each, from the middle outwards, in units of 2**-16.
        brightness_q16, contrast_q16, saturation_q16: how far factors go from 1, in units of 2**-16.
        patches: the crop is cut into patches x patches, whose places are shuffled; 0 leaves them.
        erase_q16: probability of an erased box. erase_area_q16: least and largest share of the crop.
        erase_aspects_q16: 256 equally likely values of sqrt(height / width), in units of 2**-16.
        fill: its colour.
    """

    gray_q16: int = 0
    solarise_q16: int = 0
    blur_q16: int = 0
    blurs_q16: tuple[int, ...] = field(default=(), repr=False)
    brightness_q16: int = 0
    contrast_q16: int = 0
    saturation_q16: int = 0
    patches: int = 0
    erase_q16: int = 0
    erase_area_q16: tuple[int, int] = (0, 0)
    erase_aspects_q16: tuple[int, ...] = field(default=(), repr=False)
    fill: tuple[int, int, int] = IMAGENET_MEAN

    def __post_init__(self) -> None:
        for name in ("gray", "solarise", "blur", "brightness", "contrast", "saturation", "erase"):
            integer_between(f"{name}_q16", getattr(self, f"{name}_q16"), 0, ONE + 1)
        integer_between("patches", self.patches, 0, MOST_PATCHES + 1)
        for name in ("blurs_q16", "erase_area_q16", "erase_aspects_q16", "fill"):
            one_of(name, getattr(self, name), tuple, "a tuple of integers")
        for name, value in (("blur", v) for v in self.blurs_q16):
            integer_between(name, value, 0, ONE + 1)
        lengths = {
            "blurs_q16": BLURS * TAPS if self.blur_q16 else 0,
            "erase_aspects_q16": ASPECTS if self.erase_q16 else 0,
            "erase_area_q16": 2,
            "fill": 3,
        }
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise InputError(f"{name} has {len(getattr(self, name))} values, expected {length}")
        for weights in np.array(self.blurs_q16, np.int64).reshape(-1, TAPS):
            if weights[0] + 2 * weights[1:].sum() != ONE:
                raise InputError(f"the weights of a blur add up to {weights[0] + 2 * weights[1:].sum()}, not to {ONE}")
        for value in self.fill:
            integer_between("fill", value, 0, 256)
        for value in self.erase_aspects_q16:
            integer_between("erase aspect", value, 1, 1 << 24)
        low, high = self.erase_area_q16
        if not 0 <= integer_between("erase area", low, 0, ONE + 1) <= integer_between("erase area", high, 0, ONE + 1):
            raise InputError(f"the area of an erased box is {self.erase_area_q16}, expected it in order")
        if self.gray_q16 + self.solarise_q16 + self.blur_q16 > ONE:
            raise InputError("gray, solarise and blur together are above 1: a crop gets at most one of them")
        if not self.changes:
            raise InputError("the pixel operations change nothing: leave them out")

    def __str__(self) -> str:
        names = ("gray", "solarise", "blur", "brightness", "contrast", "saturation", "erase")
        shares = {name: getattr(self, f"{name}_q16") / ONE for name in names}
        found = [f"{name} {share:.3g}" for name, share in shares.items() if share]
        return ", ".join([*found, *([f"{self.patches} x {self.patches} patches"] if self.patches > 1 else [])])

    @property
    def changes(self) -> bool:
        """Whether any crop is changed."""
        shares = (self.gray_q16, self.solarise_q16, self.blur_q16, self.erase_q16)
        jitter = (self.brightness_q16, self.contrast_q16, self.saturation_q16)
        return any(shares) or any(jitter) or self.patches > 1

    @classmethod
    def of(
        cls,
        gray: float = 0.0,
        solarise: float = 0.0,
        blur: float = 0.0,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        patches: int = 0,
        erase: float = 0.0,
        erase_area: tuple[float, float] = (0.02, 1 / 3),
        erase_ratio: tuple[float, float] = (0.3, 3.3),
        fill: tuple[int, int, int] = IMAGENET_MEAN,
    ) -> PixelOperations:
        """Operations of these probabilities and strengths; sigma in pixels. InputError for one that is out of range."""
        given = {"gray": gray, "solarise": solarise, "blur": blur, "erase": erase}
        given |= {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        values: dict[str, Any] = {f"{name}_q16": _share(name, share) for name, share in given.items()}
        area = pair("erase_area", erase_area)
        return cls(
            **values,
            patches=patches,
            blurs_q16=_blurs(*pair("blur_sigma", blur_sigma)) if values["blur_q16"] else (),
            erase_area_q16=(_share("erase_area", area[0]), _share("erase_area", area[1])) if erase else (0, 0),
            erase_aspects_q16=_aspects(*pair("erase_ratio", erase_ratio)) if values["erase_q16"] else (),
            fill=fill,
        )

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: Any) -> PixelOperations:
        """The inverse of `to_dict`."""
        one_of("pixels", data, Mapping, "its values by name")
        names = [one.name for one in fields(cls)]
        if set(data) != set(names):
            raise InputError(f"the pixels of a view policy need {', '.join(names)}; got {', '.join(map(str, data))}")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)

    def kernels(self) -> NDArray[np.int32]:
        """int32 [blurs, 7]: weights in units of 2**-16; one blur that changes nothing where there is none."""
        weights = np.array(self.blurs_q16 or (ONE, *([0] * (TAPS - 1))), np.int32)
        return weights.reshape(-1, TAPS)

    def table(self, seed: int, view: int, ids: NDArray[np.int64], size: int) -> NDArray[np.int32]:
        """int32 [n, 9 + patches**2] of crops of size x size: see `kernels/pixel_operations/reference.py`."""
        found = np.zeros((len(ids), len(COLUMNS) + self.patches**2), np.int32)

        def words(stream: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            keys = random_keys(seed, stream, view, ids)
            return (keys >> _32).astype(np.int64), (keys & _LOW).astype(np.int64)

        choice, level = words(STREAM_KIND)
        bounds = np.cumsum([self.gray_q16, self.solarise_q16, self.blur_q16])
        found[:, 0] = np.array([GRAY, SOLARISE, BLUR, 0])[np.searchsorted(bounds, choice >> 16, side="right")]
        found[:, 1] = np.where(found[:, 0] == BLUR, level % BLURS, 0)
        first, second = words(STREAM_JITTER)
        third, erased = words(STREAM_MORE)
        strengths = (self.brightness_q16, self.contrast_q16, self.saturation_q16)
        for column, (word, strength) in enumerate(zip((first, second, third), strengths, strict=True), start=2):
            found[:, column] = ONE - strength + (2 * strength * word >> 32)
        hit = erased >> 16 < self.erase_q16
        if hit.any():
            found[hit, 5:9] = self._boxes([part[hit] for part in (*words(STREAM_AREA), *words(STREAM_PLACE))], size)
        if self.patches:
            keys = [random_keys(seed, STREAM_PATCHES + place, view, ids) for place in range(self.patches**2)]
            found[:, len(COLUMNS) :] = np.argsort(np.stack(keys, axis=1), axis=1, kind="stable")
        return found

    def _boxes(self, words: list[NDArray[np.int64]], size: int) -> NDArray[np.int64]:
        """int64 [n, 4]: top, left, bottom, right of erased boxes, of four random words each."""
        area, aspect, top, left = words
        low, high = self.erase_area_q16
        share = low + ((high - low) * area >> 32)
        # Of the box's side, in units of 2**-8: exact, as the numbers are below 2**53.
        side = np.sqrt((share * size * size).astype(np.float64)).astype(np.int64)
        aspects = np.array(self.erase_aspects_q16, np.int64)[aspect % ASPECTS]
        height = np.clip((side * aspects + (1 << 23)) >> 24, 1, size)
        width = np.clip((side * (1 << 8) + aspects // 2) // aspects, 1, size)
        tops, lefts = top * (size - height + 1) >> 32, left * (size - width + 1) >> 32
        return np.stack([tops, lefts, tops + height, lefts + width], axis=1)


def _share(name: str, share: Any) -> int:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise InputError(f"{name} is {share!r}, expected a number from 0 to 1")
    return round(share * ONE)


def _blurs(low: float, high: float) -> tuple[int, ...]:
    """Weights of Gaussian blurs of 16 equally spaced widths: what the six outer ones lose, the middle one gains."""
    if not 0.05 <= low <= high <= 2.5:
        raise InputError(f"blur_sigma is {low} to {high}, expected 0.05 to 2.5 pixels, in order")
    found: list[int] = []
    for level in range(BLURS):
        sigma = low + (high - low) * (level + 0.5) / BLURS
        weights = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(TAPS)]
        total = weights[0] + 2 * sum(weights[1:])
        outer = [round(weight / total * ONE) for weight in weights[1:]]
        found += [ONE - 2 * sum(outer), *outer]
    return tuple(found)


def _aspects(low: float, high: float) -> tuple[int, ...]:
    if not 0 < low <= high <= 100:
        raise InputError(f"erase_ratio is {low} to {high}, expected it above 0, in order, up to 100")
    logs = (math.log(low) + (math.log(high) - math.log(low)) * (i + 0.5) / ASPECTS for i in range(ASPECTS))
    return tuple(round(math.exp(value / 2) * ONE) for value in logs)
