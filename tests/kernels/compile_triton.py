"""Compiles the kernels of the loss for a GPU that need not be there. A process of its own: pytest's interprets them.

python -m tests.kernels.compile_triton COMPUTE_CAPABILITY
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "0"

import torch

from fastlabel.benchmarks.kernel_code import compiled
from fastlabel.kernels.soft_cross_entropy import Labels, Target, triton


def targets(k: int) -> list[Target]:
    """Coded labels alone, and all parts at once, coded and weighted."""
    rows, shares, hard = torch.zeros(3).long(), torch.zeros(3), torch.zeros(3).long()
    codes = torch.zeros(3, k, dtype=torch.uint8)
    coded = Labels(codes.to(torch.uint16), codes, torch.zeros(3, 2).to(torch.uint16))
    weighted = Labels(codes.int(), codes.float(), shares, rows)
    return [
        Target(coded),
        Target(coded, 2.0, coded._replace(rows=rows), shares, hard, shares),
        Target(weighted, 1.0, weighted, shares, hard, shares),
    ]


def build(capability: int, target: Target, dtype: torch.dtype, C: int) -> None:
    """Both kernels, without spills: nothing of a row goes through local memory."""
    logits = torch.zeros(3, C, dtype=dtype)
    with compiled(capability) as codes:
        loss, stats = triton.forward(logits, target, 2.0)
        triton.backward(loss, logits, stats, 2.0)
    assert [code.name for code in codes] == ["_forward_kernel", "_backward_kernel"]
    for code in codes:
        assert code.stack_bytes == code.spills == 0, (code.name, dtype, C, target.labels.classes.shape, code.registers)


if __name__ == "__main__":
    for k, C in ((16, 1000), (16, 21841), (100, 100), (128, 1000)):
        for number, target in enumerate(targets(k)):
            dtype = torch.float64 if k == 16 and number == 1 else torch.bfloat16
            build(int(sys.argv[1]), target, dtype, C)
    print("compiled")
