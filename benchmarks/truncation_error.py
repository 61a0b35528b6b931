"""How far off is the estimate of what truncation loses, which `fastlabel inspect` prints?

    python -m fastlabel.benchmarks.truncation_error [--data TRAIN.beton] [--json OUT]

KL(teacher || label), exact from the logits and estimated from the stored label alone, for Gaussian logits; and with
--data for a network that is trained here on small images of that dataset, for its own classes and for many more, which
are clusters of the images of each class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from fastlabel.benchmarks.harness import write_json
from fastlabel.dataset.beton import Beton
from fastlabel.images.loader import ImageLoader
from fastlabel.inspection.truncation import truncation_kl
from fastlabel.kernels.label_format import CODES_PER_NAT, widen
from fastlabel.labels.codec import TopKCodec
from fastlabel.views import ViewPolicy

QUESTION = (
    "KL of the truncation, nats: exact from logits, estimated from stored labels, and by a Gaussian without bound"
)
SIDE, BATCH = 32, 128


@dataclass(frozen=True)
class Row:
    """Means over labels; ``error`` is that of the estimate as a share, ``each`` the mean error of a single label."""

    logits: str
    classes: int
    k: int
    kept_mass: float
    exact: float
    estimate: float
    error: float
    each: float
    unbounded: float


def compare(name: str, logits_BC: Tensor, k: int) -> Row:
    classes = logits_BC.shape[1]
    labels = TopKCodec(k, classes).encode(logits_BC)
    probs = torch.softmax(logits_BC.double(), 1)
    exact = (torch.xlogy(probs, probs) - torch.xlogy(probs, labels.dense().double())).sum(1).numpy()
    estimate = truncation_kl(labels)
    kept, each = (part.double() for part in labels.probabilities())
    delta = (each / kept[:, 0]).log() + widen(labels.tail)[:, 1] / CODES_PER_NAT
    mass = (classes - k) * each
    return Row(
        name,
        classes,
        k,
        float(1 - mass.mean()),
        float(exact.mean()),
        float(estimate.mean()),
        float(estimate.mean() / exact.mean() - 1),
        float(np.abs(estimate - exact).mean()),
        float((mass * delta.clamp(min=0)).mean()),
    )


def small_images(beton: Beton) -> Tensor:
    """uint8 [N, 3, 32, 32]."""
    loader = ImageLoader(beton, ViewPolicy.identity(SIDE), 1000)
    with loader.epoch(np.arange(beton.num_samples), [0]) as epoch:
        return torch.cat([batch.images[:, 0].clone() for batch in epoch]).permute(0, 3, 1, 2)


def split_classes(images: Tensor, targets: NDArray[np.int64], parts: int) -> Tensor:
    """int64 [N]: each class in that many, by clusters of its images at 8 x 8 pixels."""
    coarse = nn.functional.avg_pool2d(images.float() / 255, SIDE // 8).flatten(1).numpy()
    found = np.zeros(len(targets), np.int64)
    for target in np.unique(targets):
        mine = np.flatnonzero(targets == target)
        clusters = MiniBatchKMeans(parts, random_state=0, n_init=1).fit_predict(coarse[mine])
        found[mine] = parts * target + clusters
    return torch.from_numpy(found)


def held_out_logits(images: Tensor, targets: Tensor, epochs: int) -> Tensor:
    """Logits of a tenth of the images, by a network that is trained on the others."""
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    train, held_out = order[len(order) // 10 :], order[: len(order) // 10]
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (SIDE // 8) ** 2, int(targets.max()) + 1))
    steps = epochs * (len(train) // BATCH)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for step in range(steps):
        rows = train[torch.randint(len(train), (BATCH,))]
        loss = nn.functional.cross_entropy(net((images[rows].float() - 118) / 63), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            click.echo(f"step {step} of {steps}, loss {loss.item():.3f}", err=True)
    net.eval()
    with torch.no_grad():
        return torch.cat([net((images[rows].float() - 118) / 63) for rows in held_out.split(500)])


@click.command()
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Small images, as CIFAR-10.")
@click.option("--parts", default=20, show_default=True, help="Clusters that each class is split into.")
@click.option("--epochs", default=2, show_default=True)
@click.option("--rows", default=3000, show_default=True, help="Gaussian labels of each kind.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(data: Path | None, parts: int, epochs: int, rows: int, out: Path | None) -> None:
    """Compare the estimated loss by truncation with the exact one."""
    random = torch.Generator().manual_seed(0)
    found = []
    for scale in (1.0, 2.0, 4.0):
        logits = scale * torch.randn(rows, 1000, generator=random)
        found += [compare(f"Gaussian, deviation {scale:g}", logits, k) for k in (4, 16, 64)]
    if data is not None:
        beton = Beton.open(data)
        images = small_images(beton)
        for targets, ks in (
            (torch.from_numpy(beton.targets), (1, 2, 3, 5)),
            (split_classes(images, beton.targets, parts), (1, 2, 4, 8, 16, 32, 64)),
        ):
            logits = held_out_logits(images, targets, epochs)
            found += [compare("trained network", logits, k) for k in ks if k < logits.shape[1]]
    click.echo("logits                     classes   K  kept mass    exact  estimated  error  per label  no bound")
    for row in found:
        click.echo(
            f"{row.logits:26s} {row.classes:7d} {row.k:3d} {row.kept_mass:10.2%} {row.exact:8.4f} {row.estimate:10.4f} "
            f"{row.error:6.1%} {row.each:10.4f} {row.unbounded:9.4f}"
        )
    if out is not None:
        write_json(out, QUESTION, {"rows": [asdict(row) for row in found]})


if __name__ == "__main__":
    main()
