"""soft_cross_entropy equals cross-entropy against a dense float64 target, in value and gradient, on every backend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastlabel.kernels.decode_topk import decode_topk
from fastlabel.kernels.encode_topk import encode_topk
from fastlabel.kernels.label_format import widen
from fastlabel.kernels.soft_cross_entropy import Labels, Target, cpu, soft_cross_entropy, soft_cross_entropy_reference
from fastlabel.kernels.soft_cross_entropy.op import (
    _flatten,
    soft_cross_entropy_backward,
    soft_cross_entropy_forward,
)
from fastlabel.kernels.soft_cross_entropy.reference import soft_cross_entropy_backward_reference

KINDS = ["gaussian", "extreme", "equal", "flat", "confident", "lonely", "ties", "holes"]
STUDENTS = ["gaussian", "extreme", "confident", "flat", "equal", "lonely"]

# Relative to the loss, or absolute where it is small; of the gradient, relative to its factor. A target's weights are
# float32 in the oracle, hence 1e-6 for float64.
LOSS_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
GRADIENT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.fixture(autouse=True)
def nan_in_new_tensors() -> Iterator[None]:
    """torch fills what torch.empty gives with NaN, so that an element that a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def dense_of(labels: Labels, C: int, temperature: float) -> Tensor:
    """The labels' weights, float64 [B, C], row by row."""
    if labels.coded:
        dense = decode_topk(labels.classes, labels.weights, labels.rest, C, temperature).double()
        return dense if labels.rows is None else dense[labels.rows]
    dense = labels.rest.double()[:, None].repeat(1, C)
    for row, classes, weights in zip(dense, labels.classes.tolist(), labels.weights.tolist(), strict=True):
        for c, weight in zip(classes, weights, strict=True):
            if c >= 0:
                row[c] = weight
    return dense if labels.rows is None else dense[labels.rows]


def dense_target(target: Target, C: int) -> Tensor:
    dense = dense_of(target.labels, C, target.temperature)
    if target.second is not None:
        mix = target.mix.double()[:, None]
        dense = mix * dense + (1 - mix) * dense_of(target.second, C, target.temperature)
    if target.hard is not None:
        weight = target.hard_weight.double()[:, None]
        dense = (1 - weight) * dense + weight * torch.nn.functional.one_hot(target.hard, C)
    return dense


def oracle(logits: Tensor, dense: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Losses [B] and their gradient [B, C] by the formulas, in float64."""
    log_probs = torch.log_softmax(logits.double() / temperature, dim=1)
    loss = -torch.where(dense == 0, 0, dense * log_probs).sum(1)
    return loss, (dense.sum(1, keepdim=True) * log_probs.exp() - dense) / temperature


def make_labels(
    make_logits, form: str, kind: str, B: int, C: int, k: int, seed: int, plane: int | None = None
) -> Labels:
    """Labels of one form; with `plane`, of so many rows, and in random order."""
    rows = None if plane is None else torch.randint(plane, (B,), generator=torch.Generator().manual_seed(seed))
    classes, codes, tail = encode_topk(make_logits(kind, B if plane is None else plane, C, seed), k)
    if form == "coded":
        return Labels(classes, codes, tail, rows)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(classes.shape, generator=generator) / k
    # Empty places, and listed classes without weight, in the middle of the others.
    fate = torch.rand(classes.shape, generator=generator)
    weights = torch.where(fate < 0.4, 0, weights)
    classes = torch.where(fate < 0.2, -1, widen(classes).to(torch.int32))
    rest = torch.rand(len(classes), generator=generator) / C
    rest[::3] = 0
    return Labels(classes, weights, rest, rows)


@st.composite
def problems(draw, shapes: st.SearchStrategy[tuple[int, int]], forms: tuple[str, ...] = ("coded", "weighted")):
    """Arguments for `make_problem`: any combination of components."""
    B, C = draw(shapes)
    part = draw(st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)))
    return {
        "B": B,
        "C": C,
        "k": 1 + int(part * (C - 1)),
        "form": draw(st.sampled_from(forms)),
        "kind": draw(st.sampled_from(KINDS)),
        "student": draw(st.sampled_from(STUDENTS)),
        "plane": draw(st.sampled_from([None, 1, 50])),
        "second": draw(st.booleans()),
        "hard": draw(st.booleans()),
        "label_temperature": draw(st.floats(0.2, 20) | st.just(1.0)),
        "student_temperature": draw(st.floats(0.2, 20) | st.just(1.0)),
        "seed": draw(st.integers(0, 1000)),
    }


def make_problem(make_logits, p) -> tuple[Tensor, Target, float]:
    """float32 logits, target and student temperature."""
    generator = torch.Generator().manual_seed(p["seed"])
    B, C = p["B"], p["C"]
    labels = make_labels(make_logits, p["form"], p["kind"], B, C, p["k"], p["seed"], p["plane"])
    second = mix = hard = weight = None
    if p["second"]:
        second = make_labels(make_logits, p["form"], "gaussian", B, C, max(1, p["k"] // 2), p["seed"] + 1)
        if p["plane"]:  # as Mixup does it: the same plane, other rows
            second = Labels(*labels[:3], labels.rows.flip(0))
        mix = torch.rand(B, generator=generator).round(decimals=1)
    if p["hard"]:
        hard = torch.randint(C, (B,), generator=generator)
        weight = torch.rand(B, generator=generator).round(decimals=1)
    temperature = p["label_temperature"] if p["form"] == "coded" else 1.0
    logits = make_logits(p["student"], B, C, p["seed"] + 2)
    return logits, Target(labels, temperature, second, mix, hard, weight), p["student_temperature"]


def assert_near(loss, gradient, logits, target, temperature, factor=None, slack=1):
    """Loss and gradient, times a factor [B], equal the oracle's within the tolerances of the logits' dtype."""
    expected, expected_gradient = oracle(logits, dense_target(target, logits.shape[1]), temperature)
    tolerance = LOSS_TOLERANCE[logits.dtype]
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    assert gradient.dtype == logits.dtype
    tolerance = GRADIENT_TOLERANCE[logits.dtype] * slack
    factor = torch.ones_like(expected) if factor is None else factor.double()
    scaled = gradient.double() / factor[:, None] * temperature
    torch.testing.assert_close(scaled, expected_gradient * temperature, rtol=tolerance, atol=tolerance)


SHAPES = st.tuples(st.sampled_from([1, 2, 41]), st.sampled_from([2, 10, 401, 1271]))
SMALL = st.tuples(st.sampled_from([1, 3]), st.sampled_from([2, 41, 401]))
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(p=problems(SHAPES), dtype=DTYPES)
def test_cpu_equals_the_dense_loss(make_logits, p, dtype):
    logits, target, temperature = make_problem(make_logits, p)
    logits = logits.to(dtype).requires_grad_()
    loss = soft_cross_entropy(logits, target, temperature, "none")
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    factor = torch.linspace(0.5, 2, p["B"]).to(loss.dtype)
    (gradient,) = torch.autograd.grad(loss, logits, factor)
    assert_near(loss, gradient, logits.detach(), target, temperature, factor)


@settings(deadline=None, max_examples=60)
@given(p=problems(SMALL))
def test_the_reference_equals_the_dense_loss(make_logits, p):
    logits, target, temperature = make_problem(make_logits, p)
    logits = logits.double().requires_grad_()
    loss = soft_cross_entropy_reference(logits, target, temperature)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert_near(loss, gradient, logits.detach(), target, temperature)
    closed = soft_cross_entropy_backward_reference(torch.ones_like(loss), logits, target, temperature)
    torch.testing.assert_close(closed, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow) encountered")
@settings(deadline=None, max_examples=25)
@given(p=problems(SMALL), dtype=DTYPES, lanes=st.sampled_from([32, 128]), steps=st.sampled_from([1, 3]))
def test_triton_equals_the_dense_loss(make_logits, p, dtype, lanes, steps):
    from tests.kernels import triton_loss as triton

    logits, target, temperature = make_problem(make_logits, p)
    logits = logits.to(dtype)
    if not triton.can_run(target):
        return
    launch = triton.Launch(lanes, 1, steps)
    loss, stats = triton.forward(logits, target, temperature, launch)
    factor = torch.linspace(0.5, 2, p["B"]).to(loss.dtype)
    gradient = triton.backward(factor, logits, stats, temperature, launch=launch)
    # The interpreter truncates to bfloat16, which a GPU rounds: twice the error.
    slack = 2 if dtype == torch.bfloat16 else 1
    assert_near(loss, gradient, logits, target, temperature, factor, slack)


@pytest.mark.triton
@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow) encountered")
@pytest.mark.slow
@pytest.mark.fault("17.B7 float64 temperatures reached the kernel as float32")
def test_triton_computes_in_float64_throughout(make_logits):
    from tests.kernels import triton_loss as triton

    target = Target(make_labels(make_logits, "coded", "gaussian", 3, 41, 7, 0), 1.7)
    logits = make_logits("gaussian", 3, 41, 1).double()
    loss, stats = triton.forward(logits, target, 2.3)
    expected, expected_stats = cpu.forward(logits, target, 2.3)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    gradient = triton.backward(torch.ones_like(loss), logits, stats, 2.3)
    expected = cpu.backward(torch.ones_like(loss), logits, expected_stats, target, 2.3)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.triton
@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow) encountered")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("C", [3, 7, 9, 15, 16, 17, 24, 33, 515])
def test_triton_reads_rows_that_start_anywhere(make_logits, C, dtype):
    """Rows whose first and last logits share 16 bytes with their neighbours; logits that are a part of a tensor."""
    from tests.kernels import triton_loss as triton

    target = Target(make_labels(make_logits, "coded", "gaussian", 9, C, 3, 0))
    whole = make_logits("gaussian", 1, 9 * C + 3, 1).to(dtype)[0]
    logits = whole[3:].view(9, C)
    loss, stats = triton.forward(logits, target, 1.0, triton.Launch(32, 1))
    gradient = triton.backward(torch.ones_like(loss), logits, stats, 1.0, launch=triton.Launch(32, 1))
    assert_near(loss, gradient, logits, target, 1.0, slack=2 if dtype == torch.bfloat16 else 1)


@pytest.mark.slow
@pytest.mark.fault("17.B5 two long labels spilled registers")
def test_triton_compiles_for_a_gpu_that_is_not_here():
    command = [sys.executable, "-m", "tests.kernels.compile_triton", "90"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and "compiled" in done.stdout, done.stderr


@pytest.mark.parametrize("form", ["coded", "weighted"])
def test_gradcheck(make_logits, form):
    p = {"B": 3, "C": 7, "k": 3, "form": form, "kind": "gaussian", "student": "gaussian", "plane": 4, "second": True}
    p |= {"hard": True, "label_temperature": 2.0, "student_temperature": 1.5, "seed": 0}
    logits, target, temperature = make_problem(make_logits, p)
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy_reference(x, target, temperature), logits)
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(x, target, temperature, "none"), logits)


def test_above_65536_classes(make_logits):
    labels = make_labels(make_logits, "coded", "gaussian", 2, 70001, 5, 0)
    assert labels.classes.dtype == torch.uint32
    logits = make_logits("gaussian", 2, 70001, 1)
    loss, stats = cpu.forward(logits, Target(labels), 1.0)
    gradient = cpu.backward(torch.ones(2), logits, stats, Target(labels), 1.0)
    assert_near(loss, gradient, logits, Target(labels), 1.0)


@settings(deadline=None, max_examples=60)
@given(p=problems(SMALL))
def test_kl_is_less_by_the_entropy(make_logits, p):
    logits, target, temperature = make_problem(make_logits, p)
    dense = dense_target(target, p["C"])
    expected = oracle(logits, dense, temperature)[0] + torch.xlogy(dense, dense).sum(1)
    kl = soft_cross_entropy(logits, target, temperature, "none", divergence="kl")
    torch.testing.assert_close(kl.double(), expected, rtol=1e-5, atol=1e-5)


def test_kl_of_a_student_that_matches_is_zero(make_logits):
    target = Target(make_labels(make_logits, "coded", "gaussian", 41, 401, 16, 0), 2.0)
    logits = dense_target(target, 401).log() * 3
    kl = soft_cross_entropy(logits, target, 3.0, "none", divergence="kl")
    torch.testing.assert_close(kl, torch.zeros_like(kl), rtol=0, atol=1e-6)


def test_reductions_and_temperature_squared(make_logits):
    target = Target(make_labels(make_logits, "coded", "gaussian", 41, 401, 16, 0), 4.0)
    logits = make_logits("gaussian", 41, 401, 1)
    each = soft_cross_entropy(logits, target, 4.0, "none")
    torch.testing.assert_close(soft_cross_entropy(logits, target, 4.0), each.mean())
    torch.testing.assert_close(soft_cross_entropy(logits, target, 4.0, "sum"), each.sum())
    squared = soft_cross_entropy(logits, target, 4.0, "none", temperature_squared=True)
    torch.testing.assert_close(squared, each * 16)


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min, -1e30])
def test_a_probability_of_zero_asks_nothing(low):
    teacher = torch.tensor([[0.0, -torch.inf, -torch.inf, 1.0], [-torch.inf, -torch.inf, 2.0, -torch.inf]])
    student = torch.tensor([[0.0, low, low, 1.0], [low, low, 2.0, low]], requires_grad=True)
    for k in (2, 3, 4):  # the classes at zero: all in the tail, one kept, all kept
        loss = soft_cross_entropy(student, Target(Labels(*encode_topk(teacher, k))), reduction="none")
        torch.testing.assert_close(loss, torch.tensor([0.5822, 0.0]), atol=1e-4, rtol=0)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        torch.testing.assert_close(gradient, torch.zeros(2, 4), atol=1e-2, rtol=0)


# In Triton's interpreter infinite gaps go through NumPy.
numpy_is_quiet = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow) encountered")


def backends():
    """Functions (logits, target) -> losses, gradient of their sum."""
    from tests.kernels import triton_loss as triton

    def run(backend, logits, target):
        loss, stats = backend.forward(logits, target, 1.0)
        arguments = (target, 1.0) if backend is cpu else (1.0,)
        return loss, backend.backward(torch.ones_like(loss), logits, stats, *arguments)

    return {"cpu": lambda *a: run(cpu, *a), "triton": lambda *a: run(triton, *a)}


@numpy_is_quiet
@pytest.mark.parametrize("backend", ["cpu", pytest.param("triton", marks=pytest.mark.triton)])
@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min, -1e30, -1e9, -3e4])
def test_a_low_listed_logit_does_not_cancel_the_rest(backend, low):
    # Class 0 is listed without weight: the others' sum is all less this one, which is much larger.
    weighted = Labels(torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor([[0.0, 0.3]]), torch.tensor([0.01]))
    logits = torch.linspace(-3, 3, 72)[None].clone()
    logits[0, 0] = low
    loss, gradient = backends()[backend](logits, Target(weighted))
    assert_near(loss, gradient, logits, Target(weighted), 1.0)
    coded = Labels(*encode_topk(torch.tensor([[3.0, 2.0, 0.0, 0.0]]), 2))
    if low > -torch.inf:
        logits = torch.tensor([[max(low, -1e9), 5.0, 1.0, 2.0]])
        loss, gradient = backends()[backend](logits, Target(coded))
        assert_near(loss, gradient, logits, Target(coded), 1.0)


@numpy_is_quiet
@pytest.mark.parametrize("backend", ["cpu", pytest.param("triton", marks=pytest.mark.triton)])
def test_a_weight_on_an_impossible_class_costs_infinity(backend):
    coded = Labels(*encode_topk(torch.tensor([[3.0, 2.0, 0.0, 0.0]] * 3), 2))
    logits = torch.tensor([[-torch.inf, 5.0, 1.0, 2.0], [0.0, 1.0, -torch.inf, 2.0], [0.0, 1.0, 2.0, 3.0]])
    loss, gradient = backends()[backend](logits, Target(coded))
    assert loss.tolist()[:2] == [torch.inf] * 2 and loss[2].isfinite()
    expected = soft_cross_entropy_backward_reference(torch.ones(3), logits.double(), Target(coded))
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)
    # Shares of zero ask nothing, not even of these.
    zero = Target(coded, 1.0, coded, torch.zeros(3), torch.tensor([2, 0, 1]), torch.ones(3))
    loss, _ = backends()[backend](logits, zero)
    torch.testing.assert_close(loss.double(), oracle(logits, dense_target(zero, 4), 1.0)[0], rtol=1e-5, atol=1e-5)


@numpy_is_quiet
@pytest.mark.parametrize("backend", ["cpu", pytest.param("triton", marks=pytest.mark.triton)])
@pytest.mark.parametrize("row", [[0.0, torch.nan, 1.0, 2.0], [-torch.inf] * 4, [0.0, torch.inf, 1.0, 2.0]])
def test_what_is_no_distribution_gives_nan(backend, row):
    labels = Labels(*encode_topk(torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 2), 2))
    loss, gradient = backends()[backend](torch.tensor([row, [0.0, 1.0, 2.0, 3.0]]), Target(labels))
    assert loss[0].isnan() and gradient[0].isnan().any()
    assert loss[1].isfinite() and gradient[1].isfinite().all()


@pytest.mark.parametrize("low", [-1e38, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gaps_whose_sum_exceeds_float32(low, dtype):
    logits = torch.zeros(1, 10, dtype=dtype)
    logits[0, 3:] = max(low, torch.finfo(dtype).min)
    target = Target(Labels(torch.tensor([[0]], dtype=torch.int32), torch.tensor([[1.0]]), torch.tensor([1e-30])))
    expected = oracle(logits, dense_target(target, 10), 1.0)[0]
    loss = soft_cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_a_class_listed_twice_does_not_change_the_second_label():
    twice = Labels(torch.tensor([[2, 2]], dtype=torch.int32), torch.tensor([[0.5, 0.5]]), torch.zeros(1))
    once = Labels(torch.tensor([[2]], dtype=torch.int32), torch.tensor([[1.0]]), torch.zeros(1))
    logits = torch.linspace(3, -3, 10)[None]
    loss = soft_cross_entropy(logits, Target(twice, 1.0, once, torch.zeros(1)))
    torch.testing.assert_close(loss, soft_cross_entropy(logits, Target(once)), rtol=1e-6, atol=0)


def test_an_empty_batch():
    labels = Labels(*encode_topk(torch.zeros(0, 10), 4))
    logits = torch.zeros(0, 10, requires_grad=True)
    loss = soft_cross_entropy(logits, Target(labels), reduction="none")
    assert loss.shape == (0,)
    assert soft_cross_entropy(logits, Target(labels), reduction="sum") == 0
    loss.sum().backward()
    assert logits.grad.shape == (0, 10)


def test_logits_and_gradients_of_any_stride(make_logits):
    labels = make_labels(make_logits, "coded", "gaussian", 41, 401, 16, 0)
    logits = make_logits("gaussian", 41, 802, 1)[:, ::2].requires_grad_()
    loss = soft_cross_entropy(logits, Target(labels), reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert_near(loss, gradient, logits.detach(), Target(labels), 1.0)


def problem(make_logits, **changes) -> tuple[Tensor, Target, float]:
    p = {"B": 5, "C": 41, "k": 6, "form": "coded", "kind": "gaussian", "student": "gaussian", "plane": None}
    p |= {"second": False, "hard": False, "label_temperature": 2.0, "student_temperature": 1.5, "seed": 0}
    return make_problem(make_logits, p | changes)


VARIANTS = [
    {},
    {"form": "weighted", "label_temperature": 1.0},
    {"plane": 7, "second": True, "hard": True},
    {"form": "weighted", "label_temperature": 1.0, "second": True, "hard": True},
]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck itself reads it
@pytest.mark.parametrize("changes", VARIANTS)
def test_opcheck(make_logits, changes):
    torch.use_deterministic_algorithms(False)
    logits, target, temperature = problem(make_logits, **changes)
    for dtype in (torch.float32, torch.bfloat16):
        x = logits.to(dtype).requires_grad_()
        torch.library.opcheck(soft_cross_entropy_forward, (x, *_flatten(target, temperature)))
        loss, stats = soft_cross_entropy_forward(x.detach(), *_flatten(target, temperature))
        tests = ("test_schema", "test_faketensor")
        arguments = (loss, stats, x.detach(), *_flatten(target, temperature))
        torch.library.opcheck(soft_cross_entropy_backward, arguments, test_utils=tests)


def test_there_is_no_second_derivative(make_logits):
    logits, target, temperature = problem(make_logits)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_cross_entropy(logits, target, temperature), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()


def test_ids_out_of_range_on_the_cpu(make_logits):
    logits, target, _ = problem(make_logits, plane=7, second=True, hard=True)
    with pytest.raises(ValueError, match="2 rows are outside of the labels they point to; the plane has 7"):
        rows = target.labels.rows.clone()
        rows[:2] = torch.tensor([-1, 7])
        soft_cross_entropy(logits, target._replace(labels=target.labels._replace(rows=rows)))
    with pytest.raises(ValueError, match="1 targets are outside of 0 to 40"):
        soft_cross_entropy(logits, target._replace(hard=torch.tensor([0, 1, 2, 3, 41])))
    for form, dtype in (("coded", torch.uint16), ("weighted", torch.int32)):
        classes = torch.full((5, 6), 41).to(dtype)
        logits, target, _ = problem(make_logits, form=form, label_temperature=1.0)
        with pytest.raises(ValueError, match="30 class ids are 41 or more; the labels are damaged"):
            soft_cross_entropy(logits, target._replace(labels=target.labels._replace(classes=classes)))


@pytest.mark.parametrize("bad", [[0], [255], [3, 100, 200]])
def test_ids_out_of_range_are_counted_over_all_threads(make_logits, bad):
    B, C = 256, 1000  # several parts, which are reduced
    logits, labels = make_logits("gaussian", B, C, 0), make_labels(make_logits, "coded", "gaussian", B, C, 8, 1)
    hard, rows, classes = torch.zeros(B).long(), torch.arange(B), widen(labels.classes)
    hard[bad], rows[bad], classes[bad, 2] = C, B, C
    classes = classes.to(torch.uint16)
    for message, target in (
        ("targets are outside", Target(labels, 1.0, None, None, hard, torch.full((B,), 0.5))),
        ("rows are outside", Target(labels._replace(rows=rows))),
        ("class ids are 1000 or more", Target(labels._replace(classes=classes))),
        ("class ids are 1000 or more", Target(labels, 1.0, labels._replace(classes=classes), torch.zeros(B))),
    ):
        with pytest.raises(ValueError, match=f"^{len(bad)} {message}"):
            soft_cross_entropy(logits, target)


TENSORS = ["hard", "hard_weight", "mix", "rows", "classes", "codes", "tail", "second rows"]


@pytest.mark.parametrize("name", TENSORS)
def test_changes_between_forward_and_backward_are_refused(make_logits, name):
    logits, target, temperature = problem(make_logits, plane=7, second=True, hard=True)
    labels = target.labels
    changed = {"hard": target.hard, "hard_weight": target.hard_weight, "mix": target.mix, "rows": labels.rows}
    changed |= {"classes": labels.classes, "codes": labels.weights, "tail": labels.rest}
    changed |= {"second rows": target.second.rows}
    loss = soft_cross_entropy(logits.requires_grad_(), target, temperature)
    changed[name].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("form", ["coded", "weighted"])
def test_backward_on_the_cpu_stays_within_bounds(make_logits, form):
    """Values that changed where autograd cannot see it, as in NumPy: NaN in those rows, and the others as before."""
    logits, target, T = problem(make_logits, plane=7, second=True, hard=True, form=form, label_temperature=1.0)
    rows = torch.arange(5)
    second = Labels(*(tensor.clone() for tensor in target.labels[:3]), rows.clone())
    target = target._replace(labels=target.labels._replace(rows=rows.clone()), second=second)
    factor, (_, stats) = torch.ones(5), cpu.forward(logits, target, T)
    expected = cpu.backward(factor, logits, stats, target, T)
    target.hard[0] = 1 << 40
    target.labels.rows[1], target.second.rows[2] = -1, 1 << 40
    second.classes.view(torch.int16 if form == "coded" else torch.int32)[3, 2] = 1 << 14 if form == "coded" else -5
    gradient = cpu.backward(factor, logits, stats, target, T)
    assert gradient[:4].isnan().all()
    assert torch.equal(gradient[4], expected[4])


@pytest.mark.triton
@pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow) encountered")
@pytest.mark.parametrize("label_temperature", [1e-46, 1e-30, 1e39])
def test_extreme_label_temperatures_in_triton(make_logits, label_temperature):
    from tests.kernels import triton_loss as triton

    labels, logits = make_labels(make_logits, "coded", "gaussian", 3, 10, 4, 0), make_logits("gaussian", 3, 10, 1)
    target = Target(labels, label_temperature)
    expected, _ = cpu.forward(logits.double(), target, 1.0)
    for x in (logits, logits.double()):
        loss, _ = triton.forward(x, target, 1.0)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.triton
@pytest.mark.parametrize("wrong", [0xFFFFFFFF, 1 << 31, 70001])
def test_ids_of_32_bits_out_of_range(make_logits, wrong):
    from tests.kernels import triton_loss as triton

    labels = make_labels(make_logits, "coded", "gaussian", 2, 70001, 3, 0)
    labels.classes.view(torch.int32)[0, 1] = wrong - (1 << 32 if wrong >= 1 << 31 else 0)
    logits = make_logits("gaussian", 2, 70001, 1)
    loss, _ = triton.forward(logits, Target(labels), 1.0)
    assert loss.isnan().tolist() == [True, False]
    assert soft_cross_entropy_reference(logits, Target(labels)).isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match="1 class ids are 70001 or more"):
        cpu.forward(logits, Target(labels), 1.0)


def test_what_triton_holds():
    from tests.kernels import triton_loss as triton

    def listing(k):
        return Labels(torch.full((1, k), -1, dtype=torch.int32), torch.zeros(1, k), torch.zeros(1))

    for first, second, fits in (
        (1, 9000, False),
        (9000, 1, False),
        (128, 128, True),
        (128, 129, False),
        (1, 1024, True),
    ):
        assert triton.can_run(Target(listing(first), 1.0, listing(second), torch.ones(1))) == fits
    assert triton.can_run(Target(listing(1024))) and not triton.can_run(Target(listing(1025)))


@pytest.mark.parametrize("backend", [pytest.param("triton", marks=pytest.mark.triton), "reference"])
def test_ids_out_of_range_elsewhere_give_nan(make_logits, backend):
    from tests.kernels import triton_loss as triton

    def run(logits, target):
        if backend == "reference":
            return soft_cross_entropy_reference(logits, target)
        return triton.forward(logits, target, 1.0)[0]

    logits, target, _ = problem(make_logits, plane=7, second=True, hard=True, form="weighted", label_temperature=1.0)
    target = target._replace(mix=torch.full((5,), 0.5), hard_weight=torch.full((5,), 0.5))
    rows = target.labels.rows.clone()
    rows[0], rows[1:] = 7, torch.tensor([1, 2, 3, 4])
    classes = target.labels.classes.clone()
    classes[2, 3] = 41
    hard = target.hard.clone()
    hard[4] = 41
    labels = target.labels._replace(rows=rows, classes=classes)
    loss = run(logits, target._replace(labels=labels, hard=hard, second=labels._replace(rows=rows.clamp(0, 3) * 0)))
    assert loss.isnan().tolist() == [True, False, True, False, True]


def test_wrong_arguments(make_logits):
    logits, target, _ = problem(make_logits, second=True, hard=True)

    def refused(error: type[Exception], match: str, logits: Tensor = logits, **changes: object) -> None:
        names = {"student_temperature", "reduction", "divergence"} & changes.keys()
        options = {name: changes.pop(name) for name in names}
        with pytest.raises(error, match=match):
            soft_cross_entropy(logits, target._replace(**changes), **options)

    labels = target.labels
    refused(TypeError, "logits have dtype torch.int64", logits.long())
    refused(ValueError, r"logits have shape \(41,\), expected \[B, C\]", logits[0])
    refused(ValueError, r"logits have shape \(4, 41\), expected \[5, C\] as labels have rows", logits[1:])
    refused(ValueError, "K=6 classes, more than the 3", logits[:, :3])
    refused(ValueError, "logits are on meta and labels on cpu", logits.to("meta"))
    refused(ValueError, "student_temperature is 0", student_temperature=0)
    refused(ValueError, "label_temperature is nan", temperature=float("nan"))
    refused(ValueError, "reduction is 'avg'", reduction="avg")
    refused(ValueError, "divergence is 'js'", divergence="js")
    refused(ValueError, "expected both second and mix", mix=None)
    refused(ValueError, "expected both targets and target_weight", hard=None)
    refused(TypeError, "mix has dtype torch.int64, expected a floating one", mix=torch.zeros(5).long())
    refused(ValueError, r"mix has shape \(4,\), expected \(5,\)", mix=torch.zeros(4))
    refused(TypeError, "targets has dtype torch.float32, expected torch.int64", hard=torch.zeros(5))
    refused(ValueError, r"target_weight has shape \(\), expected \(5,\)", hard_weight=torch.tensor(0.5))
    refused(TypeError, "rows of labels has dtype torch.int32", labels=labels._replace(rows=torch.zeros(5).int()))
    no_plane = Labels(*(tensor[:0] for tensor in labels[:3]), torch.zeros(5).long())
    refused(ValueError, "5 rows of a plane that has none", labels=no_plane)
    refused(TypeError, "codes of dtype torch.uint8", labels=labels._replace(weights=labels.weights.int()))
    weighted = problem(make_logits, form="weighted", second=True)[1].labels
    refused(ValueError, "of two forms, coded and weighted", second=weighted)
    refused(ValueError, "tempered when they were made", labels=weighted, second=weighted, temperature=2.0)
    refused(ValueError, r"rest has shape \(5, 1\)", labels=weighted._replace(rest=weighted.rest[:, None]))
    refused(ValueError, r"weights have shape \(5, 5\)", labels=weighted._replace(weights=weighted.weights[:, 1:]))
