"""FKD's labelling run: a DataLoader cuts V crops from each image, the teacher sees them, each image gets a file.

Source: Shen and Xing, ECCV 2022, arXiv 2112.01528, section 3 ("soft label generation"); see fkd.py. The crops are those
of a view policy, so that both ways do the same work: torchvision's antialiased resize of a crop, flip, normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from fastlabel.benchmarks.peers import fkd
from fastlabel.models.classifier import IMAGENET_MEAN, IMAGENET_STD

Item = tuple[int, int, int, Tensor, Tensor]


class Crops(Dataset[Item]):
    """Sample, height, width, boxes int32 [V, 5] and crops float32 [V, 3, S, S] of JPEG files."""

    def __init__(self, paths: Sequence[Path], boxes_NV5: Tensor, size: int) -> None:
        self.paths, self.boxes_NV5, self.size = list(paths), boxes_NV5, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, sample: int) -> Item:
        with Image.open(self.paths[sample]) as file:
            image = file.convert("RGB")
        boxes_V5 = self.boxes_NV5[sample]
        crops = torch.stack([self._crop(image, *box) for box in boxes_V5.tolist()])
        return sample, image.height, image.width, boxes_V5, crops

    def _crop(self, image: Image.Image, top: int, left: int, height: int, width: int, flip: int) -> Tensor:
        crop = F.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        crop = F.horizontal_flip(crop) if flip else crop
        pixels = F.to_dtype(F.pil_to_tensor(crop), torch.float32, scale=True)
        normalised: Tensor = F.normalize(pixels, list(IMAGENET_MEAN), list(IMAGENET_STD))
        return normalised


@torch.inference_mode()
def label_images(loader: DataLoader[Item], net: nn.Module, folder: Path, device: torch.device, k: int = fkd.K) -> None:
    """Write the file of every image. ``net`` takes normalised images and gives logits."""
    for samples, heights, widths, boxes_nV5, crops_nV3SS in loader:
        logits = net(crops_nV3SS.flatten(0, 1).to(device, memory_format=torch.channels_last)).float().cpu()
        labels = fkd.encode(logits, k).unflatten(0, crops_nV3SS.shape[:2])
        for row, sample in enumerate(samples.tolist()):
            path = fkd.image_path(folder, sample)
            path.parent.mkdir(parents=True, exist_ok=True)
            fkd.write_image(path, boxes_nV5[row], int(heights[row]), int(widths[row]), labels[row])
