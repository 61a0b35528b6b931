"""The ConvNet of the dataset-distillation literature (Gidaris & Komodakis 2018; Zhao et al. 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from fastlabel.errors import InputError


class ConvNet(nn.Module):
    """`depth` blocks of 3x3 convolution, instance norm, ReLU and 2x2 average pooling, then a linear layer.

    Takes float images [B, 3, size, size], gives logits [B, num_classes]. Raises InputError when the images
    are too small.
    """

    def __init__(self, depth: int, width: int, num_classes: int, size: int) -> None:
        super().__init__()
        side = size >> depth
        if depth < 1 or width < 1:
            raise InputError(f"a ConvNet needs a depth and a width of 1 or more, not {depth} and {width}")
        if side < 1:
            raise InputError(
                f"a ConvNet of depth {depth} halves its images {depth} times: "
                f"they must be {2**depth} pixels or larger, not {size}"
            )
        blocks: list[nn.Module] = []
        for index in range(depth):
            blocks += _block(3 if index == 0 else width, width)
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * side * side, num_classes)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Logits [B, C] of normalised images."""
        logits: Tensor = self.classifier(self.features(images_B3HW).flatten(1))
        return logits


def _block(inputs: int, width: int) -> list[nn.Module]:
    # One group per channel is instance norm.
    return [
        nn.Conv2d(inputs, width, kernel_size=3, padding=1),
        nn.GroupNorm(width, width),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
    ]
