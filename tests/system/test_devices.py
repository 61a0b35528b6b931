"""The device of a run."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from fastlabel.system.devices import current_device


@pytest.mark.fault("17.B8 a teacher that says cuda lands on GPU 0 on every rank")
def test_a_rank_makes_its_gpu_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: chosen.append(device) or nullcontext())
    for name in ("cpu", "cuda:3"):
        with current_device(torch.device(name)):
            pass
    assert chosen == [torch.device("cuda:3")]
