"""A view is a pure function of (seed, view, sample, height, width): a crop box, a flip, and on demand a mix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastlabel.errors import InputError
from fastlabel.kernels import view_boxes as kernel
from fastlabel.system.arguments import boolean, integer_between, one_of, pair
from fastlabel.views.mixing import Mixing
from fastlabel.views.pixels import PixelOperations
from fastlabel.views.stored import BOX_COLUMNS, MIX_COLUMNS, StoredCrops, stored_boxes

KINDS = {
    "random-resized-crop": kernel.RANDOM_RESIZED_CROP,
    "pad-crop": kernel.PAD_CROP,
    "center": kernel.CENTER,
    "identity": kernel.IDENTITY,
}
PARAMETERS = {
    "random-resized-crop": ("scale_q24", "ratio_q16", "flip"),
    "pad-crop": ("padding", "flip"),
    "center": ("fraction",),
    "identity": (),
    "stored": ("mixed", "digests"),
}
STORED = "stored"  # crops that were imported: not chosen by name
ASPECTS = 256
# Exclusive. With these, no product in the kernels leaves 64 bits.
MAX_SEED, MAX_SAMPLE, MAX_VIEW, MAX_PARAMETER, MAX_SIDE = 2**64, 2**63, 2**32, 2**32, 2**16


@dataclass(frozen=True)
class ViewPolicy:
    """How a view crops: a name, the side of its square output in pixels, a seed and integer parameters.

    Make one with `random_resized_crop`, `pad_crop`, `center` or `identity`.
    Geometry is computed in integers from Philox4x32-10 words, so that two machines agree to the pixel.

    Attributes:
        scale_q24: lowest and highest area fraction of a random-resized-crop, in units of 2**-24.
        ratio_q16: lowest and highest width/height ratio, in units of 2**-16.
        aspects_q16: 256 log-uniform values of sqrt(width/height), in units of 2**-16.
        flip: whether half of the samples are mirrored.
        padding: pixels added on each side by pad-crop; what lies outside the image is black.
        fraction: side of the central square over the shorter side of the image, as (numerator, denominator).
        pixels: operations on the pixels of a crop; None for none. mixing: how the crops of two samples are mixed after
            that; None leaves each alone.
        mixed, digests, crops: of stored views: whether crops are mixed with those of partners, the SHA-256 of each
            view's table, and the tables, which a store holds.
    """

    name: str
    size: int
    seed: int = 0
    scale_q24: tuple[int, int] = (0, 0)
    ratio_q16: tuple[int, int] = (0, 0)
    aspects_q16: tuple[int, ...] = field(default=(), repr=False)
    flip: bool = False
    padding: int = 0
    fraction: tuple[int, int] = (1, 1)
    mixing: Mixing | None = None
    pixels: PixelOperations | None = None
    mixed: bool = False
    digests: tuple[str, ...] = field(default=(), repr=False)
    crops: StoredCrops | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name(self.name, stored=True)
        object.__setattr__(self, "flip", boolean("flip", self.flip))
        for name, low, high in (("size", 1, MAX_SIDE), ("seed", 0, MAX_SEED), ("padding", 0, MAX_SIDE)):
            object.__setattr__(self, name, integer_between(f"view {name}", getattr(self, name), low, high))
        for name in ("scale_q24", "ratio_q16", "fraction"):
            object.__setattr__(self, name, pair(name, getattr(self, name)))
        one_of("mixing", self.mixing, (Mixing, type(None)), "a Mixing or None")
        one_of("pixels", self.pixels, (PixelOperations, type(None)), "PixelOperations or None")
        if self.pixels is not None and self.pixels.patches and self.size % self.pixels.patches:
            raise InputError(f"a crop of {self.size} pixels has no {self.pixels.patches} equal patches in a row")
        one_of("aspects_q16", self.aspects_q16, tuple, "a tuple of integers")
        for value in (*self.scale_q24, *self.ratio_q16, *self.aspects_q16, *self.fraction):
            integer_between("view parameter", value, 0, MAX_PARAMETER)
        if self.name == "random-resized-crop":
            self._check_random_resized_crop()
        self._check_stored()
        if not 0 < self.fraction[0] <= self.fraction[1]:
            raise InputError(f"fraction {self.fraction} must be above 0 and at most 1")

    def _check_stored(self) -> None:
        object.__setattr__(self, "mixed", boolean("mixed", self.mixed))
        one_of("digests", self.digests, tuple, "a tuple of digests")
        whole = all(isinstance(one, str) and len(one) == 64 for one in self.digests)
        if not whole or bool(self.digests) != (self.name == STORED) or (self.mixed and self.name != STORED):
            raise InputError(f"{self.name} views have {len(self.digests)} digests of stored crops, or odd ones")
        if self.name == STORED and (self.mixing is not None or self.pixels is not None):
            raise InputError("stored crops have neither pixel operations nor a mixing of their own")

    def _check_random_resized_crop(self) -> None:
        low, high = self.scale_q24
        if not 0 < low <= high <= 1 << 24:
            raise InputError(f"scale {low / 2**24:g} to {high / 2**24:g} must lie above 0, in order, up to 1")
        if not 0 < self.ratio_q16[0] <= self.ratio_q16[1]:
            raise InputError(f"ratio {self.ratio_q16} must be positive and in order")
        if len(self.aspects_q16) != ASPECTS or min(self.aspects_q16) < 1:
            raise InputError(f"a random-resized-crop needs {ASPECTS} positive aspects, got {len(self.aspects_q16)}")

    @classmethod
    def random_resized_crop(
        cls,
        size: int,
        seed: int = 0,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
    ) -> ViewPolicy:
        """A box of random area and aspect, resized to size x size: torchvision's RandomResizedCrop."""
        ratio, scale = pair("ratio", ratio), pair("scale", scale)
        if not 0 < ratio[0] <= ratio[1] < 2**16:
            raise InputError(f"ratio {ratio} must be positive, in order, and below 65536")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(f"scale {scale} must lie above 0, in order, up to 1")
        low, high = math.log(ratio[0]), math.log(ratio[1])
        # Midpoints of equal steps in the logarithm. Only these integers matter afterwards.
        logs = (low + (high - low) * (i + 0.5) / ASPECTS for i in range(ASPECTS))
        return cls(
            "random-resized-crop",
            size,
            seed,
            scale_q24=(round(scale[0] * 2**24), round(scale[1] * 2**24)),
            ratio_q16=(round(ratio[0] * 2**16), round(ratio[1] * 2**16)),
            aspects_q16=tuple(round(math.exp(value / 2) * 2**16) for value in logs),
            flip=flip,
        )

    @classmethod
    def pad_crop(cls, size: int, seed: int = 0, padding: int = 4, flip: bool = True) -> ViewPolicy:
        """A random size x size box of the image with `padding` black pixels around it, as for CIFAR."""
        return cls("pad-crop", size, seed, flip=flip, padding=padding)

    @classmethod
    def center(cls, size: int, seed: int = 0, fraction: tuple[int, int] = (7, 8)) -> ViewPolicy:
        """The central square, `fraction` of the shorter side, resized: 7/8 is 224 of 256."""
        return cls("center", size, seed, fraction=fraction)

    @classmethod
    def identity(cls, size: int, seed: int = 0) -> ViewPolicy:
        """The whole image, resized to size x size where it has another shape."""
        return cls("identity", size, seed)

    @classmethod
    def stored(cls, size: int, tables: NDArray[np.int32]) -> ViewPolicy:
        """The boxes of tables, int32 [V, samples of the file, 5]; or with mixes [V, samples of the file, 11].

        The columns are top, left, height, width in pixels, flip; then the partner's sample, the weight in units of
        2**-16, and top, left, bottom, right of the mixed box, in pixels of the crop. InputError for another shape.
        """
        shape = np.shape(tables)
        if len(shape) != 3 or shape[2] not in (BOX_COLUMNS, BOX_COLUMNS + MIX_COLUMNS) or 0 in shape:
            raise InputError(f"stored crops have the shape {shape}, expected [views, samples, 5 or 11]")
        crops = StoredCrops.of(tables)
        return cls(STORED, size, mixed=shape[2] > BOX_COLUMNS, digests=crops.digests, crops=crops)

    def with_crops(self, crops: StoredCrops) -> ViewPolicy:
        """The same with the tables that its digests are of."""
        return replace(self, crops=crops)

    @property
    def mixes(self) -> bool:
        """Whether a crop holds pixels of another sample."""
        return self.mixing is not None or self.mixed

    def stored_view(self, view: int) -> NDArray[np.int32]:
        """int32 [samples of the file, 5 or 11]: the table of a view of stored crops."""
        if self.crops is None:
            raise InputError("stored crops are in the store that has them: open it, and take its views")
        return self.crops.view(view)

    @classmethod
    def from_name(cls, name: str, size: int, seed: int = 0, flip: bool = True) -> ViewPolicy:
        """The policy of that name with its usual parameters; `flip` matters where views are random."""
        _check_name(name)
        boolean("flip", flip)
        policy: ViewPolicy = getattr(cls, name.replace("-", "_"))(size, seed)
        return replace(policy, flip=flip) if policy.flip else policy

    def boxes(self, view: int, ids: ArrayLike, heights: ArrayLike, widths: ArrayLike) -> NDArray[np.int32]:
        """Boxes int32 [B, 5] of samples under a view: top, left, height, width in pixels, and flip.

        Args:
            view: which view, 0 to 2**32 - 1.
            ids: int64 [B], indices of the samples in their file.
            heights, widths: [B], size in pixels of each sample's image.

        Raises:
            InputError: an image is too small for pad-crop, or a value is out of range.
        """
        view = integer_between("view", view, 0, MAX_VIEW)
        ids = _vector("sample ids", ids, 0, MAX_SAMPLE, np.int64)
        heights = _vector("heights", heights, 1, MAX_SIDE, np.int32)
        widths = _vector("widths", widths, 1, MAX_SIDE, np.int32)
        if not len(ids) == len(heights) == len(widths):
            counts = f"{len(ids)}, {len(heights)} and {len(widths)}"
            raise InputError(f"sample ids, heights and widths must have one length; got {counts}")
        if self.name == STORED:
            self.stored_view(view)
            assert self.crops is not None
            return stored_boxes(self.crops, view, ids, heights, widths)
        boxes = kernel.view_boxes(
            KINDS[self.name], self._parameters(), self.aspects_q16, self.size, self.seed, view, ids, heights, widths
        )
        if self.name == "pad-crop" and (small := np.flatnonzero(boxes[:, 2] == 0)).size:
            first = small[0]
            raise InputError(
                f"sample {ids[first]} is {heights[first]}x{widths[first]} pixels: too small for a "
                f"{self.size}x{self.size} crop with padding {self.padding}; take a smaller size or another policy"
            )
        return boxes

    def _parameters(self) -> tuple[int, ...]:
        if self.name == "random-resized-crop":
            return (*self.scale_q24, *self.ratio_q16, int(self.flip))
        return {"pad-crop": (self.padding, int(self.flip)), "center": self.fraction}.get(self.name, ())

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps: the name, size, seed and the parameters of this policy, all integers."""
        names = ["name", "size", "seed", *PARAMETERS[self.name]]
        if self.name == "random-resized-crop":
            names.append("aspects_q16")
        found = {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in names}
        parts = {"pixels": self.pixels, "mixing": self.mixing}
        return found | {name: part.to_dict() for name, part in parts.items() if part is not None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ViewPolicy:
        """The inverse of `to_dict`."""
        one_of("a view policy", data, Mapping, "its values by name")
        try:
            values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
            for name, kind in (("mixing", Mixing), ("pixels", PixelOperations)):
                if name in values:
                    values[name] = kind.from_dict(values[name])
            policy = cls(**values)
        except TypeError as error:
            raise InputError(f"not a view policy: {error}") from error
        if data.keys() != policy.to_dict().keys():
            raise InputError(f"a {policy.name} view policy needs {', '.join(policy.to_dict())}; got {', '.join(data)}")
        return policy


def _check_name(name: Any, stored: bool = False) -> None:
    if stored and name == STORED:
        return
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(f"unknown view policy {name!r}; choose one of {', '.join(KINDS)}")


def _vector(name: str, values: ArrayLike, low: int, high: int, dtype: DTypeLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{name} must be integers [B]; got {array.dtype} {array.shape}")
    if array.size and not low <= array.min() <= array.max() < high:
        raise InputError(f"{name} {array.min()} to {array.max()} must be {low} to {high - 1}")
    return array.astype(dtype, copy=False)
