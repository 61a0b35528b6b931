"""Sums of losses and hits over an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastlabel.errors import FastlabelError, InputError
from fastlabel.system.ranks import Ranks

STEPS_BETWEEN_CHECKS = 50


class Tally:
    """Sums of losses and hits over an epoch, kept on the device so that a GPU need not wait at each step.

    Losses are added one step after another, however often the sums are read: the same steps give the same bits.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.images = 0
        self._steps = 0
        self._loss_sum = 0.0
        self._hits = 0
        self._seconds = 0.0
        self._began = time.perf_counter()
        self._open: list[tuple[Tensor, Tensor]] = []

    @property
    def steps(self) -> int:
        """Steps of the epoch that are done."""
        return self._steps + len(self._open)

    @property
    def seconds(self) -> float:
        """What the epoch took so far, without the time between an interruption and its resumption."""
        return self._seconds + time.perf_counter() - self._began

    @property
    def full(self) -> bool:
        """Whether it is time to `settle`."""
        return len(self._open) >= STEPS_BETWEEN_CHECKS

    def add(self, losses_B: Tensor, logits_BC: Tensor, targets_B: Tensor) -> None:
        """Count one batch."""
        self.images += len(losses_B)
        self._open.append((losses_B.double().sum(), (logits_BC.argmax(dim=1) == targets_B).sum()))

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """`train_loss` in nats and `train_accuracy` as a share of 1, of each crop when it was trained on.

        With `seconds` and `images_per_second` of the epoch. Over all ranks.
        """
        self.settle()
        seconds = self.seconds
        loss_sum, hits, images = ranks.sum([self._loss_sum, self._hits, self.images])
        if images == 0:
            raise InputError(f"epoch {self.epoch} had no images to train on")
        return {
            "train_loss": loss_sum / images,
            "train_accuracy": hits / images,
            "seconds": round(seconds, 4),
            "images_per_second": round(images / seconds, 1),
        }

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        self.settle()
        return {
            "images": self.images,
            "steps": self._steps,
            "loss_sum": self._loss_sum,
            "hits": self._hits,
            "seconds": self.seconds,
        }

    def load_state_dict(self, *states: Mapping[str, Any]) -> None:
        """Go on from these sums: of one rank, or of several that counted the same steps."""
        self.images = sum(state["images"] for state in states)
        self._steps = states[0]["steps"]
        self._loss_sum = sum(state["loss_sum"] for state in states)
        self._hits = sum(state["hits"] for state in states)
        self._seconds = states[0]["seconds"]

    def settle(self) -> None:
        """Read what was added since, waiting for the device. FastlabelError for a loss that is not finite."""
        if not self._open:
            return
        losses = torch.stack([loss for loss, _ in self._open]).tolist()
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise FastlabelError(
                    f"the loss became {loss} in epoch {self.epoch}, step {self._steps + offset + 1}: "
                    "try a lower learning rate, or a warmup"
                )
            self._loss_sum += loss
        self._hits += int(torch.stack([hits for _, hits in self._open]).sum())
        self._steps += len(self._open)
        self._open.clear()
