"""Labels as data: what docs/labels.md shows of a store, on one whose labels follow from a formula."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlabel.store.store import LabelStore
from tests import synthetic

PAGE = Path(__file__).resolve().parents[2] / "docs" / "labels.md"


def test_a_store_says_what_it_is(tmp_path: Path) -> None:
    synthetic.run(tmp_path / "labels.zarr", range(8), 4, [synthetic.teacher(0), synthetic.teacher(1)])
    store = LabelStore.open(tmp_path / "labels.zarr")
    assert [info.name for info in store.teachers] == ["teacher-0", "teacher-1"]
    assert repr(store) == f"LabelStore('{store.path}': 8 samples, 4 views, 10 classes, teachers teacher-0, teacher-1)"


def test_the_lines_of_the_page(tmp_path: Path) -> None:
    synthetic.run(tmp_path / "labels.zarr", [1, 4, 5, 11], 2, [synthetic.teacher(0), synthetic.teacher(1)])
    store = LabelStore.open(tmp_path / "labels.zarr")
    wanted = [synthetic.expected(store.teachers[0], view, store.ids) for view in (0, 1)]
    targets = torch.zeros(synthetic.NUM_SAMPLES, dtype=torch.int64)
    targets[[1, 4]] = torch.from_numpy(wanted[0]["classes"][:2, 2].astype(np.int64))
    targets[[5, 11]] = torch.from_numpy((wanted[0]["classes"][2:, 0].astype(np.int64) + 5) % 10)
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "topk_accuracy" in text]
    lines = block.replace("k=5", "k=3").splitlines()
    opened = next(at for at, line in enumerate(lines) if line.startswith("store, targets"))
    found = {"store": store, "targets": targets, "torch": torch}
    exec("\n".join(lines[opened + 1 :]), found)
    assert found["names"] == ["teacher-0", "teacher-1"] and found["top5"] == 0.5
    same = wanted[0]["classes"][:, 0] == wanted[1]["classes"][:, 0]
    assert found["agreement"] == pytest.approx(same.mean())
    p, q = (store.plane(0, teacher)[store.ids].dense().double() for teacher in (0, 1))
    divergence = torch.where(p > 0, p * (p.log() - q.log()), 0).sum(1)
    torch.testing.assert_close(found["divergence"].double(), divergence, rtol=1e-4, atol=1e-4)
    probs = store.plane(0)[store.ids].dense(2.0).double()
    torch.testing.assert_close(found["entropy"], torch.special.entr(probs).sum(1), rtol=1e-4, atol=1e-4)
