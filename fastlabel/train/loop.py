"""The training loop that teachers and students share: one model, a loss per sample, checkpoints by epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fastlabel.errors import FastlabelError, InputError
from fastlabel.models import Classifier
from fastlabel.train.checkpoint import epoch_path, save_checkpoint
from fastlabel.train.objectives import Batch, PerSampleLoss
from fastlabel.train.recipes import Recipe, set_lr
from fastlabel.train.run import Run

SECONDS_BETWEEN_SAVES = 60.0
STEPS_BETWEEN_CHECKS = 50
_TIMINGS = ("seconds", "images_per_second")


class EpochLoader(Protocol):
    """A loader whose batches are a function of its seed and the epoch set."""

    def set_epoch(self, epoch: int) -> None: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


class Reporter(Protocol):
    """Who wants to know how a run goes on."""

    def start(self, epoch: int, epochs: int, steps_per_epoch: int) -> None:
        """Training goes on after `epoch` epochs (0 for a new run)."""

    def step(self, images: int) -> None:
        """One more batch of `images` images is done."""

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch is done."""


@dataclass
class Trainer:
    """Trains `model` on `loader` inside `run`, continuing after the last epoch saved there.

    `keep_every` n keeps the checkpoints of every n-th epoch and of the initialisation (0: of the last epoch
    alone); `eval_every` n evaluates every n-th epoch and the last one.
    """

    model: Classifier
    loader: EpochLoader
    loss: PerSampleLoss
    evaluate: Callable[[Classifier], dict[str, float]]
    recipe: Recipe
    run: Run
    device: torch.device
    keep_every: int = 1
    eval_every: int = 1
    reporter: Reporter | None = None
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        if self.keep_every < 0 or self.eval_every < 1:
            raise InputError(
                f"keep-every must be at least 0 and eval-every at least 1, not {self.keep_every} and {self.eval_every}"
            )
        if self.recipe.amp and self.device.type != "cuda":
            raise InputError(f"amp trains in bfloat16 on CUDA devices: leave it off on {self.device}")
        self.model.to(self.device)
        self.optimizer = self.recipe.make_optimizer(self.model.parameters())
        self._saved_at = time.monotonic()

    def fit(self, resume: bool = False) -> list[dict[str, Any]]:
        """Train to the last epoch; the metrics of every epoch.

        Raises InputError when the folder of the run holds anything else than, with `resume`, this run;
        FastlabelError when the loss stops being finite.
        """
        self.run.begin(resume)
        start = self._restore()
        if self.reporter is not None:
            self.reporter.start(start, self.recipe.epochs, len(self.loader))
        for epoch in range(start + 1, self.recipe.epochs + 1):
            metrics = self._train_epoch(epoch)
            if self._due(epoch, self.eval_every):
                metrics |= self.evaluate(self.model)
            self.run.append(metrics)
            self._save(epoch, metrics)
            if self.reporter is not None:
                self.reporter.epoch(metrics)
        return self.run.metrics()

    def _due(self, epoch: int, every: int) -> bool:
        return epoch == self.recipe.epochs or (every > 0 and epoch % every == 0)

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        began = time.perf_counter()
        self.model.train()
        self.loader.set_epoch(epoch - 1)
        tally = Tally(epoch)
        for step, batch in enumerate(self.loader):
            lr = self.recipe.lr_at((epoch - 1) * len(self.loader) + step, len(self.loader))
            losses_B, logits_BC = self._step(batch, lr)
            tally.add(losses_B, logits_BC, batch.targets)
            if self.reporter is not None:
                self.reporter.step(len(batch.targets))
        metrics = tally.metrics()
        seconds = time.perf_counter() - began
        timings = dict(zip(_TIMINGS, (round(seconds, 4), round(tally.images / seconds, 1)), strict=True))
        return {"epoch": epoch, **metrics, "lr": lr, **timings}

    def _step(self, batch: Batch, lr: float) -> tuple[Tensor, Tensor]:
        set_lr(self.optimizer, lr)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.recipe.amp):
            logits_BC = self.model(batch.images)
        logits_BC = logits_BC.float()
        losses_B = self.loss(logits_BC, batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses_B.mean().backward()
        self.optimizer.step()
        return losses_B.detach(), logits_BC.detach()

    def _save(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        # Timings differ from run to run; without them the same training gives the same bytes.
        metrics = {name: value for name, value in metrics.items() if name not in _TIMINGS}
        kept = self._due(epoch, self.keep_every)
        if kept:
            save_checkpoint(epoch_path(self.run.path, epoch), self.model, epoch=epoch, metrics=metrics)
        if kept or self._due(epoch, self.eval_every) or time.monotonic() - self._saved_at > SECONDS_BETWEEN_SAVES:
            extra = {"optimizer": self.optimizer.state_dict(), "rng": _rng_state(self.device)}
            extra["config"] = dict(self.run.identity)
            save_checkpoint(self.run.path / "last.pt", self.model, epoch=epoch, metrics=metrics, extra=extra)
            self._saved_at = time.monotonic()

    def _restore(self) -> int:
        """Take up the last state saved; the number of epochs it has behind it."""
        last = self.run.last()
        if last is None:
            self.run.rewind(0)
            if self.keep_every:
                save_checkpoint(epoch_path(self.run.path, 0), self.model, epoch=0, metrics={})
            return 0
        self.model.load_state_dict(last["state"])
        self.optimizer.load_state_dict(last["optimizer"])
        _set_rng_state(last["rng"], self.device)
        self.run.rewind(last["epoch"])
        return int(last["epoch"])


class Tally:
    """Sums of losses and hits over an epoch, kept on the device so that a GPU need not wait at each step."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.images = 0
        self._steps = 0
        self._loss_sum = 0.0
        self._hits = 0
        self._open: list[tuple[Tensor, Tensor]] = []

    def add(self, losses_B: Tensor, logits_BC: Tensor, targets_B: Tensor) -> None:
        """Count one batch. Raises FastlabelError, within 50 steps, when a loss is not finite."""
        self.images += len(losses_B)
        self._open.append((losses_B.double().sum(), (logits_BC.argmax(dim=1) == targets_B).sum()))
        if len(self._open) == STEPS_BETWEEN_CHECKS:
            self._settle()

    def metrics(self) -> dict[str, float]:
        """`train_loss` in nats and `train_accuracy` as a share of 1, of each crop when it was trained on."""
        self._settle()
        if self.images == 0:
            raise InputError(f"epoch {self.epoch} had no images to train on")
        return {"train_loss": self._loss_sum / self.images, "train_accuracy": self._hits / self.images}

    def _settle(self) -> None:
        if not self._open:
            return
        losses = torch.stack([loss for loss, _ in self._open]).tolist()
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise FastlabelError(
                    f"the loss became {loss} in epoch {self.epoch}, step {self._steps + offset + 1}: "
                    "try a lower learning rate, or a warmup"
                )
        self._loss_sum += sum(losses)
        self._hits += int(torch.stack([hits for _, hits in self._open]).sum())
        self._steps += len(self._open)
        self._open.clear()


def _rng_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_rng_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
