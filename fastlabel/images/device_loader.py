"""Images for a CUDA device: the CPU decodes them whole, and the device cuts every view from them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.images.changed_crops import change_pixels
from fastlabel.images.decode import BAD_BOX
from fastlabel.images.decode_whole import decode_whole
from fastlabel.images.loader import Epoch, ImageBatch, ImageLoader
from fastlabel.images.resident import ResidentImages, make_room, room_bytes
from fastlabel.images.staging import Staging
from fastlabel.kernels.mix_crops import mix_crops_
from fastlabel.kernels.resized_crops import bad_boxes, resized_crops
from fastlabel.system.arguments import at_least
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
    resident_bytes: int | None = None,
    resident_ids: ArrayLike | None = None,
    size: int | None = None,
) -> ImageLoader:
    """An image loader whose batches a device takes best: the same bytes, on it or on the CPU.

    `resident_bytes` and `resident_ids` are of `DeviceImageLoader`; on the CPU no image stays.
    """
    device = torch.device(device)
    if crops_on_device(device):
        return DeviceImageLoader(beton, policy, batch_size, num_workers, device, resident_bytes, resident_ids, size)
    return ImageLoader(beton, policy, batch_size, num_workers, size)


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

    Images that all fit into a share of the device's memory stay there: later epochs over them, or over some of them,
    decode nothing. Where they do not all fit, none stays.

    Args:
        resident_bytes: memory that images may take there for good; None for an eighth of what is free on CUDA when an
            epoch begins, 0 for none.
        resident_ids: int64, the samples that epochs draw from, which may stay: an epoch may show only some of them,
            and others each time. None for those of an epoch, until one comes with others.

    On the CPU too, for tests: the same path without pinned memory and streams.
    """

    def __init__(
        self,
        beton: Beton | str | os.PathLike[str],
        policy: ViewPolicy,
        batch_size: int,
        num_workers: int = 0,
        device: torch.device | str = "cuda",
        resident_bytes: int | None = None,
        resident_ids: ArrayLike | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__(beton, policy, batch_size, num_workers, size)
        self._resident_bytes = None if resident_bytes is None else at_least("resident_bytes", resident_bytes, 0)
        self._resident_ids = None if resident_ids is None else np.unique(self._check(resident_ids))
        self._resident: ResidentImages | None = None
        self.device = own_device(device)
        self._nbytes = 3 * self.beton.heights.astype(np.int64) * self.beton.widths
        largest = int(self._nbytes.max())
        self._staging = Staging(self.device, max(largest, min(PART_BYTES, batch_size * largest)))

    def epoch(self, ids: ArrayLike, views: Sequence[int]) -> Epoch:
        """As of ImageLoader; images that fit stay on the device from now on."""
        checked = self._check(ids)
        wanted = np.unique(checked) if self._resident_ids is None else self._resident_ids
        if self._resident is None or not self._resident.has_room_for(wanted):
            with self.busy, self._staging.stream():
                self._make_room(wanted)
        return super().epoch(checked, views)

    def _make_room(self, wanted: NDArray[np.int64]) -> None:
        most = self._resident_bytes
        if most is None:
            most = room_bytes(self.device, 0 if self._resident is None else self._resident.pixels.nbytes)
        self._resident = None  # its memory is free before more is asked for
        self._resident = make_room(self.device, wanted, self._nbytes, most)

    def _decode(self, ids: NDArray[np.int64], views: Sequence[int]) -> DeviceBatch:
        asked, (ids, mixes) = ids, self._mix(ids, views)
        boxes, resident = self._boxes(ids, views), self._resident
        self._check_boxes(ids, boxes)
        with self._staging.stream():
            if resident is not None and resident.has_room_for(ids):
                missing = resident.missing(ids)
                for rows in _parts(self._nbytes[missing], PART_BYTES):
                    if len(missing[rows]):
                        resident.fill(missing[rows], *self._whole_images(missing[rows]))
                self.beton.check_unchanged()
                crops = [self._crops(resident.pixels, resident.places[ids], ids, boxes)]
            else:
                parts = _parts(self._nbytes[ids], PART_BYTES)
                crops = [self._crops(*self._whole_images(ids[rows]), ids[rows], boxes[rows]) for rows in parts]
            images = crops[0] if len(crops) == 1 else torch.cat(crops)
            change_pixels(self.policy, ids, views, images)
            if mixes is not None:
                mix_crops_(images, mixes, pairs=not self.policy.mixed)
        return DeviceBatch(asked, images[: len(asked)], self._staging.event())

    def _whole_images(self, ids: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Pixels of some samples on the device, where each begins there; good until two more calls."""
        beton, nbytes = self.beton, self._nbytes[ids]
        offsets, status = np.cumsum(nbytes) - nbytes, np.zeros(len(ids), np.int64)
        where = (beton.file.descriptor, beton.index, beton.nbytes)
        decode_whole(ids, *where, offsets, self._staging.take().numpy(), status, self._workspace.payloads_TP)
        self._check_status(ids, status)
        return self._staging.send(int(nbytes.sum())), offsets

    def _check_boxes(self, ids: NDArray[np.int64], boxes: NDArray[np.int32]) -> None:
        bad = bad_boxes(self.beton.heights[ids], self.beton.widths[ids], boxes, self.size).any(axis=1)
        self._check_status(ids, np.where(bad, BAD_BOX, 0))

    def _crops(
        self, pixels: Tensor, offsets: NDArray[np.int64], ids: NDArray[np.int64], boxes: NDArray[np.int32]
    ) -> Tensor:
        heights, widths = self.beton.heights[ids], self.beton.widths[ids]
        places, rows, columns, crops = (torch.from_numpy(values) for values in (offsets, heights, widths, boxes))
        return resized_crops(pixels, places, rows, columns, crops, self.size)


def _parts(nbytes: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Consecutive images that take ``most`` bytes together, or a single one that takes more."""
    start = total = 0
    for place, size in enumerate(nbytes.tolist()):
        if place > start and total + size > most:
            yield slice(start, place)
            start, total = place, 0
        total += size
    yield slice(start, len(nbytes))
