"""Accuracy and loss of a classifier on a fixed set of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlabel.errors import InputError
from fastlabel.train.objectives import Batch

CACHE_LIMIT_BYTES = 256 * 2**20


class Evaluator:
    """Evaluates on the same images again and again; images of up to 256 MiB in all are decoded only once.

    `batches` gives the whole set each time that it is iterated.
    """

    def __init__(self, batches: Iterable[Batch], device: str | torch.device = "cpu") -> None:
        self._batches = batches
        self._device = torch.device(device)
        self._cache: list[tuple[Tensor, Tensor]] | None = None

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`val_loss` in nats, `val_accuracy` (top-1) and `val_top5` as shares of 1."""
        training = model.training
        model.eval()
        try:
            return self._evaluate(model)
        finally:
            model.train(training)

    @torch.inference_mode()
    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        sums = torch.zeros(3, dtype=torch.float64)
        count = 0
        for images, targets in self._images():
            targets = targets.to(self._device)
            logits_BC = model(images.to(self._device)).float()
            top = logits_BC.topk(min(5, logits_BC.shape[1]), dim=1).indices == targets[:, None]
            losses = F.cross_entropy(logits_BC, targets, reduction="none")
            sums += torch.stack([losses.double().sum(), top[:, 0].sum().double(), top.sum().double()]).cpu()
            count += len(targets)
        if count == 0:
            raise InputError("there are no images to evaluate on")
        loss, top1, top5 = (sums / count).tolist()
        return {"val_loss": loss, "val_accuracy": top1, "val_top5": top5}

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
