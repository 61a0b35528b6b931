"""A teacher's forward pass on canonical batches, so that the same crops give the same bytes again.

A forward pass is not batch-invariant: the same image in a batch of another size gives logits that differ in the last
bits, enough to move a code. So a batch is always consecutive samples of one view, of a size kept in the manifest, the
last one of a unit filled up with black images, whatever batches the images were decoded in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.errors import TeacherError
from fastlabel.images.loader import ImageBatch
from fastlabel.labelling.memory import failed_allocations, is_out_of_memory
from fastlabel.labels.codec import storable
from fastlabel.labels.topk import TopKLabels
from fastlabel.store.manifest import TeacherInfo
from fastlabel.teachers.labelling_network import LabellingNetwork
from fastlabel.teachers.teacher import Teacher


class CanonicalBatches:
    """Regroups decoded batches [B, V, S, S, 3] of any size into stages [V, F, S, S, 3] of the canonical one.

    The stage is on the device of the batches, so that crops made on a GPU stay there.
    """

    def __init__(self, num_views: int, forward_batch: int, size: int, device: torch.device | str = "cpu") -> None:
        self._stage = torch.zeros((num_views, forward_batch, size, size, 3), dtype=torch.uint8, device=device)

    def regroup(self, batches: Iterable[ImageBatch]) -> Iterator[tuple[Tensor, NDArray[np.int64], int]]:
        """Yield (stage, ids of its samples, position of the first one); the stage is valid until the next."""
        size = self._stage.shape[1]
        held: list[NDArray[np.int64]] = []
        filled = position = 0
        for batch in batches:
            start = 0
            while start < len(batch.ids):
                count = min(size - filled, len(batch.ids) - start)
                images = batch.images[start : start + count].transpose(0, 1)
                self._stage[:, filled : filled + count] = images
                held.append(batch.ids[start : start + count])
                filled, start = filled + count, start + count
                if filled == size:
                    yield self._stage, np.concatenate(held), position
                    position, filled, held = position + size, 0, []
        if filled:
            self._stage[:, filled:] = 0
            yield self._stage, np.concatenate(held), position


@dataclass(frozen=True)
class StartedLabels:
    """Labels of some crops on their way to the host.

    Attributes:
        labels: on the CPU, once `ready` has come.
        storable: bool [count], whether the logits of a crop are a distribution; likewise.
        ready: the CUDA event after the copy; None where nothing is waited for.
    """

    labels: TopKLabels
    storable: Tensor
    ready: Any = None


class TeacherForward:
    """One teacher, ready to label canonical batches on a device."""

    def __init__(self, teacher: Teacher, info: TeacherInfo, device: torch.device) -> None:
        self._network, self._device = LabellingNetwork(teacher).to(device), device
        self.info, self.batch, self._codec = info, info.forward_batch, info.codec

    @torch.inference_mode()
    def logits(self, images_BHWC: Tensor, count: int) -> Tensor:
        """Logits float32 [count, C] of the first `count` images of a canonical batch, uint8 [F, S, S, 3].

        Raises:
            TeacherError: the logits have the wrong width, or the device has too little memory for the batch.
        """
        logits = self._forward(images_BHWC)
        if tuple(logits.shape) != (self.batch, self._codec.num_classes):
            raise TeacherError(
                f"teacher {self.info.name} gives logits of shape {tuple(logits.shape)}, expected "
                f"({self.batch}, {self._codec.num_classes})"
            )
        return logits[:count]

    def _forward(self, images_BHWC: Tensor) -> Tensor:
        for last in (False, True):
            before = failed_allocations(self._device)
            try:
                logits: Tensor = self._network(images_BHWC.to(self._device).permute(0, 3, 1, 2))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                hidden = failed_allocations(self._device) - before > 1 or not isinstance(error, torch.OutOfMemoryError)
                if last or hidden or self._device.type != "cuda":
                    raise TeacherError(self._too_large(images_BHWC.shape[1], error)) from error
            else:
                # A convolution whose workspace does not fit takes another algorithm, and keeps to it from then on:
                # other last bits, without an error.
                if failed_allocations(self._device) != before:
                    raise TeacherError(self._too_large(images_BHWC.shape[1]))
                return logits
            # The same batch once more without what the allocator had set aside: the labels stay what they are.
            # Half a batch would give other last bits.
            torch.cuda.empty_cache()
        raise AssertionError("unreachable")

    def _too_large(self, size: int, error: RuntimeError | None = None) -> str:
        remedy = (
            "no smaller batch is left: give --precision bf16, or a device with more memory"
            if self.batch == 1
            else f"give --forward-batch {self.batch // 2}; it is part of what a label is, so a store that was begun "
            f"with {self.batch} cannot go on with it: choose another path, or remove that store"
        )
        return (
            f"teacher {self.info.name} runs out of memory ({self._device.type}) in a forward pass of {self.batch} "
            f"images of {size} pixels{_reason(error)}: {remedy}"
        )

    def labels(self, images_BHWC: Tensor, ids: NDArray[np.int64], view: int) -> TopKLabels:
        """Labels, on the CPU, of a canonical batch, the first `len(ids)` images of which are those samples.

        Raises:
            TeacherError: the logits have the wrong width, or are NaN, +inf or all -inf; names the samples.
        """
        return self.finish(self.start(images_BHWC, len(ids)), ids, view)

    def checked_logits(self, images_BHWC: Tensor, ids: NDArray[np.int64], view: int) -> Tensor:
        """Logits float32 [len(ids), C] on the CPU. TeacherError where some are no distribution; names the samples."""
        logits = self.logits(images_BHWC, len(ids)).float().cpu()
        self._check_storable(storable(logits), ids, view)
        return logits

    def start(self, images_BHWC: Tensor, count: int) -> StartedLabels:
        """Begin to make the labels of the first `count` images of a canonical batch; a GPU is not waited for.

        Raises:
            TeacherError: the logits have the wrong width.
        """
        logits = self.logits(images_BHWC, count)
        # Not the codec's own encode, which would wait to look at the logits: `finish` does that.
        labels = self._codec.encode_unchecked(logits).on_host(_to_host)
        good = _to_host(storable(logits))
        ready = None
        if logits.device.type == "cuda":
            ready = torch.cuda.Event(blocking=True)  # a spinning thread would take a core from the decoders
            ready.record(torch.cuda.current_stream(logits.device))
        return StartedLabels(labels, good, ready)

    def finish(self, started: StartedLabels, ids: NDArray[np.int64], view: int) -> TopKLabels:
        """The labels that were begun, of those samples.

        Raises:
            TeacherError: logits are NaN, +inf or all -inf; names the samples.
        """
        if started.ready is not None:
            started.ready.synchronize()
        self._check_storable(started.storable, ids, view)
        return started.labels

    def _check_storable(self, good: Tensor, ids: NDArray[np.int64], view: int) -> None:
        bad = ids[~good.numpy()]
        if len(bad):
            shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
            hint = "; fp16 ends at 65,504: give --precision bf16" if self.info.precision == "fp16" else ""
            raise TeacherError(
                f"teacher {self.info.name} gives logits that are NaN, +inf or all -inf for {len(bad)} crops of view "
                f"{view}: samples {shown}; nothing of this unit was stored{hint}"
            )


def _reason(error: RuntimeError | None) -> str:
    """What the error says, where the words out of memory are not in it."""
    if error is None or isinstance(error, torch.OutOfMemoryError):
        return ""
    return f" ({(str(error).splitlines() or [''])[0][:120]})"


def _to_host(tensor: Tensor) -> Tensor:
    """A GPU's tensor on the CPU, where its values come when the stream gets there: pinned, or this would wait."""
    if tensor.device.type != "cuda":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
