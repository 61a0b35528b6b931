"""Compiles the kernels of resized_crops for a GPU that need not be there, in a process that does not interpret them.

python -m tests.kernels.compile_crops COMPUTE_CAPABILITY
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "0"

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from fastlabel.kernels.resized_crops import triton

TABLES = {"geometry_ptr": "*i64", "first_ptr": "*i32", "weights_ptr": "*i16", "S": "i32", "T": "i32"}


def build(capability: int, kernel: object, signature: dict[str, str], constants: dict[str, object]) -> None:
    """As it is launched; also with the arguments that Triton takes for constants because they are 1."""
    for ones in ({}, {"S": 1}, {"S": 1, "T": 1}):
        _build(capability, kernel, signature, constants | ones)


def _build(capability: int, kernel: object, signature: dict[str, str], constants: dict[str, object]) -> None:
    types = signature | dict.fromkeys(constants, "constexpr")
    types = {name: types[name] for name in kernel.arg_names}  # type: ignore[attr-defined]
    source, target = ASTSource(kernel, types, constants), GPUTarget("cuda", capability, 32)
    assert compile(source, target=target, options=triton._OPTIONS).asm["cubin"]


if __name__ == "__main__":
    capability = int(sys.argv[1])
    build(capability, triton._weights_kernel, TABLES, {"OUTPUTS": triton._OUTPUTS})
    tile = {"ROWS": triton._ROWS, "COLUMNS": triton._COLUMNS}
    for table, out in ((None, "*u8"), ("*bf16", "*bf16"), ("*fp16", "*fp16"), ("*fp32", "*fp32")):
        signature = TABLES | {"pixels_ptr": "*u8", "out_ptr": out} | ({"table_ptr": table} if table else {})
        build(capability, triton._crops_kernel, signature, tile | ({} if table else {"table_ptr": None}))
    print("compiled")
