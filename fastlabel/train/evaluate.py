"""Accuracy and loss of a classifier on a fixed set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlabel.errors import InputError
from fastlabel.system.ranks import Ranks
from fastlabel.train.objectives import Batch

CACHE_LIMIT_BYTES = 256 * 2**20


class Evaluator:
    """Evaluates on the same images again and again; images of up to 256 MiB in all are decoded only once.

    `batches` gives the whole set each time that it is iterated, or this rank's share where `ranks` are several.
    `amp` evaluates in bfloat16, as a network that was trained so is used.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        device: str | torch.device = "cpu",
        ranks: Ranks | None = None,
        amp: bool = False,
    ) -> None:
        self._batches = batches
        self._device = torch.device(device)
        self._ranks = ranks or Ranks()
        self._amp = amp
        self._cache: list[tuple[Tensor, Tensor]] | None = None

    def __call__(self, model: nn.Module, between: Callable[[], None] = lambda: None) -> dict[str, float]:
        """`val_loss` in nats, `val_accuracy` (top-1) and `val_top5` as shares of 1.

        `between` is called after each batch, and may raise to end it.
        """
        training = model.training
        model.eval()
        try:
            return self._evaluate(model, between)
        finally:
            model.train(training)

    def _evaluate(self, model: nn.Module, between: Callable[[], None]) -> dict[str, float]:
        # On the device: nothing is read, and waited for, before the last batch.
        sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        for images, targets in self._images():
            if len(targets):
                sums += self._sums(model, images.to(self._device), targets.to(self._device))
            between()
        loss, top1, top5, count = self._ranks.sum(sums.tolist())
        if count == 0:
            raise InputError("there are no images to evaluate on")
        return {"val_loss": loss / count, "val_accuracy": top1 / count, "val_top5": top5 / count}

    @torch.inference_mode()
    def _sums(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Of one batch: losses, hits, hits among the five best, and images; float64 [4]."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._amp):
            logits_BC = model(images)
        logits_BC = logits_BC.float()
        top = logits_BC.topk(min(5, logits_BC.shape[1]), dim=1).indices == targets[:, None]
        losses = F.cross_entropy(logits_BC, targets, reduction="none")
        count = torch.full((), len(targets), dtype=torch.float64, device=self._device)
        return torch.stack([losses.double().sum(), top[:, 0].sum().double(), top.sum().double(), count])

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
