"""What runs on a CUDA device must agree with the CPU. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastlabel.codec import TopKCodec
from fastlabel.loader import SoftLabelLoader
from fastlabel.losses import soft_cross_entropy
from fastlabel.store import LabelStore
from tests.stores import digests, make_teacher

pytestmark = pytest.mark.gpu


def test_codec_and_loss_agree_with_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, student = 4 * torch.randn(2, 41, 1271, generator=generator)
    cpu, gpu = (TopKCodec(16, 1271).encode(logits.to(device)) for device in ("cpu", "cuda"))
    assert torch.equal(cpu.classes, gpu.classes.cpu()) and torch.equal(cpu.codes, gpu.codes.cpu())
    for temperature in (0.5, 1.0, 3.0):
        torch.testing.assert_close(cpu.dense(temperature), cpu.to("cuda").dense(temperature).cpu())
        losses = [
            soft_cross_entropy(student.to(labels.device), labels, temperature, reduction="none").cpu()
            for labels in (cpu, cpu.to("cuda"))
        ]
        torch.testing.assert_close(*losses)


def test_labelling_on_cuda_is_repeatable_and_near_the_cpus(photos: Path, make_store: Callable[..., Path]) -> None:
    options = {"teachers": [make_teacher()], "k": 3}
    cpu = LabelStore.open(make_store("cpu", device="cpu", **options))
    once, again = (make_store(name, device="cuda", **options) for name in ("once", "again"))
    assert digests(once) == digests(again)
    for view in range(cpu.num_views):
        found = LabelStore.open(once).plane(view)[range(12)].dense()
        assert (found - cpu.plane(view)[range(12)].dense()).abs().max() < 0.03
    loader = SoftLabelLoader(photos, once, batch_size=5, device="cuda")
    for batch in loader:
        assert batch.labels is not None
        assert {t.device.type for t in (batch.images, batch.targets, batch.ids, batch.labels.codes)} == {"cuda"}
