"""Which K, R and step meet a budget of bytes, or keep as much as is asked for: chosen on calibration logits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels.transform import largest_coefficients
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.information import lost_nats
from fastlabel.labels.topk import check_temperature
from fastlabel.labels.transform_codec import TEMPERATURES, TransformCodec
from fastlabel.store.store import compressed_bytes

HEADS = (4, 8, 16)
COMPONENTS = (64, 128, 256)
CODES = (
    4,
    5,
    6,
    7,
    8,
    10,
    12,
    14,
    17,
    20,
    23,
    27,
    32,
    38,
    45,
    64,
    110,
)  # steps in the largest coefficient: of any scale
TOP_K = (16, 32, 100)  # of labels without a transform, for comparison
REFINED, HALVINGS = 3, 3  # of so many pairs of K and R the step is then looked for more finely, in so many trials
MOST_VALUES = 256_000  # of logits that each candidate is tried on
_AT = re.compile(r"(?P<value>[0-9.]+)@T(?P<temperature>[0-9.]+)")


@dataclass(frozen=True)
class Goal:
    """What labels must do. One of the three is given.

    Attributes:
        bytes: at most so many a label on disk; of those that fit, the ones that keep most at T = 1, 4 and 20 together.
        keep: (share, T): at least this share of KL(teacher || uniform) at that temperature, for the fewest bytes.
        logit_offset: whether labels keep their mean logit, and pay for it.
        max_kl: (nats, T): at most this KL(teacher || label) at that temperature, for the fewest bytes.
    """

    bytes: float | None = None
    keep: tuple[float, float] | None = None
    max_kl: tuple[float, float] | None = None
    logit_offset: bool = False

    def __post_init__(self) -> None:
        given = [value for value in (self.bytes, self.keep, self.max_kl) if value is not None]
        if len(given) != 1:
            raise InputError("give one of a budget of bytes, a share of information to keep, and a largest KL")
        value, temperature = (self.bytes, 1.0) if self.bytes is not None else self.keep or self.max_kl or (0, 1)
        check_temperature("the temperature of a goal", temperature)
        most = 1 if self.keep is not None else math.inf
        if not isinstance(value, (int, float)) or not 0 < value < most:
            raise InputError(f"a goal of {value!r} cannot be met: expected above 0{' and below 1' * (most == 1)}")

    def met_by(self, choice: Choice) -> bool:
        if self.bytes is not None:
            return choice.bytes <= self.bytes
        if self.keep is not None:
            return choice.goal_kept >= self.keep[0]
        assert self.max_kl is not None
        return choice.goal_kl <= self.max_kl[0]

    @property
    def temperature(self) -> float:
        _, temperature = self.keep or self.max_kl or (0.0, 1.0)
        return temperature

    def best(self, choices: list[Choice]) -> Choice:
        """Of those that meet it, the one to take. InputError, with the nearest one, where none does."""
        fitting = [choice for choice in choices if self.met_by(choice)]
        if not fitting:
            nearest = min(choices, key=lambda one: one.bytes if self.bytes is not None else one.goal_kl)
            raise InputError(f"no codec that was tried meets the goal; the nearest one: {nearest}")
        if self.bytes is not None:
            return max(fitting, key=lambda one: sum(one.kept))
        return min(fitting, key=lambda one: one.bytes)


@dataclass(frozen=True)
class Choice:
    """One codec, tried on logits that its basis had not seen.

    Attributes:
        components, step: None for the top K with a flat tail.
        bytes: of a label when it is compressed with the others that were tried; a large store takes no more.
        kept: share of KL(teacher || uniform) at T = 1, 4 and 20.
        goal_kept, goal_kl: at the goal's temperature that share, and KL(teacher || label) in nats.
    """

    k: int
    components: int | None
    step: float | None
    bytes: float
    kept: tuple[float, ...]
    goal_kept: float
    goal_kl: float

    def __str__(self) -> str:
        tail = "flat tail" if self.components is None else f"{self.components} components, step {self.step:g}"
        kept = ", ".join(f"{share:.3f} at T={T}" for share, T in zip(self.kept, TEMPERATURES, strict=True))
        return f"top {self.k} and {tail}: {self.bytes:.1f} bytes, keeps {kept}"


def parse_goal(text: str, option: str) -> tuple[float, float]:
    """(0.9, 4.0) of "0.9@T4". InputError for anything else."""
    found = _AT.fullmatch(text)
    try:
        return float(found["value"]), float(found["temperature"])  # type: ignore[index]
    except (TypeError, ValueError):
        raise InputError(f"{option} is {text!r}, expected a number and a temperature, as in 0.9@T4") from None


def try_codecs(fitted_MC: Tensor, tested_NC: Tensor, goal: Goal, k: int | None = None) -> list[Choice]:
    """Candidates, of the given `k` alone where there is one, and plain top K beside them, on logits (nats)."""
    rows = max(32, MOST_VALUES // tested_NC.shape[1])
    # Evenly, so that all views and samples have their share.
    some = tested_NC[:: -(-len(tested_NC) // rows)]
    whole = TransformBasis.from_logits(fitted_MC)
    candidates = _candidates(whole, tested_NC, k, goal.logit_offset)
    choices = [_tried(codec, tested_NC, some, goal) for codec in candidates]

    def tried(one: Choice, step: float) -> Choice:
        basis = whole.first(one.components or 1)
        codec = TransformCodec.of(basis, one.k, step, logit_offset=goal.logit_offset)
        return _tried(codec, tested_NC, some, goal)

    return choices + list(_refined(choices, goal, tried))


def _refined(choices: list[Choice], goal: Goal, tried: Callable[[Choice, float], Choice]) -> Iterator[Choice]:
    """Choices whose steps lie between the best ones that meet the goal and their neighbours that do not."""
    pairs: dict[tuple[int, int | None], list[Choice]] = {}
    for choice in of_transform(choices):
        pairs.setdefault((choice.k, choice.components), []).append(choice)
    best = [goal.best(of_pair) for of_pair in pairs.values() if any(map(goal.met_by, of_pair))]
    best.sort(key=lambda one: -sum(one.kept) if goal.bytes is not None else one.bytes)
    for good in best[:REFINED]:
        assert good.step is not None
        steps = [one.step for one in pairs[good.k, good.components] if one.step and not goal.met_by(one)]
        beyond = [step for step in steps if (step < good.step) == (goal.bytes is not None)]
        if not beyond:
            continue
        meets, fails = good.step, max(beyond) if goal.bytes is not None else min(beyond)
        for _ in range(HALVINGS):
            step = float(f"{math.sqrt(meets * fails):.3g}")
            choice = tried(good, step)
            meets, fails = (step, fails) if goal.met_by(choice) else (meets, step)
            yield choice


def _candidates(whole: TransformBasis, tested_NC: Tensor, k: int | None, logit_offset: bool) -> Iterator[TopKCodec]:
    num_classes = tested_NC.shape[1]
    heads = [k] if k is not None else sorted({min(head, num_classes) for head in HEADS})
    for components in sorted({min(count, whole.num_components) for count in COMPONENTS}):
        basis = whole.first(components)
        largest = largest_coefficients(tested_NC, basis.mean, basis.components).quantile(0.99)
        steps = [float(f"{float(largest) / codes:.2g}") for codes in CODES]
        for head, step in product(heads, steps):
            yield TransformCodec.of(basis, head, step, logit_offset=logit_offset)
    for head in sorted({min(head, num_classes) for head in TOP_K}):
        yield TopKCodec(head, num_classes)


def _tried(codec: TopKCodec, tested_NC: Tensor, some_NC: Tensor, goal: Goal) -> Choice:
    labels, nbytes = codec.encode(some_NC), compressed_bytes(codec.encode(tested_NC), codec) / len(tested_NC)
    lost = {T: lost_nats(some_NC, labels, T) for T in {*map(float, TEMPERATURES), goal.temperature}}
    kept = {T: 1 - kl / whole if whole > 0 else 1.0 for T, (kl, whole) in lost.items()}
    is_transform = isinstance(codec, TransformCodec)
    return Choice(
        codec.k,
        codec.components if is_transform else None,  # type: ignore[attr-defined]
        codec.step if is_transform else None,  # type: ignore[attr-defined]
        round(nbytes, 2),
        tuple(round(kept[float(T)], 4) for T in TEMPERATURES),
        kept[goal.temperature],
        lost[goal.temperature][0],
    )


def of_transform(choices: list[Choice]) -> list[Choice]:
    return [choice for choice in choices if choice.components is not None]


def frontier(choices: list[Choice]) -> list[Choice]:
    """Those with a transform that keep more in all than each one of fewer bytes; then the plain ones."""
    best: list[Choice] = []
    for choice in sorted(of_transform(choices), key=lambda one: one.bytes):
        if not best or sum(choice.kept) > sum(best[-1].kept):
            best.append(choice)
    return best + [choice for choice in choices if choice.components is None]
