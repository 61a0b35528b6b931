"""FKD's labels: one torch file per image, with all its crops.

Source: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022, arXiv 2112.01528:
several crops per image, of each the coordinates (relative to the image), whether it is flipped, and the soft label in
its recommended form, "marginal smoothing": the top K=5 probabilities and their classes, the rest of the mass spread
evenly over the other classes. A file holds (coordinates float32 [V, 4], flips bool [V], labels [V, 2, K] with the
classes in row 0 and the probabilities in row 1), fp16 as its smallest variant has it, which is exact for 1,000 classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

K = 5
MOST_CLASSES = 2049  # integers that fp16 holds exactly


def encode(logits_VC: Tensor, k: int = K) -> Tensor:
    """Labels fp16 [V, 2, K] of V crops."""
    assert logits_VC.shape[1] <= MOST_CLASSES
    probs_VK, classes_VK = torch.softmax(logits_VC, 1).topk(k)
    return torch.stack((classes_VK.to(torch.float16), probs_VK.to(torch.float16)), 1)


def dense(labels_B2K: Tensor, num_classes: int) -> Tensor:
    """Probabilities float32 [B, C]: "marginal smoothing"."""
    classes_BK, probs_BK = labels_B2K[:, 0].to(torch.int64), labels_B2K[:, 1].to(torch.float32)
    rest_B1 = (1 - probs_BK.sum(1, keepdim=True)) / max(1, num_classes - probs_BK.shape[1])
    return rest_B1.repeat(1, num_classes).scatter_(1, classes_BK, probs_BK)


def write_image(path: Path, boxes_V5: Tensor, height: int, width: int, labels_V2K: Tensor) -> None:
    """The file of one image; boxes are those of a view policy: top, left, height, width, flip."""
    coordinates = boxes_V5[:, :4] / torch.tensor([height, width, height, width])
    torch.save((coordinates, boxes_V5[:, 4].bool(), labels_V2K.clone()), path)


def image_path(folder: Path, sample: int) -> Path:
    """A folder for every thousand images, about as classes are folders of ImageNet."""
    return folder / f"{sample // 1000:04d}" / f"{sample:07d}.pt"


class FkdLabels(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The labels of some crops of each image: coordinates [M, 4], flips [M] and labels [M, 2, K] of a sample."""

    def __init__(self, folder: Path, samples: int, crops: Sequence[int]) -> None:
        self.folder, self.samples, self.crops = folder, samples, list(crops)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, sample: int) -> tuple[Tensor, Tensor, Tensor]:
        coordinates, flips, labels = torch.load(image_path(self.folder, sample))
        return coordinates[self.crops], flips[self.crops], labels[self.crops]
