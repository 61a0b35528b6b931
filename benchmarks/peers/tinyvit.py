"""TinyViT's labels: one binary file for every epoch, of records of one size.

Source: Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022, arXiv 2207.10666,
section 3.1: the top K probabilities of the teacher, their classes, and the seed that encodes the augmentation; the rest
of the mass is spread evenly over the other classes. K=10 for ImageNet-1k, 100 for ImageNet-21k. A record is the seed in
int32, K classes in int16 and K probabilities in fp16; a reader seeks to the record of each sample.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

K = 10


def encode(logits_BC: Tensor, seeds_B: NDArray[np.int32], k: int = K) -> bytes:
    """The records of B crops."""
    probs_BK, classes_BK = torch.softmax(logits_BC, 1).topk(k)
    records = np.empty(len(logits_BC), record_type(k))
    records["seed"], records["classes"], records["probs"] = seeds_B, classes_BK.numpy(), probs_BK.numpy()
    return records.tobytes()


def record_type(k: int) -> np.dtype[np.void]:
    """4 + 4 K bytes."""
    return np.dtype([("seed", "<i4"), ("classes", "<i2", (k,)), ("probs", "<f2", (k,))])


def dense(classes_BK: Tensor, probs_BK: Tensor, num_classes: int) -> Tensor:
    """Probabilities float32 [B, C]."""
    probs_BK = probs_BK.to(torch.float32)
    rest_B1 = (1 - probs_BK.sum(1, keepdim=True)) / max(1, num_classes - probs_BK.shape[1])
    return rest_B1.repeat(1, num_classes).scatter_(1, classes_BK.to(torch.int64), probs_BK)


class TinyVitLabels(Dataset[tuple[int, Tensor, Tensor]]):
    """The label of each sample in the file of one epoch: seed, classes int16 [K], probabilities fp16 [K]."""

    def __init__(self, path: Path, k: int = K) -> None:
        self.path, self.type = path, record_type(k)
        self._handle: int | None = None  # opened in the process that reads

    def __len__(self) -> int:
        return self.path.stat().st_size // self.type.itemsize

    def __getitem__(self, sample: int) -> tuple[int, Tensor, Tensor]:
        if self._handle is None:
            self._handle = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._handle)
        data = os.pread(self._handle, self.type.itemsize, sample * self.type.itemsize)
        record = np.frombuffer(data, self.type)[0]
        return int(record["seed"]), torch.from_numpy(record["classes"].copy()), torch.from_numpy(record["probs"].copy())
