"""How two stores differ, against arithmetic on all classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from fastlabel.errors import InputError
from fastlabel.inspection.compare import compare_stores
from fastlabel.store.store import LabelStore
from tests.conftest import make_photo_folder
from tests.stores import make_teacher, store_maker, write_photos


def test_divergences_are_those_of_dense_rows(make_store: Callable[..., Path], cli: Callable[..., Result]) -> None:
    a, b = make_store("a", k=3), make_store("b", teachers=[make_teacher(seed=1)], k=2)
    done = cli("compare", a, b, "--samples", 0, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    one, other = LabelStore.open(a), LabelStore.open(b)
    for divergence in found["divergences"]:
        p, q = (
            torch.cat([store.plane(view)[store.ids].dense(divergence["temperature"]) for view in range(3)]).double()
            for store in (one, other)
        )
        wanted = torch.nn.functional.kl_div(q.log(), p, reduction="batchmean")
        assert divergence["forward"] == pytest.approx(float(wanted), rel=1e-9)
    assert found["agreement"] == pytest.approx(float((p.argmax(1) == q.argmax(1)).double().mean()))
    assert found["same_crops"] and found["equal"] is None and found["k"] == [3, 2] and found["labels"] == 36


def test_a_store_equals_itself_and_other_crops_are_seen(make_store: Callable[..., Path]) -> None:
    a, b = make_store("a"), make_store("b", seed=1)
    same = compare_stores(a, a)
    assert same.equal == 1 and same.agreement == 1 and same.same_crops
    assert all(one.forward == one.backward == 0 for one in same.divergences)
    assert compare_stores(a, b).same_crops is False


def test_stores_of_other_datasets_are_refused(make_store: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_photo_folder(tmp_path / "fewer", per_class=3)
    other = store_maker(write_photos(folder, tmp_path / "fewer.beton"), tmp_path)("other")
    with pytest.raises(InputError, match="other datasets"):
        compare_stores(make_store("a"), other)
