"""transform_cross_entropy: Numba equals the reference, in its gradient too; one operator of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastlabel.kernels.transform_cross_entropy import cpu, transform_cross_entropy, transform_cross_entropy_reference
from fastlabel.kernels.transform_cross_entropy.reference import Label
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.transform_codec import TransformCodec


def some_label(B: int, C: int, R: int, K: int, seed: int) -> Label:
    """Labels with impossible classes, one of a single class, and one of a head that has next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(B + 2 * R, C, generator=generator)
    basis = TransformBasis.from_logits(logits, R)
    rows = logits[:B]
    rows[0, 1:] = -torch.inf
    rows[-1, C // 2] = -torch.inf
    rows[-2] *= 20
    labels = TransformCodec.of(basis, K, 0.5).encode(rows)
    return Label(labels.classes, labels.codes, labels.tail, labels.coefficients, basis.wide, labels.step)


def both(logits: Tensor, label: Label, T: float, student: float, kl: bool) -> list[tuple[Tensor, Tensor]]:
    x = logits.clone().requires_grad_()
    divergence = "kl" if kl else "cross-entropy"
    loss = transform_cross_entropy(x, *label, T, student, "none", divergence=divergence)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return [(loss.detach(), gradient), transform_cross_entropy_reference(logits, label, T, student, kl)]


@settings(deadline=None, max_examples=40)
@given(
    C=st.sampled_from([7, 41, 1271]),
    K=st.integers(1, 7),
    T=st.sampled_from([0.25, 1.0, 4.0, 20.0]) | st.floats(0.05, 50),
    student=st.sampled_from([1.0, 3.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    kl=st.booleans(),
    seed=st.integers(0, 50),
)
def test_equals_reference(C: int, K: int, T: float, student: float, dtype: torch.dtype, kl: bool, seed: int) -> None:
    label = some_label(5, C, 6, K, seed)
    logits = (3 * torch.randn(5, C, generator=torch.Generator().manual_seed(seed))).to(dtype)
    (loss, gradient), (expected, wanted) = both(logits, label, T, student, kl)
    torch.testing.assert_close(loss, expected, atol=2e-5, rtol=2e-5)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wanted, atol=max(2e-6, torch.finfo(dtype).eps), rtol=1e-2)


@pytest.mark.parametrize("T", [1e-30, 1e30])
def test_extreme_temperatures_and_logits_stay_finite(T: float) -> None:
    label, logits = some_label(5, 41, 6, 3, 0), torch.randn(5, 41)
    logits[1, 3] = -1e30
    (loss, gradient), (expected, wanted) = both(logits, label, T, 1.0, False)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


def test_many_blocks_of_rows_and_gradients_of_any_loss() -> None:
    label = some_label(150, 41, 6, 3, 1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(150, 41).to(dtype).requires_grad_()
        share = torch.rand(150)
        loss = (transform_cross_entropy(x, *label, 4.0, 2.0, "none", temperature_squared=True) * share).sum()
        expected, gradient = transform_cross_entropy_reference(x.detach(), label, 4.0, 2.0, False)
        torch.testing.assert_close(loss.detach(), 4 * (share * expected).sum(), rtol=1e-4, atol=1e-4)
        tolerance = {"atol": 2e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-4}
        (found,) = torch.autograd.grad(loss, x)
        torch.testing.assert_close(found, (4 * share[:, None] * gradient).to(dtype), **tolerance)
    with torch.no_grad():  # the block has its own memory
        torch.testing.assert_close(
            transform_cross_entropy(x.float(), *label),
            transform_cross_entropy_reference(x.float(), label, 1, 1, False)[0].mean(),
        )


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck itself reads it
def test_an_operator_of_torch_without_a_second_derivative() -> None:
    label, x = some_label(4, 41, 6, 3, 2), torch.randn(4, 41, requires_grad=True)
    arguments: Any = (x, *label, 4.0, 2.0, False, True)
    torch.library.opcheck(torch.ops.fastlabel.transform_cross_entropy.default, arguments)
    compiled = torch.compile(lambda x: transform_cross_entropy(x, *label, 4.0), fullgraph=True, backend="aot_eager")
    for loss in (compiled, lambda x: transform_cross_entropy(x, *label, 4.0)):
        (found,) = torch.autograd.grad(3 * loss(x), x)
        wanted = transform_cross_entropy_reference(x.detach(), label, 4.0, 1.0, False)[1] * 3 / 4
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
    # A penalty on the gradient, of a loss that is not scaled: nothing else asks for a second derivative.
    (gradient,) = torch.autograd.grad(transform_cross_entropy(x, *label), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.square().sum().backward()
    broken = label._replace(classes=label.classes.int().add(41).to(torch.uint16))
    with pytest.raises(ValueError, match="none of the 41"):
        transform_cross_entropy(x, *broken)


def test_logits_of_another_kind_or_shape_are_refused() -> None:
    label, logits = some_label(4, 10, 3, 2, 0), torch.zeros(4, 10)
    for wrong in (logits.int(), logits.long(), logits.bool()):
        with pytest.raises(TypeError, match="expected float32, float64"):
            transform_cross_entropy(wrong, *label)
    for shape in ((5, 10), (4, 9)):
        with pytest.raises(ValueError, match="for 4 labels of 10 classes"):
            transform_cross_entropy(torch.zeros(shape), *label)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_loss_scale_lifts_the_gradient_of_float16(reduction: str, compiled: bool) -> None:
    """As a GradScaler does: 65,536 is no float16, and an unscaled gradient of less than 6e-8 is none."""
    label, logits = some_label(64, 41, 6, 3, 2), (2 * torch.randn(64, 41)).half()
    x, wide = logits.clone().requires_grad_(), logits.double().requires_grad_()
    function: Any = transform_cross_entropy
    if compiled:
        function = torch.compile(transform_cross_entropy, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(65536 * function(x, *label, 4.0, 1.0, reduction).mean(), x)
    (wanted,) = torch.autograd.grad(65536 * transform_cross_entropy(wide, *label, 4.0, 1.0, reduction).mean(), wide)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), wanted, rtol=2e-3, atol=1e-3)
    (small,) = torch.autograd.grad(65536 * (1e-6 * function(x, *label)), x)
    (scaled,) = torch.autograd.grad(65536 * (1e-6 * transform_cross_entropy(wide, *label)), wide)
    torch.testing.assert_close(small.double(), scaled, rtol=2e-3, atol=1e-6)


def test_no_gradient_is_made_where_none_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    label, x = some_label(4, 41, 6, 3, 2), torch.randn(4, 41, requires_grad=True)
    asked: list[bool] = []
    real = cpu.forward

    def spy(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(cpu, "forward", spy)
    with torch.no_grad():
        transform_cross_entropy(x, *label)
    transform_cross_entropy(x, *label)
    assert asked == [False, True]
