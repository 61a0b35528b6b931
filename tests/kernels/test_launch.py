"""A launcher lets Triton choose the code once for each key, and then runs that code."""

from __future__ import annotations

from typing import Any

import torch

from fastlabel.kernels.common.launch import Launcher


class Kernel:
    """Stands for a function under `triton.jit`, and for what it is compiled to: both are called with a grid."""

    def __init__(self, calls: list[Any], compiles: bool) -> None:
        self.calls, self.compiles = calls, compiles

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*arguments: Any, **constants: Any) -> Kernel | None:
            self.calls.append((grid, arguments, constants))
            return Kernel(self.calls, False) if self.compiles else None

        return run


def test_code_is_chosen_once_for_each_key() -> None:
    calls: list[Any] = []
    launch, near, asked = Launcher(Kernel(calls, compiles=True)), torch.zeros(1), []

    def constants() -> tuple[dict[str, Any], dict[str, Any]]:
        asked.append(1)
        return {"K": 16, "LANES": 32}, {"num_warps": 4}

    launch(near, ("a",), (7, 1, 1), (near, 1), constants)
    launch(near, ("a",), (9, 1, 1), (near, 2), constants)
    launch(near, ("b",), (9, 1, 1), (near, 3), constants)
    chosen = {"K": 16, "LANES": 32, "num_warps": 4}
    assert [call[0] for call in calls] == [(7, 1, 1), (9, 1, 1), (9, 1, 1)]
    assert [call[1][1:] for call in calls] == [(1,), (2, 16, 32), (3,)]  # compiled code takes the constants by position
    assert [call[2] for call in calls] == [chosen, {}, chosen] and len(asked) == 2


def test_an_interpreted_kernel_is_called_each_time() -> None:
    calls: list[Any] = []
    launch = Launcher(Kernel(calls, compiles=False))
    for _ in range(2):
        launch(torch.zeros(1), (), (1, 1, 1), (), lambda: ({"K": 1}, {}))
    assert [call[2] for call in calls] == [{"K": 1}] * 2
