"""Recipes: optimizer, schedule, length. The rate is a function of the step, so resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from fastlabel.errors import InputError
from fastlabel.train.choices import DEFAULT_LEARNING_RATES, OPTIMIZERS, SCHEDULES


@dataclass(frozen=True)
class Recipe:
    """How to train. `warmup` is in epochs; `lr` None means the optimizer's default.

    `amp` computes convolutions and products in bfloat16; None means on CUDA devices, see `on`. `compile` trains the
    network as torch.compile makes it.

    `step` multiplies the rate by `step_factor` after each `step_fraction` of all steps; `onecycle` rises from
    lr/25 during the first 30 % of the steps and falls to lr/10000, both along a cosine. `half-cosine` is the first
    half of a cosine that lasts twice as long, and ends at half the rate (RDED, arXiv 2312.03526). `ema` is the decay
    in each step of an average of the weights, which is tested and kept; 0 is none. Raises InputError for values that
    cannot be used.
    """

    epochs: int
    batch_size: int = 256
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.0
    step_factor: float = 0.3
    step_fraction: float = 0.25
    label_smoothing: float = 0.0
    amp: bool | None = None
    compile: bool = False
    ema: float = 0.0

    def __post_init__(self) -> None:
        for what, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if value not in known:
                raise InputError(f"unknown {what} {value!r}: known are {', '.join(known)}")
        if self.lr is None:
            object.__setattr__(self, "lr", DEFAULT_LEARNING_RATES[self.optimizer])
        rules = (
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("lr", self.peak_lr > 0 and math.isfinite(self.peak_lr), "a positive number"),
            ("momentum", 0 <= self.momentum < 1, "0 or more and below 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("warmup", 0 <= self.warmup < self.epochs, f"0 or more epochs and fewer than all {self.epochs}"),
            ("step_factor", 0 < self.step_factor <= 1, "above 0 and at most 1"),
            ("step_fraction", 0 < self.step_fraction <= 1, "above 0 and at most 1"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 or more and below 1"),
            ("ema", 0 <= self.ema < 1, "0 or more and below 1"),
        )
        for name, holds, expected in rules:
            if not holds:
                raise InputError(f"{name} must be {expected}, not {getattr(self, name)}")
        if self.schedule == "onecycle" and self.warmup:
            raise InputError("the onecycle schedule has its own warmup: leave warmup at 0")

    @property
    def peak_lr(self) -> float:
        """The learning rate that the schedule scales."""
        return DEFAULT_LEARNING_RATES[self.optimizer] if self.lr is None else self.lr

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json; without `ema` where there is none, as runs of before wrote them."""
        return {name: value for name, value in asdict(self).items() if name != "ema" or value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_dict`."""
        return cls(**values)

    def on(self, device: torch.device) -> Recipe:
        """The recipe as it is on a device: with `amp` decided."""
        return self if self.amp is not None else replace(self, amp=device.type == "cuda")

    def autocast(self, device: torch.device) -> torch.autocast:
        """The precision of the network, for training and evaluation alike."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(self.on(device).amp))

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over `parameters`; set its learning rate with `set_lr` before each step."""
        parameters = list(parameters)
        # One kernel for all parameters; on the CPU torch's own choice, whose bits earlier runs have.
        fused = True if parameters and all(parameter.is_cuda for parameter in parameters) else None
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.peak_lr, weight_decay=self.weight_decay, fused=fused)
        return torch.optim.SGD(
            parameters,
            lr=self.peak_lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov and self.momentum > 0,
            fused=fused,
        )

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of step 0, 1, ... counted over the whole run."""
        warmup_steps = round(self.warmup * steps_per_epoch)
        if step < warmup_steps:
            return self.peak_lr * (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, self.epochs * steps_per_epoch - warmup_steps)
        return self.peak_lr * self._shape(progress)

    def _shape(self, progress: float) -> float:
        """The share of the peak rate at `progress` in [0, 1) of the steps after the warmup."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "step":
            return self.step_factor ** math.floor(progress / self.step_fraction)
        if self.schedule == "cosine":
            return _cosine(1.0, 0.0, progress)
        if self.schedule == "half-cosine":
            return _cosine(1.0, 0.0, progress / 2)
        if progress < 0.3:
            return _cosine(1 / 25, 1.0, progress / 0.3)
        return _cosine(1.0, 1e-4, (progress - 0.3) / 0.7)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from a saved state, which may be of another kind of device: how steps are computed stays this one's."""
    groups = [
        {**saved, "fused": ours["fused"]}
        for saved, ours in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
