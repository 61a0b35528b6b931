"""A training loop in plain PyTorch on cached soft labels: AMP, torch.compile, an average of the weights, CutMix, ranks.

    fastlabel write-dataset digits:train digits.beton
    fastlabel cache-labels digits.beton labels.zarr --teacher teacher.pt --views 8 --k 10 --view-policy pad-crop
    python examples/plain_pytorch.py digits.beton labels.zarr --epochs 10 --save run.pt
    torchrun --nproc-per-node 2 examples/plain_pytorch.py digits.beton labels.zarr --epochs 10 --save run.pt

The same command again goes on where `run.pt` was saved, in the middle or at the end of an epoch.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fastlabel


class Net(nn.Module):
    """A small network on uint8 images [B, 3, S, S]: it normalises them itself."""

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Linear(8 * width, num_classes),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.float() / 127.5 - 1)


def cutmix(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images with a box of a partner's, the partner of each [B], and the share of the own pixels, a tensor []."""
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    height, width = images.shape[-2:]
    side = (1 - torch.rand((), generator=generator)).sqrt()
    rows, columns = int(side * height), int(side * width)
    top = int(torch.randint(height - rows + 1, (), generator=generator))
    left = int(torch.randint(width - columns + 1, (), generator=generator))
    box = (..., slice(top, top + rows), slice(left, left + columns))
    mixed = images.clone()
    mixed[box] = images[partner][box]
    return mixed, partner, torch.tensor(1 - rows * columns / (height * width), device=images.device)


def train(
    data: str | Path,
    labels: str | Path,
    epochs: int,
    save: str | Path,
    *,
    batch_size: int = 128,
    device: str = "cpu",
    seed: int = 0,
    lr: float = 3e-3,
    temperature: float = 2.0,
    compiled: bool = False,
    amp: bool = False,
    save_every: int = 10,
    stop_after: int | None = None,
) -> tuple[nn.Module, list[list[int]]]:
    """Train, from where `save` stands if it is there; every `save_every` steps and at the end of an epoch it is saved.

    Returns:
        The averaged network, and the sample ids of each batch that this rank saw.
    """
    torch.manual_seed(seed)
    loader = fastlabel.SoftLabelLoader(data, labels, batch_size, device, seed)
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    net = Net(loader.num_classes).to(device)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    model: nn.Module = DistributedDataParallel(net) if world_size > 1 else net
    step_model = torch.compile(model) if compiled else model

    step = 0
    if Path(save).exists():
        state = torch.load(save, map_location=device, weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        step = state["step"]

    def keep() -> None:
        if dist.is_initialized() and dist.get_rank() != 0:
            return
        parts = {"net": net, "average": average, "optimizer": optimizer, "loader": loader}
        partial = Path(f"{save}.partial")
        torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step}, partial)
        partial.replace(save)  # a run that is killed leaves the save before

    seen: list[list[int]] = []
    for _ in range(loader.state_dict()["epoch"], epochs):
        for batch in loader:
            seen.append(batch.ids.tolist())
            # A pure function of (seed, step): a run that goes on mixes as one that was never stopped.
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            images, partner, share = cutmix(batch.images, generator)
            with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=amp):
                logits = step_model(images)
            loss = fastlabel.soft_cross_entropy(
                logits, batch.labels, temperature, reduction="sum", second=batch.labels[partner], mix=share
            )
            # Ranks may have one crop more or less of a batch, and DDP takes the mean of their gradients.
            crops = loader.samples_in(loader.state_dict()["batches"] - 1)
            optimizer.zero_grad()
            (loss * world_size / crops).backward()
            optimizer.step()
            average.update_parameters(net)
            step += 1
            if step % save_every == 0:
                keep()
            if step == stop_after:
                return average, seen
        keep()
    return average, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("labels")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--save", default="run.pt")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--amp", action="store_true")
    given = parser.parse_args()
    device = given.device
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
    options = {"batch_size": given.batch_size, "device": device, "compiled": given.compile, "amp": given.amp}
    _, seen = train(given.data, given.labels, given.epochs, given.save, **options)
    print(f"trained on {sum(map(len, seen))} crops in {len(seen)} batches on this rank")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
