"""Compiles the kernels of the loss for a GPU that need not be there. A process of its own: pytest's interprets them.

python -m tests.kernels.compile_triton COMPUTE_CAPABILITY
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "0"

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from fastlabel.kernels.soft_cross_entropy import Labels, Target, triton

POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64"}
POINTERS |= {torch.uint8: "*u8", torch.uint16: "*u16", torch.int32: "*i32"}


def targets() -> list[Target]:
    """Coded labels alone, and all parts at once, coded and weighted."""
    rows, shares, hard = torch.zeros(3).long(), torch.zeros(3), torch.zeros(3).long()
    codes = torch.zeros(3, 16, dtype=torch.uint8)
    coded = Labels(codes.to(torch.uint16), codes, torch.zeros(3, 2).to(torch.uint16))
    weighted = Labels(codes.int(), codes.float(), shares, rows)
    return [
        Target(coded),
        Target(coded, 2.0, coded._replace(rows=rows), shares, hard, shares),
        Target(weighted, 1.0, weighted, shares, hard, shares),
    ]


def build(capability: int, target: Target, dtype: torch.dtype, block: int) -> None:
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    logits = torch.empty(3, 5000, dtype=dtype)
    losses, stats = torch.empty(3, dtype=accumulated), torch.empty(3, 2, dtype=accumulated)
    constants = triton._constants(target, accumulated, block)
    options = {name: constants.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    common = (5000, *triton._arguments(target, 2.0))
    for kernel, tensors in (
        (triton._forward_kernel, (logits, losses, stats)),
        (triton._backward_kernel, (losses, logits, logits, stats)),
    ):
        values = dict(zip(kernel.arg_names, (*tensors, *common), strict=False))
        absent = {name: None for name, value in values.items() if value is None}
        types = {
            name: POINTERS[value.dtype]
            if isinstance(value, torch.Tensor)
            else "fp32"
            if type(value) is float
            else "i32"
            for name, value in values.items()
        }
        signature = types | dict.fromkeys((*constants, *absent), "constexpr")
        source = ASTSource(kernel, signature, constants | absent)
        assert compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]


if __name__ == "__main__":
    for target in targets():
        for dtype, block in ((torch.bfloat16, 1024), (torch.float64, 4096)):
            build(int(sys.argv[1]), target, dtype, block)
    print("compiled")
