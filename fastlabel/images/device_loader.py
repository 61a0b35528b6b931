"""Images for a CUDA device: the CPU decodes them whole, and the device cuts every view from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.images.decode import BAD_BOX
from fastlabel.images.decode_whole import decode_whole
from fastlabel.images.loader import ImageBatch, ImageLoader
from fastlabel.images.staging import Staging
from fastlabel.kernels.resized_crop import bad_boxes, resized_crops
from fastlabel.system.streams import receive
from fastlabel.views import ViewPolicy

PART_BYTES = 64 << 20  # of whole images that go up at once


def crops_on_device(device: torch.device) -> bool:
    """Whether this device cuts crops itself: CUDA does, whole images go there."""
    return device.type == "cuda"


def own_device(device: torch.device | str) -> torch.device:
    """This thread's device, by number: other threads have a current device of their own. InputError without CUDA."""
    place = torch.device(device)
    if place.type != "cuda":
        return place
    if not torch.cuda.is_available():
        raise InputError("there is no CUDA device here: give the device cpu")
    return place if ":" in str(place) else torch.device("cuda", torch.cuda.current_device())


def make_image_loader(
    beton: Beton | str | os.PathLike[str],
    policy: ViewPolicy,
    batch_size: int,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
) -> ImageLoader:
    """An image loader whose batches a device takes best: the same bytes, on it or on the CPU."""
    device = torch.device(device)
    if crops_on_device(device):
        return DeviceImageLoader(beton, policy, batch_size, num_workers, device)
    return ImageLoader(beton, policy, batch_size, num_workers)


@dataclass(frozen=True)
class DeviceBatch(ImageBatch):
    """Crops that a stream of its own may still be making. ``ready`` is the event after them, on CUDA."""

    ready: Any = None

    def received(self) -> DeviceBatch:
        """This batch, for the current stream of the calling thread: its work waits for the crops, this thread not."""
        receive(self.ready, [self.images])
        return self


class DeviceImageLoader(ImageLoader):
    """As ImageLoader, with batches on ``device``, which makes them of whole images.

    On the CPU too, for tests: the same path without pinned memory and streams.
    """

    def __init__(
        self,
        beton: Beton | str | os.PathLike[str],
        policy: ViewPolicy,
        batch_size: int,
        num_workers: int = 0,
        device: torch.device | str = "cuda",
    ) -> None:
        super().__init__(beton, policy, batch_size, num_workers)
        self.device = own_device(device)
        self._nbytes = 3 * self.beton.heights.astype(np.int64) * self.beton.widths
        largest = int(self._nbytes.max())
        self._staging = Staging(self.device, max(largest, min(PART_BYTES, batch_size * largest)))

    def _decode(self, ids: NDArray[np.int64], views: Sequence[int]) -> DeviceBatch:
        boxes = self._boxes(ids, views)
        with self._staging.stream():
            crops = [self._crops(ids[rows], boxes[rows]) for rows in _parts(self._nbytes[ids], PART_BYTES)]
            images = crops[0] if len(crops) == 1 else torch.cat(crops)
        return DeviceBatch(ids, images, self._staging.event())

    def _crops(self, ids: NDArray[np.int64], boxes: NDArray[np.int32]) -> Tensor:
        beton, nbytes = self.beton, self._nbytes[ids]
        offsets, status = np.cumsum(nbytes) - nbytes, np.zeros(len(ids), np.int64)
        where = (beton.file.descriptor, beton.index, beton.nbytes)
        decode_whole(ids, *where, offsets, self._staging.take().numpy(), status, self._workspace.payloads_TP)
        heights, widths = beton.heights[ids], beton.widths[ids]
        bad = bad_boxes(heights, widths, boxes, self.policy.size).any(axis=1)
        status[(status == 0) & bad] = BAD_BOX
        self._check_status(ids, status)
        places, rows, columns, crops = (torch.from_numpy(values) for values in (offsets, heights, widths, boxes))
        pixels = self._staging.send(int(nbytes.sum()))
        return resized_crops(pixels, places, rows, columns, crops, self.policy.size)


def _parts(nbytes: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Consecutive images that take ``most`` bytes together, or a single one that takes more."""
    start = total = 0
    for place, size in enumerate(nbytes.tolist()):
        if place > start and total + size > most:
            yield slice(start, place)
            start, total = place, 0
        total += size
    yield slice(start, len(nbytes))
