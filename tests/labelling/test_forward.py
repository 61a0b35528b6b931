"""The forward pass: canonical batches, precision, resizing, classes, ensembles, and a device without memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastlabel.errors import InputError, TeacherError
from fastlabel.images.loader import ImageBatch, ImageLoader
from fastlabel.labelling.forward import CanonicalBatches, TeacherForward
from fastlabel.labelling.unit import one_behind, try_labelling
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.topk import TopKLabels
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.store.manifest import TeacherInfo
from fastlabel.store.store import LabelStore
from fastlabel.teachers.ensemble import Ensemble
from fastlabel.teachers.labelling_network import LabellingNetwork, resized
from fastlabel.teachers.precision import PRECISIONS, check_precision, full_precision, teacher_precision
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import ViewPolicy
from tests.process_state import restored
from tests.stores import digests, make_teacher

CPU = torch.device("cpu")


def crops(count: int = 4, size: int = 16) -> Tensor:
    random = torch.Generator().manual_seed(8)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=random)


def info_of(teacher: Teacher, forward_batch: int = 4, k: int = 2) -> TeacherInfo:
    spec = teacher.model.spec
    return TeacherInfo(
        teacher.name,
        spec.arch,
        teacher.sha256,
        teacher.epoch,
        spec.size,
        spec.mean,
        spec.std,
        teacher.precision,
        teacher.tf32,
        "cpu",
        forward_batch,
        TopKCodec(k, teacher.num_classes),
    )


def forward(teacher: Teacher, forward_batch: int = 4) -> TeacherForward:
    return TeacherForward(teacher, info_of(teacher, forward_batch), CPU)


def logits(teacher: Teacher, size: int = 16) -> Tensor:
    with torch.inference_mode():
        return LabellingNetwork(teacher)(crops(size=size).permute(0, 3, 1, 2))


def normed_teacher(**options: object) -> Teacher:
    """A network with convolutions and batch norm, whose statistics are not those of its initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Classifier(ModelSpec("resnet18", 5, 32))
        model.train()(crops(8, 32).permute(0, 3, 1, 2))
    model.eval().requires_grad_(False)
    return Teacher(model, "normed", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 3, 3, 1], [4, 4, 2], [7, 3]])
def test_canonical_batches_are_the_same_whatever_was_decoded(sizes: list[int]) -> None:
    images = torch.arange(10 * 2 * 4 * 4 * 3).view(10, 2, 4, 4, 3).to(torch.uint8)
    ids, starts = np.arange(100, 110), np.cumsum([0, *sizes])
    batches = [ImageBatch(images=images[a:b], ids=ids[a:b]) for a, b in itertools.pairwise(starts)]
    found = [(stage.clone(), list(of), at) for stage, of, at in CanonicalBatches(2, 4, 4).regroup(batches)]
    assert [(of, at) for _, of, at in found] == [([*range(100, 104)], 0), ([*range(104, 108)], 4), ([108, 109], 8)]
    for stage, of, at in found:
        assert torch.equal(stage[:, : len(of)], images[at : at + 4].transpose(0, 1))
        assert not stage[:, len(of) :].any()


def test_labels_are_fetched_when_the_next_ones_have_begun() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    seen = []
    for number in one_behind(numbers()):
        seen.append((number, len(made)))
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]
    assert list(one_behind([])) == [] and list(one_behind([7])) == [7]


def test_an_error_of_a_teacher_stops_the_decoding_at_once(photos: Path) -> None:
    """Although the error, and all that it saw, is still held."""

    class NoNumbers(nn.Module):
        spec = make_teacher().model.spec

        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 3), torch.nan)

    images = ImageLoader(photos, ViewPolicy.center(16), 2)
    broken = replace(make_teacher(), model=NoNumbers())  # type: ignore[arg-type]
    with pytest.raises(
        TeacherError, match=r"NaN, \+inf or all -inf for 4 crops of view 0: samples 0, 1, 2, 3"
    ) as raised:
        list(try_labelling(images, [forward(broken)], np.tile(np.arange(12), 9), range(1)))
    assert raised.tb is not None
    assert not [thread for thread in threading.enumerate() if thread.name == "fastlabel-images"]


@pytest.mark.slow
def test_reduced_precision_differs_and_repeats_itself() -> None:
    found = {precision: logits(normed_teacher(precision=precision), 32) for precision in PRECISIONS}
    for precision, values in found.items():
        assert values.dtype == torch.float32
        assert torch.equal(values, logits(normed_teacher(precision=precision), 32))
    assert not torch.equal(found["fp32"], found["bf16"]) and not torch.equal(found["fp16"], found["bf16"])
    assert (found["fp32"] - found["bf16"]).abs().max() < 0.2
    assert (found["fp32"] - found["fp16"]).abs().max() < 0.02


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_the_program_around_it_does_changes_nothing(precision: str) -> None:
    teacher = normed_teacher(precision=precision)
    wanted = logits(teacher, 32)
    with restored():
        torch.set_float32_matmul_precision("medium")
        for enabled in (True, False):
            with torch.autocast("cpu", dtype=torch.float16, enabled=enabled):
                assert torch.equal(logits(teacher, 32), wanted)
        assert torch.get_float32_matmul_precision() == "medium"


def test_settings_inside_and_after() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.deterministic)
    for tf32, name in ((True, "tf32"), (False, "ieee")):
        with pytest.raises(ZeroDivisionError), teacher_precision("cpu", "bf16", tf32):
            assert (matmul.fp32_precision, cudnn.conv.fp32_precision) == (name, name)
            assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
            assert matmul.allow_bf16_reduced_precision_reduction is False
            assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
            with full_precision("cpu"):
                assert matmul.fp32_precision == "ieee" and not torch.is_autocast_enabled("cpu")
            _ = 1 / 0
    assert before == (matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.deterministic)
    assert not torch.is_autocast_enabled("cpu")


def test_precisions_that_cannot_be_had() -> None:
    with pytest.raises(InputError, match="unknown precision 'int8': known are fp32, bf16, fp16"):
        check_precision("int8", False, "cpu")
    with pytest.raises(InputError, match="TF32 is a mode of CUDA devices"):
        check_precision("fp32", True, "cpu")
    check_precision("fp32", True, "cuda")


def test_bf16_labels_differ_from_fp32_and_are_the_same_again(make_store: Callable[..., Path]) -> None:
    teacher = make_teacher()
    stores = {
        name: make_store(name, k=3, teachers=[replace(teacher, precision=name[:4])])
        for name in ("fp32", "bf16", "bf16-again")
    }
    assert LabelStore.open(stores["bf16"]).manifest.teachers[0].precision == "bf16"
    assert digests(stores["bf16"]) == digests(stores["bf16-again"]) != digests(stores["fp32"])
    full, half = (LabelStore.open(stores[name]).plane(0)[np.arange(12)].dense() for name in ("fp32", "bf16"))
    assert not torch.equal(full, half) and (full - half).abs().max() < 0.1


def test_views_of_another_size_are_resized_for_the_teacher(make_store: Callable[..., Path]) -> None:
    teacher, images = make_teacher(size=16), crops(size=24).permute(0, 3, 1, 2)
    wanted = teacher.model(F.interpolate(images.float(), (16, 16), mode="bilinear", antialias=True))
    assert torch.equal(logits(teacher, 24), wanted)
    assert torch.equal(logits(teacher, 16), teacher.model(crops().permute(0, 3, 1, 2)))
    manifest = LabelStore.open(make_store(size=24)).manifest
    (info,) = manifest.teachers
    assert (manifest.views.size, info.size, info.resize) == (24, 16, "bilinear-antialias")


@pytest.mark.parametrize(("size", "to"), [(41, 16), (16, 41), (9, 8)])
def test_resizing_keeps_a_flat_image_and_the_mean_of_a_ramp(size: int, to: int) -> None:
    flat = torch.full((1, 3, size, size), 200, dtype=torch.uint8)
    torch.testing.assert_close(resized(flat, to), torch.full((1, 3, to, to), 200.0))
    ramp = torch.linspace(0, 255, size).expand(1, 3, size, size)
    assert abs(float(resized(ramp, to).mean()) - 127.5) < 0.5
    assert resized(flat, size) is flat


def test_a_class_map_chooses_the_columns() -> None:
    teacher = normed_teacher()
    mapped = replace(teacher, class_map=(4, 0, 2))
    assert (mapped.num_classes, teacher.num_classes) == (3, 5)
    assert torch.equal(logits(mapped, 32), logits(teacher, 32)[:, [4, 0, 2]])
    kept = replace(mapped, keeps_classes=True)
    assert kept.num_classes == 5 and torch.equal(logits(kept, 32), logits(teacher, 32))


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_network_of_one_batch_size_takes_any_number_in_such_batches(count: int) -> None:
    class Fixed(nn.Module):
        def __init__(self, teacher: Teacher) -> None:
            super().__init__()
            self.inner, self.spec, self.seen = teacher.model, teacher.model.spec, []

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(len(images))
            return self.inner(images)

    teacher = make_teacher()
    fixed = Fixed(teacher)
    images = crops(count).permute(0, 3, 1, 2)
    found = LabellingNetwork(replace(teacher, model=fixed, fixed_batch=3))(images)  # type: ignore[arg-type]
    assert set(fixed.seen) == {3} and len(fixed.seen) == -(-count // 3)
    torch.testing.assert_close(found, teacher.model(images), atol=1e-5, rtol=1e-5)


def test_ensembles_are_what_they_say() -> None:
    members = [make_teacher(seed=seed) for seed in range(3)]
    networks, images = [LabellingNetwork(member) for member in members], crops().permute(0, 3, 1, 2)
    alone = torch.stack([member.model(images) for member in members]).double()
    mean_logits = Ensemble("mean-logits", networks, 3, 16)(images)
    torch.testing.assert_close(mean_logits.double(), alone.mean(0), atol=1e-5, rtol=1e-5)
    mean_probs = Ensemble("mean-probs", networks, 3, 16)(images)
    torch.testing.assert_close(mean_probs.double().exp(), alone.softmax(2).mean(0), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(mean_logits.softmax(1), mean_probs.softmax(1), atol=1e-3)
    with pytest.raises(InputError, match="unknown ensemble 'vote'"):
        Ensemble("vote", networks, 3, 16)


def test_a_mean_of_probabilities_of_sure_teachers_stays_finite() -> None:
    class Sure(nn.Module):
        def __init__(self, top: int) -> None:
            super().__init__()
            self.top = top

        def forward(self, images: Tensor) -> Tensor:
            return 400.0 * F.one_hot(torch.full((len(images),), self.top), 3)

    found = Ensemble("mean-probs", [Sure(0), Sure(1)], 3, 16)(crops().permute(0, 3, 1, 2))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.softmax(1)[0], torch.tensor([0.5, 0.5, 0.0]))


class Ends(nn.Module):
    """A teacher whose logits are changed in its last layer."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.spec, self.change = make_teacher().model, make_teacher().model.spec, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.inner(images))


@pytest.mark.fault("11.4 a program that ends in softmax, or gives integers")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda logits: logits.softmax(1),
            "expert gives probabilities, from 0 to 1 and of sum 1, not logits",
        ),
        (lambda logits: logits.to(torch.bfloat16).softmax(1), "expert gives probabilities"),
        (lambda logits: logits.round().long(), "expert gives logits of type torch.int64, expected floats"),
    ],
)
def test_what_are_no_logits(change: Callable[[Tensor], Tensor], message: str, precision: str) -> None:
    with pytest.raises(TeacherError, match=message):
        logits(replace(make_teacher(), model=Ends(change), precision=precision))  # type: ignore[arg-type]


def test_logarithms_of_probabilities_are_logits() -> None:
    found = logits(replace(make_teacher(), model=Ends(lambda logits: logits.log_softmax(1))))  # type: ignore[arg-type]
    assert torch.allclose(found.exp().sum(1), torch.ones(4))


class OutOfMemory(nn.Module):
    """A teacher whose device has no memory for its first `times` forward passes."""

    def __init__(self, teacher: Teacher, times: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.spec, self.left, self.error = teacher.model, teacher.model.spec, times, error

    def forward(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return self.inner(images)


def short(times: int = 99, error: Exception | None = None) -> Teacher:
    teacher = make_teacher()
    model = OutOfMemory(teacher, times, error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    return replace(teacher, model=model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_names_the_flag_and_a_value(error: Exception) -> None:
    with pytest.raises(TeacherError) as raised:
        forward(short(error=error), 64).logits(crops(64), 64)
    reason = "" if isinstance(error, torch.OutOfMemoryError) else f" ({error})"
    assert str(raised.value) == (
        f"teacher expert runs out of memory (cpu) in a forward pass of 64 images of 16 pixels{reason}: "
        "give --forward-batch 32; "
        "it is part of what a label is, so a store that was begun with 64 cannot go on with it: choose another path, "
        "or remove that store"
    )


def test_out_of_memory_with_a_single_image() -> None:
    with pytest.raises(TeacherError, match="no smaller batch is left: give --precision bf16, or a device with more"):
        forward(short(), 1).logits(crops(1), 1)


def test_another_error_is_no_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        forward(short(error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))).logits(crops(), 4)


def test_out_of_memory_stores_nothing(make_store: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="give --forward-batch 2;"):
        make_store(teachers=[short()])
    assert not list((tmp_path / "labels.zarr").glob("0/units/*/zarr.json"))


class FailedAllocations:
    """Counts, as a CUDA allocator does, what found no memory; `hidden` more in each pass, of which no error tells."""

    def __init__(self, hidden: int) -> None:
        self.hidden, self.count = hidden, 0

    def __call__(self, device: torch.device) -> int:
        return self.count

    def teacher(self) -> Teacher:
        teacher = make_teacher()
        teacher.model.register_forward_pre_hook(lambda module, images: setattr(self, "count", self.count + self.hidden))
        return teacher


@pytest.mark.fault("17.B4 labels change bits where memory runs short")
def test_memory_that_ran_short_in_silence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where cuDNN takes another algorithm, since the workspace of the first one did not fit."""
    for hidden in (0, 1):
        allocations = FailedAllocations(hidden)
        monkeypatch.setattr("fastlabel.labelling.forward.failed_allocations", allocations)
        labelling = forward(allocations.teacher())
        if hidden:
            with pytest.raises(TeacherError, match=r"runs out of memory .*: give --forward-batch 2"):
                labelling.logits(crops(), 4)
        else:
            assert labelling.logits(crops(), 4).shape == (4, 3)


@pytest.mark.gpu
def test_a_lack_that_passes_is_tried_once_more() -> None:
    device = torch.device("cuda")
    wanted = TeacherForward(make_teacher(), info_of(make_teacher()), device).logits(crops(), 4)
    once = short(times=1)
    assert torch.equal(TeacherForward(once, info_of(once), device).logits(crops(), 4), wanted)
    with pytest.raises(TeacherError, match=r"out of memory \(cuda\)"):
        TeacherForward(short(times=2), info_of(once), device).logits(crops(), 4)


def test_fp16_that_overflows_says_what_to_try() -> None:
    class Large(nn.Module):
        def __init__(self, teacher: Teacher) -> None:
            super().__init__()
            self.net, self.spec = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), teacher.model.spec
            self.net[1].weight.data[:] = 1.0

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images.float())

    teacher = make_teacher()
    large = replace(teacher, model=Large(teacher), precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match=r"all -inf for 4 crops of view 7: samples 0, 1, 2, 3; .*bf16"):
        forward(large).labels(crops(), np.arange(4), 7)
    found: TopKLabels = forward(replace(large, precision="bf16")).labels(crops(), np.arange(4), 7)
    assert len(found) == 4
