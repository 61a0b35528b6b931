"""Decoded images that stay on a device: of a dataset that fits there, each image is decoded once, not once an epoch."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHARE = 0.125  # of the memory that is free, for images; the networks, which may not have theirs yet, need the rest


class ResidentImages:
    """Room on a device for the pixels of some samples, which fill it in the order in which they come.

    Args:
        pixels: uint8 [bytes of all of them], on the device.
        ids: the samples, of N in the file.

    Attributes:
        places: int64 [N], byte at which a sample's pixels begin there; -1 while they are not there.
    """

    def __init__(self, pixels: Tensor, ids: NDArray[np.int64], num_samples: int) -> None:
        self.pixels = pixels
        self.places = np.full(num_samples, -1, np.int64)
        self._used = 0
        self._wanted = np.zeros(num_samples, np.bool_)
        self._wanted[ids] = True

    def has_room_for(self, ids: NDArray[np.int64]) -> bool:
        """Whether there is room for all of these samples."""
        return bool(self._wanted[ids].all())

    def missing(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of these samples that are not there yet, each once."""
        return np.unique(ids[self.places[ids] < 0])

    def fill(self, ids: NDArray[np.int64], pixels: Tensor, offsets: NDArray[np.int64]) -> None:
        """Keep the pixels of some samples that were missing, which begin at these bytes of a tensor."""
        self.pixels[self._used : self._used + len(pixels)].copy_(pixels)
        self.places[ids] = self._used + offsets
        self._used += len(pixels)


def room_bytes(device: torch.device, held: int) -> int:
    """How much images may take where nobody said it: a share of what is free on a CUDA device, nothing elsewhere.

    `held` bytes of older images, which go before others come, count as free.
    """
    if device.type != "cuda":
        return 0
    return int(SHARE * (torch.cuda.mem_get_info(device)[0] + held))


def make_room(
    device: torch.device, ids: NDArray[np.int64], nbytes: NDArray[np.int64], most: int
) -> ResidentImages | None:
    """Room for the samples `ids`, or None where they need too much.

    Args:
        ids: int64, each once.
        nbytes: int64 [N], bytes of the pixels of every sample of the file.
        most: bytes that they may take.
    """
    wanted = int(nbytes[ids].sum())
    if not 0 < wanted <= most:
        return None
    with contextlib.suppress(torch.OutOfMemoryError):
        return ResidentImages(torch.empty(wanted, dtype=torch.uint8, device=device), ids, len(nbytes))
    return None
