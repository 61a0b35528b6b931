"""Accuracy and loss of a classifier on a fixed set of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlabel.errors import InputError
from fastlabel.system.ranks import Ranks
from fastlabel.train.objectives import TrainingBatch

CACHE_LIMIT_BYTES = 256 * 2**20


class Evaluator:
    """Evaluates on the same images again and again; images of up to 256 MiB in all are decoded only once.

    `batches` gives the whole set each time that it is iterated, or this rank's share where `ranks` are several.
    `amp` evaluates in bfloat16, as a network that was trained so is used. `classes` adds the accuracy of each of so
    many classes.
    """

    def __init__(
        self,
        batches: Iterable[TrainingBatch],
        device: str | torch.device = "cpu",
        ranks: Ranks | None = None,
        amp: bool = False,
        classes: int = 0,
    ) -> None:
        self._batches = batches
        self._device = torch.device(device)
        self._ranks = ranks or Ranks()
        self._amp, self._classes = amp, classes
        self._cache: list[tuple[Tensor, Tensor]] | None = None

    def __call__(self, model: nn.Module, between: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """`val_loss` in nats, `val_accuracy` (top-1) and `val_top5` as shares of 1.

        With `classes` also `val_by_class`, the top-1 of each; NaN for a class without an image.
        `between` is called after each batch, and may raise to end it.
        """
        training = model.training
        model.eval()
        try:
            return self._evaluate(model, between)
        finally:
            model.train(training)

    def _evaluate(self, model: nn.Module, between: Callable[[], None]) -> dict[str, Any]:
        # On the device: nothing is read, and waited for, before the last batch.
        sums = torch.zeros(4 + 2 * self._classes, dtype=torch.float64, device=self._device)
        for images, targets in self._images():
            if len(targets):
                sums += self._sums(model, images.to(self._device), targets.to(self._device))
            between()
        loss, top1, top5, count, *by_class = self._ranks.sum(sums.tolist())
        if count == 0:
            raise InputError("there are no images to evaluate on")
        metrics: dict[str, Any] = {"val_loss": loss / count, "val_accuracy": top1 / count, "val_top5": top5 / count}
        if self._classes:
            pairs = zip(by_class[: self._classes], by_class[self._classes :], strict=True)
            metrics["val_by_class"] = [hits / images if images else math.nan for hits, images in pairs]
        return metrics

    @torch.inference_mode()
    def _sums(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Of one batch: losses, hits, hits among the five best, and images; then hits and images of each class.

        float64 [4 + 2 * classes].
        """
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._amp):
            logits_BC = model(images)
        logits_BC = logits_BC.float()
        top = logits_BC.topk(min(5, logits_BC.shape[1]), dim=1).indices == targets[:, None]
        losses = F.cross_entropy(logits_BC, targets, reduction="none")
        count = torch.full((), len(targets), dtype=torch.float64, device=self._device)
        sums = torch.stack([losses.double().sum(), top[:, 0].sum().double(), top.sum().double(), count])
        if not self._classes:
            return sums
        hits = torch.bincount(targets, weights=top[:, 0].double(), minlength=self._classes)
        return torch.cat([sums, hits, torch.bincount(targets, minlength=self._classes).double()])

    def _images(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._cache is not None:
            yield from self._cache
            return
        kept: list[tuple[Tensor, Tensor]] = []
        kept_bytes = 0
        for batch in self._batches:
            yield batch.images, batch.targets
            kept_bytes += batch.images.nbytes
            if kept_bytes <= CACHE_LIMIT_BYTES:
                kept.append((batch.images, batch.targets))
            else:
                kept = []
        if kept_bytes <= CACHE_LIMIT_BYTES:
            self._cache = kept
