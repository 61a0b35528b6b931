"""soft_cross_entropy equals torch's cross-entropy against the dense target, in value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.kernels.decode_topk import decode_topk
from fastlabel.kernels.encode_topk import encode_topk
from fastlabel.kernels.soft_cross_entropy import soft_cross_entropy, soft_cross_entropy_reference

KINDS = ["gaussian", "extreme", "equal", "flat", "confident", "lonely", "ties", "holes"]


@settings(deadline=None, max_examples=100)
@given(
    kind=st.sampled_from(KINDS),
    student=st.sampled_from(["gaussian", "extreme", "confident", "flat"]),
    B=st.sampled_from([1, 41]),
    C=st.sampled_from([2, 10, 401, 1271]),
    part=st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)),
    temperatures=st.tuples(st.floats(0.2, 20), st.floats(0.2, 20)),
    reduction=st.sampled_from(["none", "sum", "mean"]),
    seed=st.integers(0, 1000),
)
def test_equals_dense_cross_entropy(make_logits, kind, student, B, C, part, temperatures, reduction, seed):
    label = encode_topk(make_logits(kind, B, C, seed), 1 + int(part * (C - 1)))
    logits = make_logits(student, B, C, seed + 1).double().requires_grad_()
    target = decode_topk(*label, C, temperatures[0]).double()
    expected = F.cross_entropy(logits / temperatures[1], target, reduction=reduction)
    loss = soft_cross_entropy(logits, *label, *temperatures, reduction=reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_gradcheck(make_logits, k):
    label = encode_topk(make_logits("gaussian", 3, 7, 0), k)
    logits = make_logits("gaussian", 3, 7, 1).double().requires_grad_()
    for reduction in ("none", "mean"):
        assert torch.autograd.gradcheck(
            lambda x, r=reduction: soft_cross_entropy_reference(x, *label, 2.0, 1.5, r), logits
        )


def test_above_65536_classes(make_logits):
    label = encode_topk(make_logits("gaussian", 2, 70001, 0), 5)
    logits = make_logits("gaussian", 2, 70001, 1).double()
    expected = F.cross_entropy(logits, decode_topk(*label, 70001).double())
    torch.testing.assert_close(soft_cross_entropy(logits, *label), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-5), (torch.float16, 1e-5)])
def test_low_precision_logits_are_computed_in_float32(make_logits, dtype, tolerance):
    label = encode_topk(make_logits("gaussian", 41, 401, 0), 16)
    logits = make_logits("gaussian", 41, 401, 1).to(dtype).requires_grad_()
    loss = soft_cross_entropy(logits, *label, reduction="none")
    assert loss.dtype == torch.float32
    expected = soft_cross_entropy(logits.detach().double(), *label, reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    loss.sum().backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min, -1e30])
def test_a_probability_of_zero_asks_nothing(low):
    teacher = torch.tensor([[0.0, -torch.inf, -torch.inf, 1.0], [-torch.inf, -torch.inf, 2.0, -torch.inf]])
    student = torch.tensor([[0.0, low, low, 1.0], [low, low, 2.0, low]], requires_grad=True)
    for k in (2, 3, 4):  # the classes at zero: all in the tail, one kept, all kept
        loss = soft_cross_entropy(student, *encode_topk(teacher, k), reduction="none")
        torch.testing.assert_close(loss, torch.tensor([0.5822, 0.0]), atol=1e-4, rtol=0)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        torch.testing.assert_close(gradient, torch.zeros(2, 4), atol=1e-2, rtol=0)


def test_a_very_low_kept_logit_does_not_cancel_the_tail():
    label = encode_topk(torch.tensor([[3.0, 2.0, 0.0, 0.0]]), 2)
    student = torch.tensor([[-1e9, 5.0, 1.0, 2.0]])
    expected = F.cross_entropy(student.double(), decode_topk(*label, 4).double())
    torch.testing.assert_close(soft_cross_entropy(student, *label).double(), expected, rtol=1e-6, atol=0)


def test_an_empty_batch():
    label = encode_topk(torch.zeros(0, 10), 4)
    assert soft_cross_entropy(torch.zeros(0, 10), *label, reduction="none").shape == (0,)
    assert soft_cross_entropy(torch.zeros(0, 10), *label, reduction="sum") == 0


def test_wrong_arguments():
    label = encode_topk(torch.zeros(3, 10), 4)
    logits = torch.zeros(3, 10)
    with pytest.raises(ValueError, match=r"shape \(2, 10\), expected \[3, C\]"):
        soft_cross_entropy(logits[:2], *label)
    with pytest.raises(ValueError, match="K=4 classes, more than the 3"):
        soft_cross_entropy(logits[:, :3], *label)
    with pytest.raises(ValueError, match="student_temperature is 0"):
        soft_cross_entropy(logits, *label, student_temperature=0)
    with pytest.raises(ValueError, match="label_temperature is nan"):
        soft_cross_entropy(logits, *label, label_temperature=float("nan"))
    with pytest.raises(ValueError, match="reduction is 'avg'"):
        soft_cross_entropy(logits, *label, reduction="avg")
    with pytest.raises(TypeError, match="int64"):
        soft_cross_entropy(logits.long(), *label)
