"""ZCA whitening (Bell & Sejnowski 1997; Krizhevsky 2009) as the first layer of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastlabel.errors import InputError

EPSILON = 0.1  # of dataset-distillation code, for colours from 0 to 1


class Whitening(nn.Module):
    """Images [B, 3, S, S] made decorrelated: (x - mean) W, with W = U (L + epsilon)^(-1/2) U^T.

    U L U^T is the covariance of the images that it was fitted on. A new one changes nothing until `fit`, or until its
    weights are loaded.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        values = 3 * size * size
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("matrix", torch.eye(values))

    @torch.no_grad()
    def fit(self, images_N3SS: Tensor, epsilon: float = EPSILON) -> None:
        """Take mean and covariance of these images, in float64. InputError for fewer than two, or another size."""
        values = images_N3SS.flatten(1)
        if len(values) < 2 or values.shape[1] != len(self.mean):
            raise InputError(
                f"whitening of {len(self.mean)} values needs two or more images of them, not {tuple(images_N3SS.shape)}"
            )
        mean = values.mean(dim=0, dtype=torch.float64)
        covariance = torch.zeros(2 * (len(mean),), dtype=torch.float64, device=values.device)
        for part in values.split(4096):
            centred = part.double() - mean
            covariance.addmm_(centred.T, centred, alpha=1 / (len(values) - 1))
        scale, directions = torch.linalg.eigh(covariance)
        matrix = (directions * (scale.clamp(min=0) + epsilon).rsqrt()) @ directions.T
        self.mean.copy_(mean)
        self.matrix.copy_(matrix)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """The whitened images, of the same shape."""
        whitened = (images_B3SS.flatten(1) - self.mean) @ self.matrix
        return whitened.view(images_B3SS.shape)
