"""The machine code of Triton's kernels for a GPU that need not be there, and how large it is.

Calls of an op's `triton.py` on CPU tensors are caught on their way to the GPU: each kernel is specialised and compiled
as that GPU would get it, and not run. In a process with TRITON_INTERPRET=0, which Triton reads when it is imported.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

REGISTERS_PER_SM, WARPS_PER_SM, BLOCKS_PER_SM, SHARED_BYTES_PER_SM = 65536, 64, 32, 227 * 1024  # of sm_80 and sm_90
BYTES_RESERVED_PER_BLOCK, REGISTERS_PER_ALLOCATION = 1024, 256

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class _CompileOnly:
    """What Triton asks of a driver to compile; there is nothing to run on."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return self._target.arch  # Triton keeps compiled kernels by device

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass(frozen=True)
class Code:
    """One kernel as it would be launched.

    Attributes:
        name: the function.
        grid: programs along each axis.
        arguments: its arguments by name, constants included.
        warps: of one program.
        shared_bytes: shared memory of one program.
        cubin: machine code.
    """

    name: str
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int
    shared_bytes: int
    cubin: bytes

    @cached_property
    def registers(self) -> int:
        """Registers of one thread."""
        return int(self._resources["REG"])

    @cached_property
    def stack_bytes(self) -> int:
        """Local memory of one thread: more than 0 means spills, or an array indexed at run time."""
        return int(self._resources["STACK"])

    @cached_property
    def spills(self) -> int:
        """Loads and stores of local memory in the code."""
        return sum(line.split()[0].startswith(("LDL", "STL")) for line in self.instructions)

    @property
    def blocks_per_sm(self) -> int:
        """Programs that one multiprocessor holds at once."""
        per_warp = -(-self.registers * 32 // REGISTERS_PER_ALLOCATION) * REGISTERS_PER_ALLOCATION
        by_registers = REGISTERS_PER_SM // per_warp // self.warps
        by_memory = SHARED_BYTES_PER_SM // (self.shared_bytes + BYTES_RESERVED_PER_BLOCK)
        return min(by_registers, by_memory, WARPS_PER_SM // self.warps, BLOCKS_PER_SM)

    @property
    def occupancy(self) -> float:
        """Share of a multiprocessor's warps that this kernel can fill."""
        return self.blocks_per_sm * self.warps / WARPS_PER_SM

    @cached_property
    def instructions(self) -> list[str]:
        """Disassembly without predicates: one instruction a line, from its name on."""
        return [text for _, text, _ in self._lines]

    @cached_property
    def loops(self) -> list[tuple[int, int]]:
        """First and last instruction of each loop, by number: what lies between a backward branch and its target."""
        places = {address: number for number, (address, _, _) in enumerate(self._lines)}
        loops = []
        for number, (address, _, goal) in enumerate(self._lines):
            if goal is not None and goal < address:  # a branch to itself is the padding at the end
                loops.append((places[goal], number))
        return loops

    def widths(self, name: str) -> list[int]:
        """Bytes that a thread moves at once, for each instruction of that name (LDG or STG)."""
        sizes = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
        found = [line.split()[0].split(".") for line in self.instructions]
        return [max((sizes.get(part, 0) for part in parts), default=0) or 4 for parts in found if parts[0] == name]

    @cached_property
    def _resources(self) -> dict[str, str]:
        found = re.search(rf"Function {re.escape(self.name)}:\s*\n(.*)", _tool("cuobjdump", "-res-usage", self.cubin))
        assert found, f"cuobjdump does not know {self.name}"
        return dict(re.findall(r"(\w+)(?:\[\d\])?:(\d+)", found[1]))

    @cached_property
    def _lines(self) -> list[tuple[int, str, int | None]]:
        """Address, text, and where to if it is a branch, of each instruction."""
        lines = []
        for line in _tool("cuobjdump", "-sass", self.cubin).splitlines():
            found = re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z].*?)\s*;", line)
            if found:
                goal = re.match(r"BRA\S*\s+(?:\S+,\s*)?(0x[0-9a-f]+)", found[2])
                lines.append((int(found[1], 16), found[2], int(goal[1], 16) if goal else None))
        while lines and lines[-1][1].startswith(("NOP", "BRA")):  # padding, and the trap before it
            lines.pop()
        return lines


def _tool(name: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_TOOLS / name, option, file.name], capture_output=True, text=True, check=True).stdout


@contextmanager
def compiled(capability: int = 90) -> Iterator[list[Code]]:
    """Within: kernels of Triton are compiled for a GPU of that compute capability, listed, and not run.

    Tensors may be on the CPU; the arguments are specialised as those of a GPU are. Results of the ops are unwritten.
    """
    listed: list[Code] = []
    run, active = JITFunction.run, driver._active

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        arguments = dict(zip(self.arg_names, args, strict=False)) | kwargs
        at = (kernel.metadata.num_warps, kernel.metadata.shared, kernel.asm["cubin"])
        listed.append(Code(kernel.metadata.name, tuple(grid), arguments, *at))

    driver.set_active(_CompileOnly(capability))
    JITFunction.run = compile_only
    try:
        yield listed
    finally:
        JITFunction.run, driver._active = run, active
