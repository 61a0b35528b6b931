"""The training loop that teachers and students share: one model, a loss per sample, checkpoints by epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.models.classifier import Classifier
from fastlabel.system.ranks import Ranks
from fastlabel.system.signals import StopRequest, stop_requests
from fastlabel.train.checkpoint import epoch_path, portable_state, save_checkpoint
from fastlabel.train.epoch_metrics import Tally
from fastlabel.train.interruptions import Interruptions
from fastlabel.train.objectives import PerSampleLoss, ScheduledLoss, TrainingBatch, loss_of_epoch, own_metrics
from fastlabel.train.process_group import backward, share_buffers, wrap
from fastlabel.train.rank_state import restore_rank, snapshot
from fastlabel.train.recipes import Recipe, load_optimizer, set_lr
from fastlabel.train.run_folder import Run
from fastlabel.train.weight_average import WeightAverage

EPOCHS_BETWEEN_READS = 100  # of a training without a folder
_TIMINGS = ("seconds", "images_per_second")


class EpochLoader(Protocol):
    """A loader whose batches are a function of its seed and the epoch set, and which can go on from its state.

    `samples_in` gives the crops of a batch over all ranks, however many views of an image there are.
    """

    def set_epoch(self, epoch: int) -> None: ...
    def __iter__(self) -> Iterator[TrainingBatch]: ...
    def __len__(self) -> int: ...
    def samples_in(self, batch: int) -> int: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Evaluate(Protocol):
    """Metrics of a model; calls `between` now and then, which may raise."""

    def __call__(self, model: torch.nn.Module, between: Callable[[], None]) -> dict[str, Any]: ...


class Reporter(Protocol):
    """Who wants to know how a run goes on."""

    def start(self, step: int, epochs: int, steps_per_epoch: int) -> None:
        """Training goes on after `step` steps (0 for a new run)."""

    def step(self, images: int) -> None:
        """One more batch of `images` images is done."""

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch is done."""

    def note(self, text: str) -> None:
        """Something to know before the run."""


@dataclass
class Trainer:
    """Trains `model`, a Classifier, on `loader` inside `run`, continuing after the last step saved there.

    `keep_every` n keeps the checkpoints of every n-th epoch and of the initialisation (0: of the last epoch
    alone); `eval_every` n evaluates every n-th epoch and the last one. With several `ranks`, each runs one
    Trainer, and the gradient of a step is that of the whole batch.

    `trunk` is the part of the model that takes the images of the loader and of `evaluate`; by default all of it.
    With `ema` in the recipe, what is tested and kept is the average of the weights; the state to go on from has both.
    Without a `run` nothing is saved, signals are the caller's, the model may be any network, and losses are read
    (a GPU waits for that) every 100 epochs only, and where the model is evaluated.
    """

    model: torch.nn.Module
    loader: EpochLoader
    loss: PerSampleLoss | ScheduledLoss
    evaluate: Evaluate
    recipe: Recipe
    run: Run | None
    device: torch.device
    keep_every: int = 1
    eval_every: int = 1
    reporter: Reporter | None = None
    ranks: Ranks = field(default_factory=Ranks)
    trunk: torch.nn.Module | None = None
    history: list[dict[str, Any]] = field(init=False, default_factory=list)
    optimizer: torch.optim.Optimizer = field(init=False)
    network: torch.nn.Module = field(init=False)

    def __post_init__(self) -> None:
        if self.keep_every < 0 or self.eval_every < 1:
            raise InputError(
                f"keep-every must be at least 0 and eval-every at least 1, not {self.keep_every} and {self.eval_every}"
            )
        self.recipe = self.recipe.on(self.device)
        self.model.to(self.device)
        self.trunk = self.model if self.trunk is None else self.trunk
        self.optimizer = self.recipe.make_optimizer(self.trunk.parameters())
        self._average = WeightAverage(self.model, self.trunk, self.recipe.ema) if self.recipe.ema else None
        self._interruptions = Interruptions(self.ranks)

    def fit(self, resume: bool = False) -> list[dict[str, Any]]:
        """Train to the last epoch; the metrics of every epoch, without a run of those that were read.

        Raises InputError when the folder of the run holds anything else than, with `resume`, this run;
        FastlabelError when the loss stops being finite, or another rank fails; Interrupted, with everything up to
        the step in hand saved, after a SIGINT or SIGTERM.
        """
        run = self.run
        last = self.ranks.on_first(partial(run.begin, resume)) if run else None
        with _stop_requests(noted=run is not None) as self._interruptions.stop, fastest_convolutions(self.device):
            tally = self._restore(last)
            self.network = self._trained_network()
            if self.reporter is not None:
                done = (tally.epoch - 1) * len(self.loader) + tally.steps
                self.reporter.start(done, self.recipe.epochs, len(self.loader))
            for epoch in range(tally.epoch, self.recipe.epochs + 1):
                self._run_epoch(tally if epoch == tally.epoch else Tally(epoch))
        return self.ranks.on_first(run.metrics) if run else self.history

    def _trained_network(self) -> torch.nn.Module:
        assert self.trunk is not None
        network = wrap(self.trunk, self.ranks, self.device)
        if not self.recipe.compile:
            return network
        # The last batch of an epoch is a shape of its own, compiled once: not a reason to compile for any size.
        return cast(torch.nn.Module, torch.compile(network, dynamic=False))

    def _run_epoch(self, tally: Tally) -> None:
        self._train_epoch(tally)
        if not self._reads(tally.epoch):
            return
        # The rate of the last step, which an earlier process may have made.
        lr = self.recipe.lr_at(tally.epoch * len(self.loader) - 1, len(self.loader))
        own = own_metrics(self.loss, tally.epoch - 1)
        metrics = {"epoch": tally.epoch, **tally.metrics(self.ranks), "lr": lr, **own}
        if self._due(tally.epoch, self.eval_every):
            tested: Any = self._average or self
            share_buffers(tested.model, self.ranks)
            metrics |= self.evaluate(tested.trunk, partial(self._between, tally))
        if self.run is None:
            self.history.append(metrics)
        else:
            if self.ranks.first:
                self.run.append(metrics)
            self._save_epoch(self.run, tally.epoch, metrics)
        if self.reporter is not None:
            self.reporter.epoch(metrics)

    def _reads(self, epoch: int) -> bool:
        return self.run is not None or self._due(epoch, EPOCHS_BETWEEN_READS) or self._due(epoch, self.eval_every)

    def _due(self, epoch: int, every: int) -> bool:
        return epoch == self.recipe.epochs or (every > 0 and epoch % every == 0)

    def _train_epoch(self, tally: Tally) -> None:
        if tally.steps == len(self.loader):
            return  # interrupted while it was evaluated
        self.model.train()
        self.loader.set_epoch(tally.epoch - 1)
        loss = loss_of_epoch(self.loss, tally.epoch - 1)
        for batch in self.loader:
            losses_B, logits_BC = self._step(batch, tally, loss)
            tally.add(losses_B, logits_BC, batch.targets)
            if self.reporter is not None:
                self.reporter.step(self.loader.samples_in(tally.steps - 1))
            # All ranks have got here before one waits for its GPU, which waits for the gradients of all.
            waits = tally.full or (tally.steps == len(self.loader) and self._reads(tally.epoch))
            self._between(tally, at_once=waits)
            if waits:
                tally.settle()

    def _step(self, batch: TrainingBatch, tally: Tally, loss: PerSampleLoss) -> tuple[Tensor, Tensor]:
        set_lr(self.optimizer, self.recipe.lr_at((tally.epoch - 1) * len(self.loader) + tally.steps, len(self.loader)))
        # A rank without a sample of this batch takes part with one of no weight.
        empty = not len(batch.targets)
        images = batch.images.new_zeros((1, *batch.images.shape[1:])) if empty else batch.images
        with self.recipe.autocast(self.device):
            logits_BC = self.network(images)
        losses_B = logits_BC.float().sum(dim=1) * 0 if empty else loss(logits_BC, batch)
        self.optimizer.zero_grad(set_to_none=True)
        backward(self._mean(losses_B, tally.steps), self.ranks)
        self.optimizer.step()
        if self._average is not None:
            self._average.update()
        taken = len(batch.targets)
        return losses_B.detach()[:taken], logits_BC.detach()[:taken]

    def _mean(self, losses_B: Tensor, step: int) -> Tensor:
        """What makes the gradient, averaged over the ranks, that of the mean over the whole batch."""
        if self.ranks.alone:
            return losses_B.mean()
        return losses_B.sum() * (self.ranks.world_size / self.loader.samples_in(step))

    def _between(self, tally: Tally, at_once: bool = False) -> None:
        """Between two steps: save when it is time, stop when that was asked for, on all ranks alike."""
        if self.run is None:
            return
        signum, save = self._interruptions.asked(at_once)
        if signum or save:
            self._save(self.run, tally.epoch - 1, {}, tally)
        if signum:
            self._interruptions.stop.signum = signum
            self._interruptions.stop.check(
                f"saved after step {tally.steps} of epoch {tally.epoch} in {self.run.path}; "
                "go on with the same command and --resume"
            )

    def _save_epoch(self, run: Run, epoch: int, metrics: Mapping[str, Any]) -> None:
        # Timings differ from run to run; without them the same training gives the same bytes.
        metrics = {name: value for name, value in metrics.items() if name not in _TIMINGS}
        kept = self._due(epoch, self.keep_every)
        if kept and self.ranks.first:
            self._checkpoint(epoch_path(run.path, epoch), epoch, metrics)
        due = kept or self._due(epoch, self.eval_every)
        if due or self.ranks.largest(int(self._interruptions.save_is_due))[0]:
            self._save(run, epoch, metrics, None)

    def _save(self, run: Run, epoch: int, metrics: Mapping[str, Any], tally: Tally | None) -> None:
        """Write last.pt, `epoch` epochs done and `tally` of the one begun."""
        began = time.monotonic()
        ranks = self.ranks.gather(snapshot(self.device, tally))
        if self.ranks.first:
            extra = {"optimizer": self.optimizer.state_dict(), "loader": self.loader.state_dict(), "ranks": ranks}
            extra["config"] = dict(run.identity)
            if self._average is not None:
                extra["trained"] = portable_state(self.model)
            self._checkpoint(run.path / "last.pt", epoch, metrics, extra)
        self._interruptions.saved(time.monotonic() - began)

    def _checkpoint(
        self, path: Path, epoch: int, metrics: Mapping[str, Any], extra: Mapping[str, Any] | None = None
    ) -> None:
        tested = self._average.model if self._average is not None else self.model
        save_checkpoint(path, cast(Classifier, tested), epoch=epoch, metrics=metrics, extra=extra)

    def _restore(self, last: dict[str, Any] | None) -> Tally:
        """Take up the last state saved; the tally of the epoch to go on with."""
        if last is None:
            if self.run and self.keep_every and self.ranks.first:
                self._checkpoint(epoch_path(self.run.path, 0), 0, {})
            return Tally(1)
        self.model.load_state_dict(last["state"] if self._average is None else last["trained"])
        if self._average is not None:
            self._average.model.load_state_dict(last["state"])
        load_optimizer(self.optimizer, last["optimizer"])
        self.loader.load_state_dict(last["loader"])
        tally = Tally(last["epoch"] + 1)
        restore_rank(last["ranks"], self.ranks, self.device, tally)
        return tally


def _stop_requests(noted: bool) -> AbstractContextManager[StopRequest]:
    # Python handles signals in its main thread only: training in another one cannot be told.
    if not noted or threading.current_thread() is not threading.main_thread():
        return nullcontext(StopRequest())
    return stop_requests("finishing the step in hand; once more interrupts at once")


@contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN time its algorithms on each shape of batch while inside: those of training come again and again."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
