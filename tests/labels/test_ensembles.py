from __future__ import annotations

import numpy as np
import pytest
import torch

from fastlabel import SparseLabels, TopKCodec, label_ops
from fastlabel.errors import InputError


def stored(logits, k=None):
    return TopKCodec(k or logits.shape[1], logits.shape[1]).encode(logits)


def test_accuracies_weigh_by_their_softmax():
    """The committee of CV-DD: percent over 5."""
    percent = np.array([64, 60.6, 51.6])
    expected = np.exp(percent / 5) / np.exp(percent / 5).sum()
    assert label_ops.accuracy_weights(percent / 100) == pytest.approx(expected.tolist())
    assert label_ops.accuracy_weights([0.2, 0.2]) == [0.5, 0.5]
    assert label_ops.accuracy_weights([0.0, 1.0], temperature=1e-3)[1] == 1
    for bad in ([], [1.1], [float("nan")], ["high"]):
        with pytest.raises(InputError, match="accuracies are"):
            label_ops.accuracy_weights(bad)
    with pytest.raises(InputError, match="temperature is 0"):
        label_ops.accuracy_weights([0.5], 0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_scaled_logits_against_float64(temperature):
    """On logits that codes hold exactly: each row of each teacher gets the mean norm of the row."""
    generator = torch.Generator().manual_seed(3)
    logits = [torch.randint(-60, 60, (5, 8), generator=generator).double() / 8 * scale for scale in (1, 2)]
    centred = np.stack([(each - each.mean(1, keepdim=True)).numpy() for each in logits])
    norms = np.linalg.norm(centred, axis=2, keepdims=True)
    mean = np.einsum("m,mbc->bc", [0.25, 0.75], centred / norms * norms.mean(0)) / temperature
    expected = np.exp(mean) / np.exp(mean).sum(1, keepdims=True)
    found = label_ops.average_scaled_logits([stored(each.float()) for each in logits], temperature, [1, 3])
    np.testing.assert_allclose(found.dense().numpy(), expected, rtol=1e-4, atol=1e-7)


def test_scaled_logits_do_not_depend_on_the_batch_or_the_scale_of_one_teacher():
    one, other = (torch.randint(-60, 60, (6, 5), generator=torch.Generator().manual_seed(s)) / 8 for s in (1, 2))
    both = label_ops.average_scaled_logits([stored(one), stored(other)]).dense()
    alone = label_ops.average_scaled_logits([stored(one[2:3]), stored(other[2:3])]).dense()
    torch.testing.assert_close(both[2:3], alone)
    flat = torch.zeros(6, 5)
    quiet = label_ops.average_scaled_logits([stored(flat), stored(flat)]).dense()
    torch.testing.assert_close(quiet, torch.full((6, 5), 0.2))
    # The class that both together prefer is the same however loud one of them is.
    loud = label_ops.average_scaled_logits([stored(one / 2), stored(other)]).dense()
    assert torch.equal(loud.argmax(1), both.argmax(1))
    with pytest.raises(InputError, match="expected TopKLabels"):
        label_ops.average_scaled_logits([SparseLabels.from_dense(both)])  # type: ignore[list-item]
