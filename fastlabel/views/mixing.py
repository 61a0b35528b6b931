"""Mixed views: how the crops of two samples become two mixed ones, by CutMix or MixUp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlabel.errors import InputError
from fastlabel.system.arguments import boolean, integer_between, one_of

LAMBDAS = 256
ONE_Q16 = 1 << 16
DEFAULT_BLOCK = 64
MAX_BLOCK, MAX_ALPHA, MIN_ALPHA = 1 << 16, 100.0, 0.01


@dataclass(frozen=True)
class Mixing:
    """What happens to the crops of the two samples of a pair: CutMix, MixUp, or nothing. Make one with `of`.

    CutMix (arXiv 1905.04899) swaps a box whose sides are sqrt(1 - lambda) of the crop's, around a uniform centre, cut
    off at the border. MixUp (arXiv 1710.09412) gives lambda * own + (1 - lambda) * the partner's, rounded half up.
    Both samples of a pair have the same draw. All is kept and computed in integers.

    Attributes:
        cutmix_q16, mixup_q16: probability of each, in units of 2**-16; together at most 1.
        cutmix_lambdas_q16, mixup_lambdas_q16: 256 equally likely values of lambda ~ Beta(alpha, alpha), in units of
            2**-16; none where the probability is 0.
        block: even number of samples among which pairs are drawn: a sample meets `block` - 1 others over the views.
        shared: the pairs of a block share one draw, as those of a batch do in SRe2L's and the papers' code.
    """

    cutmix_q16: int
    mixup_q16: int
    cutmix_lambdas_q16: tuple[int, ...] = field(default=(), repr=False)
    mixup_lambdas_q16: tuple[int, ...] = field(default=(), repr=False)
    block: int = DEFAULT_BLOCK
    shared: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shared", boolean("shared", self.shared))
        for name in ("cutmix", "mixup"):
            share = integer_between(f"{name}_q16", getattr(self, f"{name}_q16"), 0, ONE_Q16 + 1)
            lambdas = getattr(self, f"{name}_lambdas_q16")
            one_of(f"{name}_lambdas_q16", lambdas, tuple, "a tuple of integers")
            if len(lambdas) != (LAMBDAS if share else 0):
                raise InputError(f"{name} with probability {share / ONE_Q16:g} has {len(lambdas)} lambdas")
            for value in lambdas:
                integer_between("lambda", value, 0, ONE_Q16 + 1)
        if not 0 < self.cutmix_q16 + self.mixup_q16 <= ONE_Q16:
            shares = f"{self.cutmix_q16 / ONE_Q16:g} and {self.mixup_q16 / ONE_Q16:g}"
            raise InputError(f"the probabilities of CutMix and MixUp are {shares}: together above 0 and at most 1")
        if integer_between("mix block", self.block, 2, MAX_BLOCK + 1) % 2:
            raise InputError(f"mix block {self.block} is odd: pairs are drawn in it, so give an even number")

    def __str__(self) -> str:
        shares = (("CutMix", self.cutmix_q16), ("MixUp", self.mixup_q16))
        kinds = " and ".join(f"{name} {share / ONE_Q16:.3g}" for name, share in shares if share)
        return f"{kinds} in blocks of {self.block}{', one draw a block' if self.shared else ''}"

    @classmethod
    def of(
        cls,
        cutmix: float = 0.0,
        mixup: float = 0.0,
        cutmix_alpha: float | None = None,
        mixup_alpha: float | None = None,
        block: int = DEFAULT_BLOCK,
        shared: bool = False,
    ) -> Mixing:
        """Mixing of these probabilities, with lambda ~ Beta(alpha, alpha), of alpha 1 where none is said.

        InputError for a value that is out of range, and for the alpha of a kind that never comes.
        """
        shares = {}
        for name, share, alpha in (("cutmix", cutmix, cutmix_alpha), ("mixup", mixup, mixup_alpha)):
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise InputError(f"the probability of {name} is {share!r}, expected a number from 0 to 1")
            shares[name] = round(share * ONE_Q16)
            if alpha is not None and not shares[name]:
                raise InputError(f"{name}_alpha is given, and the probability of {name} is 0: give it too")
        return cls(
            shares["cutmix"],
            shares["mixup"],
            beta_lambdas_q16("cutmix_alpha", 1.0 if cutmix_alpha is None else cutmix_alpha) if shares["cutmix"] else (),
            beta_lambdas_q16("mixup_alpha", 1.0 if mixup_alpha is None else mixup_alpha) if shares["mixup"] else (),
            block,
            shared,
        )

    def to_dict(self) -> dict[str, Any]:
        """What a manifest keeps."""
        return {
            "cutmix_q16": self.cutmix_q16,
            "mixup_q16": self.mixup_q16,
            "cutmix_lambdas_q16": list(self.cutmix_lambdas_q16),
            "mixup_lambdas_q16": list(self.mixup_lambdas_q16),
            "block": self.block,
            "shared": self.shared,
        }

    @classmethod
    def from_dict(cls, data: Any) -> Mixing:
        """The inverse of `to_dict`."""
        one_of("mixing", data, Mapping, "its values by name")
        try:
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
            }
            mixing = cls(**values)
        except TypeError as error:
            raise InputError(f"not the mixing of a view policy: {error}") from error
        if data.keys() != mixing.to_dict().keys():
            raise InputError(f"the mixing of a view policy needs {', '.join(mixing.to_dict())}; got {', '.join(data)}")
        return mixing


def beta_lambdas_q16(name: str, alpha: float) -> tuple[int, ...]:
    """The midpoints of 256 equally likely parts of Beta(alpha, alpha), in units of 2**-16, ascending and symmetric.

    Only these integers matter afterwards: they are kept. `name` is that of the argument, for its error.
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not MIN_ALPHA <= alpha <= MAX_ALPHA:
        raise InputError(f"{name} is {alpha!r}, expected a number from {MIN_ALPHA:g} to {MAX_ALPHA:g}")
    # In u = x ** alpha the density of the lower half is (1 - x) ** (alpha - 1), without a pole at 0.
    steps = 1 << 16
    u = 0.5**alpha * (np.arange(steps) + 0.5) / steps
    x = u ** (1 / alpha)
    mass = np.cumsum((1 - x) ** (alpha - 1))
    quantiles = (np.arange(LAMBDAS // 2) + 0.5) / (LAMBDAS // 2)
    lower = np.interp(quantiles, mass / mass[-1], x)
    below = [round(float(value) * ONE_Q16) for value in lower]
    return (*below, *(ONE_Q16 - value for value in reversed(below)))
