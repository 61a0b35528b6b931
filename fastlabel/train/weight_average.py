"""An exponential moving average of a network's weights, which is tested and kept in place of the weights trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """After each step: average = decay * average + (1 - decay) * weights, from the initial weights on.

    Running statistics of batch norm are averaged too; whole numbers are copied.

    Attributes:
        model, trunk: copies of the model and of the part of it that is tested, with the average.
    """

    def __init__(self, model: nn.Module, trunk: nn.Module, decay: float) -> None:
        self._trained, self._decay = model, decay
        # One copy of both, so that the trunk stays a part of the model.
        copied: tuple[nn.Module, nn.Module] = copy.deepcopy((model, trunk))
        self.model, self.trunk = copied
        self.model.requires_grad_(False)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        theirs = self._trained.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                weights.append(theirs[name])
            else:
                average.copy_(theirs[name])
        torch._foreach_lerp_(averages, weights, 1 - self._decay)
