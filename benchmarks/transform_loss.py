"""What does the loss against labels with a transform cost, forward and backward, next to a dense target?

    python -m fastlabel.benchmarks.transform_loss [--json OUT]

Labels are synthetic; their coefficients fall as those of an ImageNet teacher do. Peers: `dense` decodes to a dense
target and calls F.cross_entropy; `given` is F.cross_entropy alone, with a dense target that lies there; `product` is
the matrix product with the basis alone, which both ours and `dense` need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlabel.benchmarks.harness import alternate, write_json
from fastlabel.benchmarks.loss import check_agreement
from fastlabel.benchmarks.memory import peak_bytes
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.loss import soft_cross_entropy
from fastlabel.labels.topk import TopKLabels
from fastlabel.labels.transform_codec import TransformCodec

SHAPES = ((256, 1000), (64, 21841))  # B, C
COMPONENTS, K, STEP = (64, 128, 256), 4, 3.1


def some_labels(B: int, C: int, R: int) -> tuple[TopKLabels, Tensor]:
    """Labels, and their basis float32 [R + 1, C].

    The logits have R dimensions, of standard deviations that fall as r^-0.75, and some noise.
    """
    torch.manual_seed(0)
    components_RC = torch.linalg.qr(torch.randn(C, R))[0].T
    basis = TransformBasis(torch.cat([torch.zeros(1, C), components_RC]).half())
    spread_R = 35 * (C / 1000) ** 0.5 * torch.arange(1, R + 1) ** -0.75
    logits_BC = (torch.randn(B, R) * spread_R) @ components_RC + 0.3 * torch.randn(B, C)
    return TransformCodec.of(basis, K, STEP).encode(logits_BC), basis.wide


def make_cases(B: int, C: int, R: int, T: float) -> dict[str, Callable[[], Tensor]]:
    labels, basis_DC = some_labels(B, C, R)
    given_BC, factor_BD = labels.dense(T), torch.randn(B, R + 1)
    logits = torch.randn(B, C, requires_grad=True)
    losses: dict[str, Callable[[], Tensor]] = {
        "fused": lambda: soft_cross_entropy(logits, labels, T),
        "dense": lambda: F.cross_entropy(logits, labels.dense(T)),
        "given": lambda: F.cross_entropy(logits, given_BC),
    }
    check_agreement(losses["fused"], losses["dense"], logits)
    cases = {name: _with_gradient(loss, logits) for name, loss in losses.items()}
    return {**cases, "product": lambda: factor_BD @ basis_DC}


def _with_gradient(loss: Callable[[], Tensor], logits: Tensor) -> Callable[[], Tensor]:
    return lambda: torch.autograd.grad(loss(), logits)[0]


@click.command()
@click.option("--rounds", default=25, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the result there.")
def main(rounds: int, out: Path | None) -> None:
    """Measure the loss against labels with a transform, on the CPU."""
    cells: list[dict[str, Any]] = []
    for B, C in SHAPES:
        for R in COMPONENTS:
            for T in (1.0, 4.0):
                cases = make_cases(B, C, R, T)
                timings = alternate(cases, rounds)
                peaks = {name: peak_bytes(cases[name], torch.device("cpu")) for name in ("fused", "dense")}
                beyond = {name: None if peak is None else peak - 4 * B * C for name, peak in peaks.items()}
                seconds = {name: asdict(timing) for name, timing in timings.items()}
                cells.append({"B": B, "C": C, "R": R, "T": T, "seconds": seconds, "bytes_beyond_gradient": beyond})
                spread = (
                    f"{n} {1e3 * t.median:.2f} ({1e3 * t.p20:.2f} to {1e3 * t.p80:.2f})" for n, t in timings.items()
                )
                memory = ", ".join(f"{n} {(b or 0) / 2**20:.1f}" for n, b in beyond.items())
                click.echo(f"B={B} C={C} R={R} T={T:g}, ms: {'; '.join(spread)}; MiB beyond the gradient: {memory}")
    if out is not None:
        figures = {"k": K, "step": STEP, "threads": torch.get_num_threads(), "cells": cells}
        write_json(out, "forward and backward of the loss against labels with a transform", figures)


if __name__ == "__main__":
    main()
