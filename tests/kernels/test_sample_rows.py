"""sample_rows: Numba equals the reference; bad ids and samples without a row are told."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.kernels.sample_rows import sample_rows, sample_rows_reference


@settings(deadline=None, max_examples=40)
@given(
    ids=st.lists(st.integers(-2, 7), max_size=5), rows=st.none() | st.lists(st.integers(-1, 9), min_size=6, max_size=6)
)
def test_equals_reference(ids, rows):
    ids_B = torch.tensor(ids, dtype=torch.int64)
    rows_N = None if rows is None else torch.tensor(rows, dtype=torch.int32)
    found, *extent = sample_rows(ids_B, rows_N, 6)
    expected, *others = sample_rows_reference(ids_B, rows_N, 6)
    assert extent[:2] == others[:2]
    if extent[0] >= 0 and extent[1] < 6:
        assert extent == others and torch.equal(found, expected) and found.dtype == torch.int64
        wanted = ids if rows is None else [rows[i] for i in ids]
        assert found.tolist() == wanted
        assert extent[2] == (wanted.index(-1) if -1 in wanted else -1)
