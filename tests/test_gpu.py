"""What runs on a CUDA device must agree with the CPU. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastlabel.dataset.beton import Beton
from fastlabel.kernels.label_format import TAIL_MODELS
from fastlabel.labelling.forward import TeacherForward
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.loss import soft_cross_entropy
from fastlabel.labels.sparse import SparseLabels
from fastlabel.labels.topk import TopKLabels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.store.store import LabelStore
from fastlabel.teachers.recorded import describe
from tests.stores import digests, make_teacher

pytestmark = pytest.mark.gpu


def test_codec_and_loss_agree_with_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, student = 4 * torch.randn(2, 41, 1271, generator=generator)
    cpu, gpu = (TopKCodec(16, 1271).encode(logits.to(device)) for device in ("cpu", "cuda"))
    for name in ("classes", "codes", "tail"):
        assert getattr(cpu, name).tolist() == getattr(gpu, name).tolist()
    for temperature in (0.5, 1.0, 3.0):
        for tail in TAIL_MODELS:
            dense = cpu.dense(temperature, tail)
            torch.testing.assert_close(dense, cpu.to("cuda").dense(temperature, tail).cpu(), rtol=1e-5, atol=1e-7)
        losses = [
            soft_cross_entropy(student.to(labels.device), labels, temperature, reduction="none").cpu()
            for labels in (cpu, cpu.to("cuda"))
        ]
        torch.testing.assert_close(*losses)


def loss_and_gradient(logits: Tensor, labels: TopKLabels | SparseLabels, **options: Any) -> tuple[Tensor, Tensor]:
    """Per-sample losses and the gradient of their sum, on the CPU."""
    leaf = logits.clone().requires_grad_()
    losses = soft_cross_entropy(leaf, labels, reduction="none", **options)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    assert gradient.dtype == logits.dtype
    return losses.detach().cpu(), gradient.cpu()


@pytest.mark.parametrize("num_classes", [41, 1271, 21841, 70001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_loss_agrees_with_the_cpu_in_all_its_forms(num_classes: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    plane = TopKCodec(16, num_classes).encode(4 * torch.randn(50, num_classes, generator=generator))
    rows, targets = torch.randperm(50, generator=generator)[:41], torch.arange(41)
    mix, weight = torch.rand(2, 41, generator=generator)
    logits = (3 * torch.randn(41, num_classes, generator=generator)).to(dtype)
    logits[:, 1:3] = -torch.inf if dtype == torch.float64 else -3e4
    batch = plane.take(rows)
    sparse = batch.sparse(2.0)
    tolerance = {"rtol": 1e-5, "atol": 2**-8 if dtype == torch.bfloat16 else 2**-11 if dtype == torch.float16 else 1e-6}
    for labels, options in (
        (batch, {"label_temperature": 3.0, "student_temperature": 2.0}),
        (sparse, {"targets": targets, "target_weight": weight, "divergence": "kl"}),
        (batch, {"second": batch[range(40, -1, -1)], "mix": mix, "targets": targets, "target_weight": weight}),
    ):
        on_gpu = {name: value.to("cuda") if isinstance(value, Tensor) else value for name, value in options.items()}
        there: TopKLabels | SparseLabels = labels.to("cuda")
        if isinstance(labels, TopKLabels):
            there = plane.to("cuda").take(rows.to("cuda"))
        if "second" in options:
            assert isinstance(there, TopKLabels)
            on_gpu["second"] = there.take(torch.arange(40, -1, -1, device="cuda"))
        (loss, gradient), (expected, expected_gradient) = (
            loss_and_gradient(logits.to("cuda"), there, **on_gpu),
            loss_and_gradient(logits, labels, **options),
        )
        torch.testing.assert_close(loss, expected, rtol=2e-5, atol=1e-5)
        torch.testing.assert_close(gradient.double(), expected_gradient.double(), **tolerance)


def test_loss_on_a_gpu_is_the_same_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = TopKCodec(64, 1000).encode(torch.randn(256, 1000, generator=generator)).to("cuda")
    logits = torch.randn(256, 1000, generator=generator).to("cuda", torch.bfloat16)
    options = {"second": labels[range(255, -1, -1)], "mix": 0.3, "targets": torch.arange(256, device="cuda")}
    results = [loss_and_gradient(logits, labels, **options, target_weight=0.1) for _ in range(5)]
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


def test_more_classes_than_the_kernels_hold_and_ids_out_of_range() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = TopKCodec(2000, 2000).encode(torch.randn(7, 2000, generator=generator))
    logits = torch.randn(7, 2000, generator=generator)
    for found, expected in zip(
        loss_and_gradient(logits.to("cuda"), labels.to("cuda")), loss_and_gradient(logits, labels), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    there = TopKCodec(16, 2000).encode(logits).to("cuda")
    outside = there.take(torch.tensor([0, 7, -1], device="cuda"))
    assert loss_and_gradient(logits[:3].to("cuda"), outside)[0].isnan().tolist() == [False, True, True]


def test_loss_under_torch_compile_on_cuda() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = TopKCodec(16, 1000).encode(torch.randn(64, 1000, generator=generator)).to("cuda")
    logits = torch.randn(64, 1000, generator=generator).to("cuda")

    def step(x: Tensor) -> Tensor:
        return soft_cross_entropy(2 * x, labels, label_temperature=2.0)

    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    losses = [
        function(leaf) for function, leaf in zip((step, torch.compile(step, fullgraph=True)), leaves, strict=True)
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, leaf)[0] for loss, leaf in zip(losses, leaves, strict=True)))


def test_loss_takes_no_memory_beyond_logits_and_gradient() -> None:
    B, C = 1024, 21841
    labels = TopKCodec(16, C).encode(torch.randn(B, C)).to("cuda")
    logits = torch.randn(B, C, device="cuda", dtype=torch.bfloat16).requires_grad_()
    soft_cross_entropy(logits, labels).backward()
    logits.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    soft_cross_entropy(logits, labels).backward()
    assert torch.cuda.max_memory_allocated() - before < B * C * 2 + (1 << 20)


def test_labelling_on_cuda_is_repeatable_and_near_the_cpus(photos: Path, make_store: Callable[..., Path]) -> None:
    options = {"teachers": [make_teacher()], "k": 3}
    cpu = LabelStore.open(make_store("cpu", device="cpu", **options))
    once, again = (make_store(name, device="cuda", **options) for name in ("once", "again"))
    assert digests(once) == digests(again)
    for view in range(cpu.num_views):
        found = LabelStore.open(once).plane(view)[range(12)].dense()
        # A code that moves by one step of 1/8 nat moves a probability by at most tanh(1/16) / 2 = 0.0312.
        assert (found - cpu.plane(view)[range(12)].dense()).abs().max() < 0.0315
    loader = SoftLabelLoader(photos, once, batch_size=5, device="cuda")
    for batch in loader:
        assert batch.labels is not None
        assert {t.device.type for t in (batch.images, batch.targets, batch.ids, batch.labels.codes)} == {"cuda"}


@pytest.mark.parametrize("M", [1, 2])
def test_batches_on_cuda_are_those_of_the_cpu(photos: Path, make_store: Callable[..., Path], M: int) -> None:
    """Crops, labels, targets and ids, whoever made the crops; on the GPU with its number."""
    store = make_store(views=4, device="cpu")
    loaders = [SoftLabelLoader(photos, store, 5 * M, device, views_per_image=M) for device in ("cuda", "cpu")]
    assert loaders[0].device.index is not None
    for _ in range(3):
        for found, wanted in zip(*loaders, strict=True):
            assert found.images.is_cuda and torch.equal(found.images.cpu(), wanted.images)
            assert found.images.is_contiguous(memory_format=torch.channels_last)
            assert found.labels is not None and wanted.labels is not None
            assert torch.equal(found.labels.codes.cpu(), wanted.labels.codes)
            assert found.targets.tolist() == wanted.targets.tolist() and found.ids.tolist() == wanted.ids.tolist()


def test_labels_of_a_forward_pass_are_the_encoded_logits(photos: Path) -> None:
    """Although nothing waits for them between the two; with the memory of the crops overwritten in between."""
    teacher, ids, device = make_teacher(), np.arange(64), torch.device("cuda")
    info = describe(teacher, Beton.open(photos), 2, device, 64)
    forward = TeacherForward(teacher, info, device)
    stage = torch.zeros((64, 16, 16, 3), dtype=torch.uint8, device=device)
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (9, 64, 16, 16, 3), dtype=torch.uint8, generator=generator)
    started = []
    for batch in crops:
        stage.copy_(batch)
        started.append(forward.start(stage, 64))
    for begun, batch in zip(started, crops, strict=True):
        found = forward.finish(begun, ids, 0)
        wanted = info.codec.encode(forward.logits(batch, 64))
        for name in ("classes", "codes", "tail"):
            assert getattr(found, name).tolist() == getattr(wanted, name).tolist()
