"""TransformCodec: one label for every temperature, by the definition of docs/format.md, here once more in numpy."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastlabel import SparseLabels, TopKCodec, TransformCodec, TransformLabels, label_ops, soft_cross_entropy
from fastlabel.errors import InputError
from fastlabel.labelling.codec_choice import CODES, HALVINGS, Goal, frontier, of_transform, try_codecs
from fastlabel.labels.basis import TransformBasis
from fastlabel.labels.dense_losses import mse_logits
from fastlabel.labels.information import true_information_kept
from fastlabel.labels.topk import concatenate
from fastlabel.labels.transform_codec import codec_from_dict

C, R, K = 41, 12, 3


def some_logits(rows: int, seed: int = 0) -> Tensor:
    """Logits of C classes with R strong dimensions and some noise."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(R, C, generator=torch.Generator().manual_seed(99))
    noise = 0.05 * torch.randn(rows, C, generator=generator)
    return torch.randn(rows, R, generator=generator) @ mixing + noise


BASIS = TransformBasis.from_logits(some_logits(400), R)
CODEC = TransformCodec.of(BASIS, K, 0.25)


def plainly_decoded(labels: TransformLabels, row: int) -> NDArray[Any]:
    """The logits of one label as docs/format.md says, in numpy."""
    classes, codes, tail, q = (
        tensor[row].numpy() for tensor in (labels.classes, labels.codes, labels.tail, labels.coefficients)
    )
    basis = labels.basis.to_numpy().astype(np.float64)
    z = basis[0] + labels.step * q.astype(np.float64) @ basis[1:]
    gaps = np.where(codes == 255, np.inf, codes / 8)
    rest = np.setdiff1d(np.arange(len(z)), classes)
    found = np.empty(len(z))
    found[classes] = -gaps
    odds = (int(tail[0]) - 1) / 256 - 240
    shift = odds + math.log(np.exp(-gaps).sum()) - math.log(np.exp(z[rest]).sum()) if tail[0] else -np.inf
    found[rest] = z[rest] + shift
    return found


def test_a_label_is_decoded_as_the_document_says() -> None:
    labels = CODEC.encode(some_logits(9, seed=1))
    for row in range(9):
        wanted = plainly_decoded(labels, row)
        np.testing.assert_allclose(labels.logits(torch.float64)[row].numpy(), wanted, atol=1e-9)
        for temperature in (0.25, 1.0, 4.0, 20.0):
            weights = np.exp(wanted / temperature)
            found = labels.dense(temperature)[row].numpy()
            np.testing.assert_allclose(found, weights / weights.sum(), atol=1e-6)


def test_the_head_and_the_mass_of_the_tail_are_those_of_top_k() -> None:
    logits = some_logits(50, seed=2)
    labels, plain = CODEC.encode(logits), TopKCodec(K, C).encode(logits)
    assert torch.equal(labels.head.classes.int(), plain.classes.int()) and torch.equal(labels.codes, plain.codes)
    torch.testing.assert_close(labels.probabilities(1.0), plain.probabilities(1.0), atol=1e-6, rtol=1e-5)


def test_codes_do_not_depend_on_the_batch() -> None:
    logits = some_logits(70, seed=3)
    whole = CODEC.encode(logits).coefficients
    parts = torch.cat([CODEC.encode(logits[start : start + 7]).coefficients for start in range(0, 70, 7)])
    assert torch.equal(whole, parts)


def test_coefficients_are_rounded_towards_zero_and_stored_without_signs() -> None:
    steps = torch.tensor([[0.69, 0.71, -0.69, -0.71, 1.69, -1.71, 200.0, -200.0]])
    basis = TransformBasis(torch.cat([torch.zeros(1, 9), torch.eye(8, 9)]).to(torch.float16))
    logits = torch.cat([0.25 * steps, -0.25 * steps.sum(1, keepdim=True)], 1)  # of mean 0
    codec = TransformCodec.of(basis, 1, 0.25)
    labels = codec.encode(logits)
    assert labels.coefficients.tolist() == [[0, 1, 0, -1, 1, -2, 127, -127]]
    arrays = codec.arrays(labels)
    assert arrays["coefficients"].tolist() == [[0, 2, 0, 1, 2, 3, 254, 253]]
    again = codec.labels({name: torch.from_numpy(values) for name, values in arrays.items()})
    assert isinstance(again, TransformLabels) and torch.equal(again.coefficients, labels.coefficients)


def test_all_dimensions_and_a_fine_step_keep_everything() -> None:
    logits = some_logits(64, seed=4)
    fine = TransformCodec.of(TransformBasis.from_logits(some_logits(400), C - 1), K, 0.5)
    labels = fine.encode(logits)
    for temperature in (1.0, 4.0, 20.0):
        # The head's codes are steps of 1/8 nat; a coefficient's error is at most half a step.
        assert true_information_kept(logits, labels, temperature) > 0.999
        assert true_information_kept(logits, CODEC.encode(logits), temperature) > true_information_kept(
            logits, TopKCodec(K, C).encode(logits), temperature
        )


def test_more_components_and_finer_steps_keep_more() -> None:
    logits, kept = some_logits(64, seed=5), []
    for components, step in ((2, 2.0), (6, 2.0), (R, 2.0), (R, 0.5)):
        codec = TransformCodec.of(TransformBasis.from_logits(some_logits(400), components), K, step)
        kept.append(true_information_kept(logits, codec.encode(logits), 20.0))
    assert kept == sorted(kept)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_loss_is_that_of_the_dense_target(temperature: float) -> None:
    labels, logits = CODEC.encode(some_logits(8, seed=6)), some_logits(8, seed=7).requires_grad_()
    other = logits.detach().clone().requires_grad_()
    loss = soft_cross_entropy(logits, labels, temperature, 2.0)
    wanted = F.cross_entropy(other / 2.0, labels.dense(temperature))
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(logits.grad, other.grad, atol=1e-6, rtol=1e-5)


def test_the_loss_mixes_such_labels_and_hard_ones() -> None:
    first, second = (CODEC.encode(some_logits(5, seed=seed)) for seed in (8, 9))
    logits = some_logits(5)
    targets = torch.arange(5)
    options: dict[str, Any] = {"second": second, "mix": 0.3, "targets": targets, "target_weight": 0.25}
    target = 0.75 * (0.3 * first.dense(4.0) + 0.7 * second.dense(4.0)) + 0.25 * F.one_hot(targets, C)
    torch.testing.assert_close(soft_cross_entropy(logits, first, 4.0, **options), F.cross_entropy(logits, target))
    for one, two in ((first, second.head), (first.head, second)):
        target = 0.5 * (one.dense(4.0) + two.dense(4.0))
        found = soft_cross_entropy(logits, one, 4.0, second=two, mix=0.5)
        torch.testing.assert_close(found, F.cross_entropy(logits, target))
    with pytest.raises(InputError, match="make both sparse"):
        soft_cross_entropy(logits, first, 4.0, second=second.sparse(4.0), mix=0.5)


def test_label_ops_take_them_as_all_their_classes() -> None:
    labels = CODEC.encode(some_logits(6, seed=10)).sparse(4.0)
    assert isinstance(labels, SparseLabels) and labels.width == C
    mixed = label_ops.mix(labels, SparseLabels.uniform(6, C), 0.5)
    torch.testing.assert_close(mixed.dense(), 0.5 * labels.dense() + 0.5 / C)


def test_rows_pickles_and_joins_are_the_same_labels() -> None:
    labels = CODEC.encode(some_logits(12, seed=11))
    rows = torch.tensor([7, 0, 7])
    wanted = labels.dense(4.0)
    for some in (labels.take(rows), labels[rows], pickle.loads(pickle.dumps(labels.take(rows)))):
        assert isinstance(some, TransformLabels)
        torch.testing.assert_close(some.dense(4.0), wanted[rows], atol=0, rtol=0)
    torch.testing.assert_close(concatenate([labels, labels.take(rows)]).dense(4.0)[12:], wanted[rows])


def test_impossible_classes_and_a_tail_without_mass() -> None:
    logits = some_logits(4, seed=12)
    logits[0, 5] = -torch.inf
    logits[1, :] = -torch.inf
    logits[1, 7] = 0.0
    labels = CODEC.encode(logits)
    dense = labels.dense(20.0)
    assert bool(dense.isfinite().all()) and float(dense[1, 7]) == 1.0
    torch.testing.assert_close(dense.sum(1), torch.ones(4))


def test_a_codec_goes_through_json_and_needs_its_own_basis() -> None:
    known = codec_from_dict(CODEC.to_dict())
    assert known == CODEC and isinstance(known, TransformCodec)
    with pytest.raises(InputError, match="no basis"):
        known.encode(some_logits(2))
    assert torch.equal(
        known.with_basis(BASIS).encode(some_logits(2)).coefficients, CODEC.encode(some_logits(2)).coefficients
    )
    with pytest.raises(InputError, match="digest"):
        known.with_basis(TransformBasis.from_logits(some_logits(300, seed=5), R))
    with pytest.raises(InputError, match="expected basis"):
        codec_from_dict({key: value for key, value in CODEC.to_dict().items() if key != "basis"})
    with pytest.raises(InputError, match="components"):
        replace(CODEC, components=C + 1)


def test_a_basis_is_orthonormal_the_same_again_and_no_larger_than_the_teacher() -> None:
    wide = BASIS.components.double()
    torch.testing.assert_close(wide @ wide.T, torch.eye(R, dtype=torch.float64), atol=2e-3, rtol=0)
    assert TransformBasis.from_logits(some_logits(400), R).digest == BASIS.digest
    few = TransformBasis.from_logits(some_logits(20), R)  # fewer rows than classes
    torch.testing.assert_close(few.components @ few.components.T, torch.eye(R), atol=2e-3, rtol=0)
    flat = torch.randn(100, 3) @ torch.randn(3, C)
    with pytest.raises(InputError, match="only 3 dimensions"):
        TransformBasis.from_logits(flat.double(), 4)


@pytest.mark.parametrize("tail", ["renormalise", "zero"])
def test_tail_models_are_of_the_top_k_alone(tail: str) -> None:
    labels = CODEC.encode(some_logits(3))
    with pytest.raises(InputError, match="head"):
        labels.dense(tail=tail)
    assert labels.head.dense(tail=tail).shape == (3, C)


def test_a_goal_takes_the_cheapest_codec_that_meets_it() -> None:
    fitted, tested = some_logits(400), some_logits(100, seed=20)
    all_met = []
    for goal in (Goal(bytes=14), Goal(keep=(0.8, 4.0)), Goal(max_kl=(0.1, 1.0))):
        choices = try_codecs(fitted, tested, goal, k=2)
        best = goal.best(of_transform(choices))
        assert goal.met_by(best) and best.k == 2
        if goal.bytes is None:
            assert not any(goal.met_by(one) and one.bytes < best.bytes for one in of_transform(choices))
        # Between the best step of the grid and its neighbour that misses the goal, others were tried.
        of_pair = [one for one in choices if (one.k, one.components) == (best.k, best.components)]
        assert len(of_pair) == len(CODES) + (0 if all(map(goal.met_by, of_pair)) else HALVINGS)
        all_met.append(all(map(goal.met_by, of_pair)))
        listed = frontier(choices)
        assert [one.bytes for one in of_transform(listed)] == sorted(one.bytes for one in of_transform(listed))
    assert not all(all_met)
    with pytest.raises(InputError, match="nearest"):
        Goal(bytes=1).best(of_transform(choices))


@pytest.mark.parametrize(("num_classes", "components", "k"), [(41, 12, 3), (401, 17, 1), (7, 6, 7)])
@pytest.mark.parametrize("temperature", [1e-30, 0.25, 1.0, 20.0, 1e30])
def test_the_op_equals_the_reference(num_classes: int, components: int, k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn(60, num_classes, generator=generator)
    logits[0, 1:] = -torch.inf
    logits[1, 2] = -torch.inf
    labels = TransformCodec.of(TransformBasis.from_logits(logits[2:], components), k, 0.5).encode(logits)
    z_BC = labels.logits(torch.float64)
    wanted = torch.softmax((z_BC - z_BC.amax(1, keepdim=True)) / temperature, 1)
    torch.testing.assert_close(labels.dense(temperature).double(), wanted, atol=1e-6, rtol=1e-4)


def test_the_op_is_one_of_torch() -> None:
    labels = CODEC.encode(some_logits(4))
    arguments = (*labels.plane, BASIS.mean, BASIS.components, CODEC.step, 4.0)
    torch.library.opcheck(torch.ops.fastlabel.transform_probabilities.default, arguments)
    broken = TransformLabels(labels.classes.int().add(C).to(torch.uint16), *labels.plane[1:], BASIS, CODEC.step)
    for use in (lambda: broken.dense(), lambda: broken.logits(), lambda: soft_cross_entropy(some_logits(4), broken)):
        with pytest.raises(InputError, match="none of the"):
            use()


@pytest.mark.parametrize("options", [{"divergence": "kl"}, {"temperature_squared": True}, {"reduction": "sum"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_options_of_the_loss_mean_what_they_do_for_sparse_labels(options: dict[str, Any], dtype: torch.dtype) -> None:
    labels, logits = CODEC.encode(some_logits(6, seed=3)), some_logits(6, seed=4).to(dtype)
    one, other = (logits.clone().requires_grad_() for _ in range(2))
    found = soft_cross_entropy(one, labels, 4.0, 2.0, **options)
    wanted = soft_cross_entropy(other, labels.sparse(4.0), 1.0, 2.0, **options)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.grad, other.grad, atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=1e-2)
    assert float(soft_cross_entropy(logits[:0], labels[:0], 4.0)) == 0.0
    with pytest.raises(InputError, match="reduction"):
        soft_cross_entropy(logits, labels, 4.0, reduction="all")


def test_logits_are_averaged_over_teachers() -> None:
    first, second = CODEC.encode(some_logits(5, seed=1)), CODEC.encode(some_logits(5, seed=2))
    mean = 0.25 * first.logits() + 0.75 * second.logits()
    found = label_ops.average_logits([first, second], 4.0, [0.25, 0.75]).dense()
    torch.testing.assert_close(found, torch.softmax(mean / 4.0, 1), atol=1e-6, rtol=1e-4)
    with pytest.raises(InputError, match="head"):
        label_ops.average_logits([first, second.head], 4.0)


def test_a_basis_of_more_than_a_gigabyte_is_refused() -> None:
    with pytest.raises(InputError, match="fewer components"):
        TransformCodec(1, 200_000, 4_000, 1.0)


def test_the_mean_logit_is_kept_where_it_is_asked_for() -> None:
    logits = some_logits(6, seed=13) + torch.tensor([0.0, 3.5, -70.0, 511.0, 505.0, -505.0])[:, None]
    codec = TransformCodec.of(BASIS, K, 0.25, logit_offset=True)
    labels, plain = codec.encode(logits), CODEC.encode(logits)
    assert isinstance(labels, TransformLabels) and isinstance(plain, TransformLabels)
    assert plain.mean_logits is None and labels.mean_logits is not None
    wanted = logits.mean(1)
    torch.testing.assert_close(labels.mean_logits, wanted, atol=1 / 128 + 1e-4, rtol=0)
    stored = codec.arrays(labels)["tail"][:, 1].astype(int)  # as docs/format.md says
    np.testing.assert_allclose((stored - 32768) / 64, wanted.numpy(), atol=1 / 128 + 1e-4)
    # All else is as without it, and every way of taking labels keeps it.
    torch.testing.assert_close(labels.dense(4.0), plain.dense(4.0), atol=0, rtol=0)
    torch.testing.assert_close(labels.head.dense(4.0), plain.head.dense(4.0), atol=0, rtol=0)
    rows = torch.tensor([2, 1])
    for some in (labels[rows], labels.take(rows), pickle.loads(pickle.dumps(labels.take(rows)))):
        assert torch.equal(some.mean_logits, labels.mean_logits[rows])
    assert codec_from_dict(codec.to_dict()) == codec and codec.to_dict()["logit_offset"] is True
    assert "logit_offset" not in CODEC.to_dict()


def test_mse_of_logits_is_absolute_where_their_mean_is_kept() -> None:
    logits, student = some_logits(4, seed=14) + 3.0, some_logits(4, seed=15)
    fine = TransformBasis.from_logits(some_logits(400), C - 1)
    for has_offset in (True, False):
        labels = TransformCodec.of(fine, K, 0.4, logit_offset=has_offset).encode(logits)
        gap = student - logits
        wanted = (gap if has_offset else gap - gap.mean(1, keepdim=True)).square().mean(1)
        torch.testing.assert_close(mse_logits(student, labels), wanted, atol=0.05, rtol=0.1)  # coefficients have steps
        moved = mse_logits(student + 1.0, labels) - mse_logits(student, labels)
        assert bool((moved.abs() > 0.1).all()) == has_offset and (has_offset or bool((moved.abs() < 1e-3).all()))


def test_a_mean_logit_out_of_range_is_refused() -> None:
    """Within 1/64 nat of the ends a code may be any logit beyond."""
    codec = replace(TransformCodec.of(TransformBasis.from_logits(some_logits(200), 8), 4, 2.0), logit_offset=True)
    logits = some_logits(3)
    for shift in (600.0, -600.0):
        with pytest.raises(InputError, match="1 of 3 labels have a mean logit beyond -512 to 512 nats"):
            codec.encode(logits + torch.tensor([0.0, 0.0, shift])[:, None])
        unchecked = codec.encode_unchecked(logits + shift)
        with pytest.raises(InputError, match="3 of 3 labels"):
            codec.arrays(unchecked)
    codec.arrays(codec.encode(logits + 500))


def test_labels_of_two_formats_are_not_joined() -> None:
    codec = TransformCodec.of(TransformBasis.from_logits(some_logits(200), 8), 4, 2.0)
    logits = some_logits(3)
    others = (
        replace(codec, logit_offset=True),
        TransformCodec.of(TransformBasis.from_logits(some_logits(99), 8), 4, 2.0),
    )
    for other in others:
        with pytest.raises(InputError, match="labels of 2 formats cannot be joined"):
            concatenate([codec.encode(logits), other.encode(logits)])
    with pytest.raises(InputError, match="2 formats"):
        concatenate([codec.encode(logits), codec.encode(logits).head])
