"""TopKCodec: what it accepts, what it refuses, and that it describes itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fastlabel.errors import InputError
from fastlabel.labels.codec import TopKCodec, unstorable_rows

INF, NAN = torch.inf, torch.nan


def test_encode():
    labels = TopKCodec(k=2, num_classes=4).encode(torch.tensor([[0.0, -1.0, -1.0, -2.0]]))
    assert (len(labels), labels.k, labels.num_classes) == (1, 2, 4)
    assert labels.classes.tolist() == [[0, 1]]
    assert labels.codes.tolist() == [[0, 8]]
    assert labels.tail.tolist() == [[61185, 12]]


def test_minus_infinity_is_a_probability_of_zero():
    labels = TopKCodec(k=3, num_classes=3).encode(torch.tensor([[0.0, -INF, 0.0]]))
    assert labels.codes.tolist() == [[0, 0, 255]]
    assert labels.dense().tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_rows_that_cannot_be_stored_are_named(dtype):
    logits = torch.zeros(9, 4, dtype=dtype)
    logits[2, 1] = NAN
    logits[4, 3] = INF
    logits[5] = torch.tensor([INF, NAN, 0, 0], dtype=dtype)
    logits[8] = -INF
    logits[1, 2:] = -INF
    assert unstorable_rows(logits).tolist() == [2, 4, 5, 8]
    with pytest.raises(InputError) as error:
        TopKCodec(k=2, num_classes=4).encode(logits)
    assert str(error.value) == (
        "4 of 9 rows of logits cannot be stored (2 with NaN, 1 with +inf, 1 with nothing but -inf): "
        "rows 2, 4, 5, 8; expected finite logits (single ones may be -inf)"
    )


def test_many_bad_rows_are_abbreviated():
    with pytest.raises(InputError, match=r"rows 0, 1, 2, 3, 4, \.\.\.; expected"):
        TopKCodec(k=1, num_classes=2).encode(torch.full((100, 2), NAN))


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(2, 5), r"shape \(2, 5\), expected \[B, 4\]"),
        (torch.zeros(4), r"shape \(4,\), expected \[B, 4\]"),
        (torch.zeros(2, 4, dtype=torch.int32), "dtype torch.int32"),
    ],
)
def test_logits_of_another_shape(logits, message):
    with pytest.raises(InputError, match=message):
        TopKCodec(k=2, num_classes=4).encode(logits)


@pytest.mark.parametrize(
    ("k", "num_classes", "message"),
    [
        (11, 10, "k=11 is more than num_classes=10"),
        (0, 10, "k is 0"),
        (2.0, 10, r"k is 2\.0"),
        (True, 10, "k is True"),
        (1, -1, "num_classes is -1"),
        (1, 2**32 + 1, "at most 2\\^32"),
    ],
)
def test_impossible_codecs(k, num_classes, message):
    with pytest.raises(InputError, match=message):
        TopKCodec(k=k, num_classes=num_classes)


def test_sizes():
    assert TopKCodec(16, 1000).nbytes_per_label == 16 * 3 + 4
    assert TopKCodec(16, 1000).classes_dtype == np.dtype("<u2")
    assert TopKCodec(16, 65536).classes_dtype == np.dtype("<u2")
    assert TopKCodec(16, 65537).nbytes_per_label == 16 * 5 + 4
    assert TopKCodec(16, 65537).classes_dtype == np.dtype("<u4")


def test_to_dict_is_part_of_the_format():
    assert TopKCodec(16, 1000).to_dict() == {
        "name": "topk-log8",
        "codes_per_nat": 8,
        "log_odds_per_nat": 256,
        "log_odds_offset": 240,
        "k": 16,
        "num_classes": 1000,
    }


def test_round_trip_through_json():
    codec = TopKCodec(16, 1000)
    assert TopKCodec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec


@pytest.mark.parametrize(
    "change",
    [{"name": "topk-log16"}, {"codes_per_nat": 16}, {"more": 1}, {"k": None}, {"k": 1001}, {"k": "16"}],
)
def test_other_descriptions_are_refused(change):
    with pytest.raises(InputError):
        TopKCodec.from_dict({**TopKCodec(16, 1000).to_dict(), **change})


@pytest.mark.parametrize("key", ["name", "codes_per_nat", "k", "num_classes"])
def test_incomplete_descriptions_are_refused(key):
    values = TopKCodec(16, 1000).to_dict()
    del values[key]
    with pytest.raises(InputError, match="codec is"):
        TopKCodec.from_dict(values)
