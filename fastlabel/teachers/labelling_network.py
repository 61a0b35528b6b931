"""A teacher as one network: crops of any size in, the logits of its labels out, at its own precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlabel.errors import TeacherError
from fastlabel.teachers.forward_network import forward_network, is_compile_error
from fastlabel.teachers.precision import teacher_precision
from fastlabel.teachers.teacher import Teacher

PROBABILITY_SUM_ERROR = 0.01  # a softmax in bfloat16 is as far from a sum of 1


class LabellingNetwork(nn.Module):
    """Crops of 0 to 255 [B, 3, S, S] to logits float32 [B, C] over the classes of the teacher's labels.

    Crops of another size than the teacher's are resized on the device: antialiased bilinear, not rounded. A teacher
    of one batch size takes others in batches of that size, the last one filled up with black.
    """

    columns: Tensor | None

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self._model, self._teacher = forward_network(teacher), teacher
        chosen = None if teacher.keeps_classes or teacher.class_map is None else torch.tensor(teacher.class_map)
        self.register_buffer("columns", chosen, persistent=False)
        self._looked = False
        self.eval()

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Logits of B crops. TeacherError for what are no logits: of another shape, no floats, or probabilities."""
        spec, teacher = self._teacher.model.spec, self._teacher
        with teacher_precision(images_B3SS.device.type, teacher.precision, teacher.tf32):
            images = resized(images_B3SS, spec.size)
            try:
                logits = self._model(images) if teacher.fixed_batch is None else self._in_batches(images)
            except RuntimeError as error:
                if teacher.forward == "eager" or not is_compile_error(error):
                    raise
                reason = (str(error).splitlines() or ["no reason given"])[0]
                raise TeacherError(
                    f"teacher {teacher.name} cannot be compiled as one graph: {reason}; give --forward eager"
                ) from error
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (len(images), spec.num_classes):
            found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"type {type(logits).__name__}"
            raise TeacherError(
                f"teacher {teacher.name} gives logits of {found}, expected ({len(images)}, {spec.num_classes})"
            )
        if not logits.is_floating_point():
            raise TeacherError(f"teacher {teacher.name} gives logits of type {logits.dtype}, expected floats")
        logits = logits.float()
        if not self._looked:
            # One look is enough for a network that always ends in the same layer, and a GPU waits for it.
            self._looked = True
            if are_probabilities(logits):
                raise TeacherError(
                    f"teacher {teacher.name} gives probabilities, from 0 to 1 and of sum 1, not logits: leave out its "
                    "last softmax, or let it give their logarithms"
                )
        return logits if self.columns is None else logits[:, self.columns]

    def _in_batches(self, images: Tensor) -> Tensor:
        size = self._teacher.fixed_batch
        assert size is not None
        parts = []
        for part in images.split(size):
            filled = F.pad(part, (0, 0, 0, 0, 0, 0, 0, size - len(part)))
            parts.append(self._model(filled)[: len(part)])
        return torch.cat(parts)


def are_probabilities(logits_BC: Tensor) -> bool:
    """Whether each row is a distribution by itself, as a network that ends in a softmax gives it."""
    near = (logits_BC.sum(dim=1) - 1).abs() < PROBABILITY_SUM_ERROR
    return bool(((logits_BC >= 0).all(dim=1) & near).all())


def resized(images_B3SS: Tensor, size: int) -> Tensor:
    """Images of `size` pixels: the same ones where they have that size, else float32, antialiased bilinear."""
    if images_B3SS.shape[-1] == size and images_B3SS.shape[-2] == size:
        return images_B3SS
    return F.interpolate(images_B3SS.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
