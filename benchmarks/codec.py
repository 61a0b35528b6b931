"""How fast are labels made from logits, and made dense again?

    python -m fastlabel.benchmarks.codec [--device cuda] [--batch-size 1024 ...] [--classes 1000 ...] [--k 16 ...]

encode_topk against what soft-label code does otherwise: log_softmax and topk in torch, which keeps no tail and
quantises nothing. decode_topk against scattering float32 probabilities into a dense tensor. On a GPU also the share of
encode in a ResNet-50 forward of the same batch. Nothing is timed before its result was compared with the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from fastlabel.benchmarks.harness import Timing, alternate, write_json
from fastlabel.kernels.decode_topk import decode_topk, decode_topk_reference, topk_probabilities
from fastlabel.kernels.encode_topk import encode_topk, encode_topk_reference
from fastlabel.kernels.label_format import widen

QUESTION = "rows per second of encode_topk and decode_topk, against torch's log_softmax + topk and a dense scatter"
CHECKED_ROWS = 16


def check(logits: Tensor, k: int) -> None:
    """The first rows equal the reference, or nothing is timed."""
    few = logits[:CHECKED_ROWS]
    label, expected = encode_topk(few, k), encode_topk_reference(few, k)
    assert all(torch.equal(widen(one), widen(other)) for one, other in zip(label, expected, strict=True))
    torch.testing.assert_close(decode_topk(*label, few.shape[1]), decode_topk_reference(*label, few.shape[1]))


def cases(logits: Tensor, k: int) -> dict[str, Callable[[], Any]]:
    """What is timed on these logits, by name."""
    C, label = logits.shape[1], encode_topk(logits, k)
    probs, tail = topk_probabilities(label[1], label[2], C)
    ids = widen(label[0]).to(torch.int64)
    return {
        "encode": lambda: encode_topk(logits, k),
        "torch log_softmax + topk": lambda: torch.log_softmax(logits, 1).topk(k),
        "decode": lambda: decode_topk(*label, C),
        "decode at T=2": lambda: decode_topk(*label, C, 2.0),
        "torch scatter": lambda: tail[:, None].repeat(1, C).scatter_(1, ids, probs),
    }


def resnet_forward(batch_size: int) -> Callable[[], Any]:
    """A forward as labelling runs it on a GPU: 224 pixels, bfloat16."""
    from torchvision.models import resnet50

    model = resnet50().eval().cuda().to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return model(images)

    return forward


def finished(case: Callable[[], Any]) -> Callable[[], Any]:
    """The case and the wait for the GPU."""

    def run() -> None:
        case()
        torch.cuda.synchronize()

    return run


def measure(batch_size: int, classes: int, k: int, dtype: torch.dtype, device: str, rounds: int) -> dict[str, Timing]:
    generator = torch.Generator().manual_seed(0)
    logits = (2.5 * torch.randn(batch_size, classes, generator=generator)).to(device, dtype)
    check(logits, k)
    timed = cases(logits, k)
    if device == "cuda":
        timed["resnet50 forward"] = resnet_forward(batch_size)
        timed = {name: finished(case) for name, case in timed.items()}
    return alternate(timed, rounds)


def summary(batch_size: int, classes: int, k: int, timings: dict[str, Timing]) -> dict[str, Any]:
    """One entry of the result: seconds of each case, and what follows from them."""
    medians = {name: timing.median for name, timing in timings.items()}
    ratios = {
        "encode_rows_per_second": batch_size / medians["encode"],
        "decode_rows_per_second": batch_size / medians["decode"],
        "encode_speedup": medians["torch log_softmax + topk"] / medians["encode"],
        "decode_speedup": medians["torch scatter"] / medians["decode"],
    }
    if "resnet50 forward" in medians:
        ratios["encode_share_of_resnet50_forward"] = medians["encode"] / medians["resnet50 forward"]
    seconds = {name: asdict(timing) for name, timing in timings.items()}
    return {"batch_size": batch_size, "classes": classes, "k": k, **ratios, "seconds": seconds}


def line(result: dict[str, Any]) -> str:
    text = (
        "B={batch_size} C={classes} K={k}: "
        "encode {encode_rows_per_second:,.0f} rows/s, {encode_speedup:.1f}x torch; "
        "decode {decode_rows_per_second:,.0f} rows/s, {decode_speedup:.1f}x torch"
    ).format(**result)
    share = result.get("encode_share_of_resnet50_forward")
    return text if share is None else f"{text}; encode is {share:.2%} of ResNet-50"


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option("--batch-size", "batch_sizes", multiple=True, default=(256, 1024), show_default=True)
@click.option("--classes", multiple=True, default=(1000, 21841), show_default=True)
@click.option("--k", "ks", multiple=True, default=(8, 16, 64), show_default=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(
    device: str | None,
    dtype: str,
    batch_sizes: tuple[int, ...],
    classes: tuple[int, ...],
    ks: tuple[int, ...],
    rounds: int,
    out: Path | None,
) -> None:
    """Measure how fast labels are encoded and decoded."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    results = []
    for shape in product(batch_sizes, classes, ks):
        result = summary(*shape, measure(*shape, getattr(torch, dtype), device, rounds))
        results.append(result)
        click.echo(line(result))
    if out is not None:
        write_json(
            out, QUESTION, {"device": device, "dtype": dtype, "threads": torch.get_num_threads(), "cases": results}
        )


if __name__ == "__main__":
    main()
