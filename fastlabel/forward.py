"""A teacher's forward pass on canonical batches, so that the same crops give the same bytes again.

A forward pass is not batch-invariant: the same image in a batch of another size gives logits that differ in the last
bits, enough to move a code. So a batch is always consecutive samples of one view, of a size kept in the manifest, the
last one of a unit filled up with black images, whatever batches the images were decoded in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.errors import TeacherError
from fastlabel.images.load import ImageBatch
from fastlabel.labels import TopKLabels
from fastlabel.manifest import TeacherInfo
from fastlabel.models import Teacher
from fastlabel.precision import full_precision


class CanonicalBatches:
    """Regroups decoded batches [B, V, S, S, 3] of any size into stages [V, F, S, S, 3] of the canonical one."""

    def __init__(self, num_views: int, forward_batch: int, size: int) -> None:
        self._stage = torch.zeros((num_views, forward_batch, size, size, 3), dtype=torch.uint8)

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


class TeacherForward:
    """One teacher, ready to label canonical batches on a device."""

    def __init__(self, teacher: Teacher, info: TeacherInfo, device: torch.device) -> None:
        self._model, self._device = teacher.model.to(device).eval(), device
        self.info, self.batch, self._codec = info, info.forward_batch, info.codec

    @torch.inference_mode()
    def logits(self, images_BHWC: Tensor, count: int) -> Tensor:
        """Logits float32 [count, C] of the first ``count`` images of a canonical batch, uint8 [F, S, S, 3]."""
        with full_precision(self._device.type):
            logits: Tensor = self._model(images_BHWC.to(self._device).permute(0, 3, 1, 2))
        if logits.ndim != 2 or tuple(logits.shape) != (self.batch, self._codec.num_classes):
            raise TeacherError(
                f"teacher {self.info.name} gives logits of shape {tuple(logits.shape)}, expected "
                f"({self.batch}, {self._codec.num_classes})"
            )
        return logits[:count].float()

    def labels(self, images_BHWC: Tensor, ids: NDArray[np.int64], view: int) -> TopKLabels:
        """Labels of a canonical batch, the first ``len(ids)`` images of which are those samples.

        Raises:
            TeacherError: the logits have the wrong width, or are NaN or infinite; names the samples.
        """
        logits = self.logits(images_BHWC, len(ids))
        bad = ids[(~torch.isfinite(logits).all(dim=1)).cpu().numpy()]
        if len(bad):
            shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
            raise TeacherError(
                f"teacher {self.info.name} gives NaN or infinite logits for {len(bad)} crops of view {view}: "
                f"samples {shown}; nothing of this unit was stored"
            )
        return self._codec.encode(logits)
