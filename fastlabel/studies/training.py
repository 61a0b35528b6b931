"""Training and evaluating on images in memory: no loader, no files; random numbers by (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fastlabel.errors import FastlabelError
from fastlabel.labels.loss import SoftLabels, soft_cross_entropy
from fastlabel.studies.augment import SiameseAugmentation
from fastlabel.studies.in_memory import ResidentImages
from fastlabel.train.recipes import Recipe, set_lr

EVALUATION_BATCH = 500
EPOCHS_BETWEEN_CHECKS = 100

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, C], rows int64 [B] of the training set) -> mean loss in nats."""


def soft_loss(labels: SoftLabels) -> Loss:
    """Cross-entropy with the label of each row."""
    return lambda logits, rows: soft_cross_entropy(logits, labels[rows])


def hard_loss(targets: Tensor) -> Loss:
    """Cross-entropy with the class of each row."""
    return lambda logits, rows: F.cross_entropy(logits, targets[rows])


def epoch_random(seed: int, epoch: int) -> Generator:
    """The random numbers of one epoch, the same on every machine."""
    key = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(key) >> 1)


@dataclass
class Fit:
    """Trains a network on images in memory.

    Attributes:
        network: takes float32 [B, 3, S, S] as they are in memory, on their device.
        images: [N, 3, S, S].
        loss: of logits and the rows of a batch.
        seed: of the order and the augmentation of every epoch.
        advance: told the images of each step.
    """

    network: nn.Module
    images: Tensor
    loss: Loss
    recipe: Recipe
    augment: SiameseAugmentation
    seed: int
    advance: Callable[[int], object] = lambda images: None

    def __post_init__(self) -> None:
        self.optimizer = self.recipe.make_optimizer(self.network.parameters())
        # Batch norm cannot train on a single image: a last batch of one is left out.
        whole, rest = divmod(len(self.images), self.recipe.batch_size)
        self.steps_per_epoch = whole + (rest > 1 or not whole)

    def run(self) -> None:
        """All epochs of the recipe. FastlabelError when the weights stop being finite."""
        for epoch in range(self.recipe.epochs):
            loss = self.epoch(epoch)
            if epoch % EPOCHS_BETWEEN_CHECKS == EPOCHS_BETWEEN_CHECKS - 1 or epoch == self.recipe.epochs - 1:
                check_finite(loss, epoch)

    def epoch(self, epoch: int) -> Tensor:
        """Epoch 0, 1, ...; its mean loss over steps, not read: a GPU need not wait."""
        random = epoch_random(self.seed, epoch)
        order = torch.randperm(len(self.images), generator=random).to(self.images.device)
        self.network.train()
        total = torch.zeros((), device=self.images.device)
        for number, rows in enumerate(order.split(self.recipe.batch_size)[: self.steps_per_epoch]):
            set_lr(
                self.optimizer,
                self.recipe.lr_at(epoch * self.steps_per_epoch + number, self.steps_per_epoch),
            )
            total += self._step(rows, random)
            self.advance(len(rows))
        return total / self.steps_per_epoch

    def _step(self, rows: Tensor, random: Generator) -> Tensor:
        images = self.augment(self.images[rows], random)
        with self.recipe.autocast(images.device):
            logits = self.network(images)
        loss = self.loss(logits.float(), rows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def check_finite(loss: Tensor, epoch: int) -> None:
    """FastlabelError for a loss that is NaN or infinite."""
    if not bool(torch.isfinite(loss)):
        raise FastlabelError(f"the loss became {float(loss)} by epoch {epoch + 1}: try a lower learning rate")


@dataclass(frozen=True)
class Accuracy:
    """On a test set.

    Attributes:
        top1: share of 1.
        loss: cross-entropy with the hard labels, nats.
        by_class: top-1 of the images of each class, shares of 1 (NaN for a class without one).
    """

    top1: float
    loss: float
    by_class: tuple[float, ...]


@torch.inference_mode()
def evaluate(network: nn.Module, test: ResidentImages, num_classes: int, amp: bool = False) -> Accuracy:
    """The network's accuracy on images in memory, without augmentation."""
    training = network.training
    network.eval()
    device, hits, losses = test.images.device, [], []
    for images, targets in zip(test.images.split(EVALUATION_BATCH), test.targets.split(EVALUATION_BATCH), strict=True):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
            logits = network(images)
        hits.append(logits.argmax(1) == targets)
        losses.append(F.cross_entropy(logits.float(), targets, reduction="none"))
    network.train(training)
    hit = torch.cat(hits).double().cpu()
    counts = torch.bincount(test.targets.cpu(), minlength=num_classes)
    by_class = torch.bincount(test.targets.cpu(), weights=hit, minlength=num_classes) / counts
    return Accuracy(float(hit.mean()), float(torch.cat(losses).double().mean()), tuple(by_class.tolist()))
