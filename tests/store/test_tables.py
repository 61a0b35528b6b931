"""Labels as arrays, DataFrames and Parquet: what the planes say, row by row."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fastlabel.errors import InputError, MissingLabelsError
from fastlabel.store import tables
from fastlabel.store.store import LabelStore
from tests import synthetic

IDS = [1, 4, 5, 11]


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    synthetic.run(tmp_path / "labels.zarr", IDS, 4, [synthetic.teacher(0), synthetic.teacher(1)])
    return LabelStore.open(tmp_path / "labels.zarr")


def test_arrays_are_what_the_planes_say(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 3)  # the last block is of one row
    found = store.to_numpy(views=[2, 0], teacher=1, temperature=3.0)
    assert found["ids"].tolist() == IDS and found["views"].tolist() == [2, 0]
    for at, view in enumerate((2, 0)):
        labels = store.plane(view, teacher=1)[IDS]
        dense = labels.dense(3.0).numpy()
        listed = np.take_along_axis(dense, found["classes"][at].astype(np.int64), 1)
        np.testing.assert_allclose(found["probs"][at], listed, rtol=1e-6)
        sums = found["probs"][at].sum(1) + found["rest"][at] * (10 - found["classes"].shape[2])
        np.testing.assert_allclose(sums, 1, rtol=1e-5)
        np.testing.assert_allclose(found["entropy"][at], labels.entropy(3.0).numpy())
    assert store.to_numpy()["views"].tolist() == [0, 1, 2, 3]
    assert store.to_numpy(3)["probs"].shape == (1, 4, found["probs"].shape[2])


def test_a_row_for_each_label(store: LabelStore, tmp_path: Path) -> None:
    arrays, frame = store.to_numpy(range(2)), store.to_pandas(range(2))
    assert frame["view"].tolist() == [0] * 4 + [1] * 4 and frame["id"].tolist() == IDS * 2
    assert np.array_equal(np.stack(frame["probs"].to_list()).reshape(arrays["probs"].shape), arrays["probs"])
    best = arrays["probs"].argmax(2)[..., None]
    assert frame["top1"].tolist() == np.take_along_axis(arrays["classes"], best, 2).reshape(-1).tolist()
    assert frame["top1_prob"].tolist() == arrays["probs"].max(2).reshape(-1).tolist()
    store.to_parquet(tmp_path / "labels.parquet", range(2))
    read = pq.read_table(tmp_path / "labels.parquet")
    assert read.column_names == list(frame.columns)
    for name in frame.columns:
        assert np.array_equal(np.stack(frame[name].to_list()), np.stack(read[name].to_pylist())), name
    assert isinstance(frame, pd.DataFrame) and len(pd.read_parquet(tmp_path / "labels.parquet")) == 8


def test_what_cannot_be_is_refused_and_no_file_is_left(store: LabelStore, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    for views, error in (([], InputError), ([9], MissingLabelsError), (["0"], InputError)):
        with pytest.raises(error):
            store.to_parquet(path, views)  # type: ignore[arg-type]
    for temperature in (0.0, float("nan"), -1.0):
        with pytest.raises(InputError, match="temperature"):
            store.to_numpy(temperature=temperature)
    assert list(tmp_path.iterdir()) == [store.path]
    store.to_parquet(path, 0)
    with pytest.raises(InputError, match="exists"):
        store.to_parquet(path, 0)
    store.to_parquet(path, 1, force=True)
    assert set(pq.read_table(path)["view"].to_pylist()) == {1}


def test_without_the_package_it_says_what_to_install(
    store: LabelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pandas"):
        store.to_pandas()
    with pytest.raises(InputError, match="pip install pyarrow"):
        store.to_parquet(tmp_path / "x.parquet")
