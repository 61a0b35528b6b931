"""What do pixel operations cost on the CPU, beside torchvision's on the same uint8 crops?

    python -m fastlabel.benchmarks.pixel_operations [--json OUT]

Microseconds of a crop and operation, all cores, in alternating rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import torch

from fastlabel.benchmarks.harness import alternate, write_json
from fastlabel.kernels.pixel_operations import pixel_operations_
from fastlabel.kernels.pixel_operations.reference import ONE
from fastlabel.views import PixelOperations

QUESTION = "microseconds of a pixel operation on one crop, ours in place and torchvision's v2"
PLAIN = [0, 0, ONE, ONE, ONE, 0, 0, 0, 0]
FACTOR = 1.2


def cases(crops: int, size: int) -> dict[str, Callable[[], object]]:
    """Each operation on the same batch: ours, and torchvision's on crops that are channels last in memory."""
    from torchvision.transforms.v2 import functional as F  # it imports Triton

    images = torch.randint(0, 256, (crops, size, size, 3), dtype=torch.uint8)
    planes, half = images.permute(0, 3, 1, 2), size // 2
    blur = torch.from_numpy(PixelOperations.of(blur=1.0, blur_sigma=(1.0, 1.0)).kernels())
    fill, factor = torch.zeros(3, dtype=torch.uint8), round(FACTOR * ONE)

    def ours(columns: dict[int, int], patches: tuple[int, ...] = ()) -> Callable[[], object]:
        row = [columns.get(place, value) for place, value in enumerate(PLAIN)]
        table = torch.tensor([[*row, *patches]] * crops, dtype=torch.int32)
        return lambda: pixel_operations_(images, table, blur, fill)

    return {
        "gray, ours": ours({0: 1}),
        "gray, torchvision": lambda: F.rgb_to_grayscale(planes, 3),
        "solarise, ours": ours({0: 2}),
        "solarise, torchvision": lambda: F.solarize(planes, 128),
        "blur, ours": ours({0: 3}),
        "blur, torchvision": lambda: F.gaussian_blur(planes, [13, 13], [1.0, 1.0]),
        "brightness, ours": ours({2: factor}),
        "brightness, torchvision": lambda: F.adjust_brightness(planes, FACTOR),
        "contrast, ours": ours({3: factor}),
        "contrast, torchvision": lambda: F.adjust_contrast(planes, FACTOR),
        "saturation, ours": ours({4: factor}),
        "saturation, torchvision": lambda: F.adjust_saturation(planes, FACTOR),
        "2 x 2 patches, ours": ours({}, (3, 2, 1, 0)),
        "erasing a quarter, ours": ours({7: half, 8: half}),
        "erasing a quarter, torchvision": lambda: F.erase(planes, 0, 0, half, half, fill[:, None, None]),
    }


@click.command()
@click.option("--crops", default=64, show_default=True)
@click.option("--size", default=224, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(crops: int, size: int, rounds: int, out: Path | None) -> None:
    """Measure each pixel operation beside torchvision's."""
    timings = alternate(cases(crops, size), rounds)
    for name, timing in timings.items():
        low, middle, high = (1e6 * seconds / crops for seconds in (timing.p20, timing.median, timing.p80))
        click.echo(f"{name}: {middle:.1f} us a crop ({low:.1f} to {high:.1f}, p20 to p80)")
    if out is not None:
        write_json(out, QUESTION, {"crops": crops, "size": size, **timings})


if __name__ == "__main__":
    main()
