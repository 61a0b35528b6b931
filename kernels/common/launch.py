"""Launches of a Triton kernel without what Triton does at each: it looks at every argument to choose the code."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, int, int]


class Launcher:
    """A kernel, with the compiled forms of it that ran before by a key of the caller.

    Args:
        kernel: A function under `triton.jit`.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._compiled: dict[Hashable, tuple[Any, tuple[Any, ...]]] = {}

    def __call__(
        self,
        near: Tensor,
        key: tuple[Hashable, ...],
        grid: Grid,
        arguments: tuple[Any, ...],
        constants: Callable[[], tuple[dict[str, Any], dict[str, Any]]],
    ) -> None:
        """Run the kernel on the device of a tensor, in the current stream.

        Args:
            near: The tensor.
            key: Whatever decides which code it is beside the device: dtypes, which arguments are None, and constants.
                Integers must not be specialised by their value, nor pointers by their alignment, unless it tells.
            grid: Programs along each axis.
            arguments: The run-time arguments, in order.
            constants: Gives the compile-time arguments, in order, and options; called where the key is new.
        """
        with torch.cuda.device_of(near):
            found = self._compiled.get((near.device, *key))
            if found is not None:
                compiled, values = found
                compiled[grid](*arguments, *values)
                return
            named, options = constants()
            compiled = self._kernel[grid](*arguments, **named, **options)
            if compiled is not None:  # the interpreter compiles nothing
                self._compiled[(near.device, *key)] = compiled, tuple(named.values())
