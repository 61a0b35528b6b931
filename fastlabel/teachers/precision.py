"""How a teacher runs, whatever the program around it has switched on: its labels must come out the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fastlabel.errors import InputError

# What convolutions and matrix products compute in: float32, or autocast's choice with this type.
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# The network as it is, or as torch.compile makes it.
FORWARDS = ("eager", "compiled")


def check_precision(precision: str, tf32: bool, device_type: str, forward: str = "eager") -> None:
    """InputError for a precision or a forward that is unknown, or that this kind of device does not have."""
    if forward not in FORWARDS:
        raise InputError(f"unknown forward {forward!r}: known are {', '.join(FORWARDS)}")
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: known are {', '.join(PRECISIONS)}")
    if device_type != "cuda" and tf32:
        raise InputError("TF32 is a mode of CUDA devices: leave it off on the CPU")


@contextmanager
def teacher_precision(device_type: str, precision: str = "fp32", tf32: bool = False) -> Iterator[None]:
    """Exactly this precision, and the same algorithms every time, while a teacher labels.

    Args:
        device_type: "cpu" or "cuda".
        precision: of `PRECISIONS`; the reduced ones are autocast's.
        tf32: let CUDA round the inputs of float32 products to 10 bits.
    """
    wanted = _settings(tf32)
    before = {key: getattr(*key) for key in wanted}
    dtype = PRECISIONS[precision]
    try:
        for (owner, name), value in wanted.items():
            setattr(owner, name, value)
        with torch.autocast(device_type, dtype=dtype, enabled=dtype is not None):
            yield
    finally:
        for (owner, name), value in before.items():
            setattr(owner, name, value)


def full_precision(device_type: str) -> Any:
    """`teacher_precision` in float32: no TF32, no autocast, and cuDNN's deterministic algorithms."""
    return teacher_precision(device_type)


def _settings(tf32: bool) -> dict[tuple[Any, str], Any]:
    """Each process-wide setting that changes what a forward pass gives, and the value that it must have."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    wanted: dict[tuple[Any, str], Any] = {
        (cudnn, "benchmark"): False,
        (cudnn, "deterministic"): True,
        (matmul, "allow_fp16_reduced_precision_reduction"): False,
        (matmul, "allow_bf16_reduced_precision_reduction"): False,
    }
    # PyTorch refuses to read the old names of these once a program has used the new ones.
    if not hasattr(matmul, "fp32_precision"):
        return wanted | {(matmul, "allow_tf32"): tf32, (cudnn, "allow_tf32"): tf32}
    fp32 = "tf32" if tf32 else "ieee"
    wanted |= {(matmul, "fp32_precision"): fp32, (cudnn.conv, "fp32_precision"): fp32}
    if hasattr(cudnn, "rnn"):
        # Else cudnn.allow_tf32, which torch.compile reads, would be neither true nor false, and raise.
        wanted[cudnn.rnn, "fp32_precision"] = fp32
    # On CPUs that have units for it, "medium" matrix products of float32 are of bfloat16.
    mkldnn: Any = torch.backends.mkldnn
    return wanted | {(mkldnn.matmul, "fp32_precision"): "ieee", (mkldnn.conv, "fp32_precision"): "ieee"}
