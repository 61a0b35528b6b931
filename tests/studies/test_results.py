from __future__ import annotations

from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlabel.studies.results import MeanStd, Student, Students

ROWS = Students(
    [
        Student({"ipc": ipc, "labels": labels}, repeat, {"accuracy": (ipc + repeat) / 10, "loss": 2.0})
        for ipc in (10, 1)
        for labels in ("soft", "hard")
        for repeat in range(2)
    ]
    + [Student({"ipc": 1}, 0, {"accuracy": 0.5, "loss": 1.0})]
)


def test_rows_are_chosen_by_the_values_of_their_cell():
    chosen = ROWS.where(ipc=1, labels="hard")
    assert [(row.cell["ipc"], row.cell["labels"], row.repeat) for row in chosen] == [(1, "hard", 0), (1, "hard", 1)]
    assert len(ROWS.where(ipc=1)) == 5 and len(ROWS.where()) == len(ROWS) == 9
    assert not ROWS.where(epoch=1) and not ROWS.where(ipc="1")


def test_values_keep_their_order_and_rows_without_the_axis_do_not_count():
    assert ROWS.values("ipc") == [10, 1]
    assert ROWS.values("labels") == ["soft", "hard"]
    assert ROWS.values("epoch") == []


def test_cells_hold_their_repeats():
    cells = ROWS.cells()
    assert [len(rows) for _, rows in cells] == [2, 2, 2, 2, 1]
    assert cells[0][0] == {"ipc": 10, "labels": "soft"}
    assert [row for _, rows in cells for row in rows] == list(ROWS)


def test_a_slice_of_rows_is_rows():
    assert isinstance(ROWS[:2], Students) and len(ROWS[:2]) == 2
    assert ROWS[0].cell["ipc"] == 10


def test_changes_are_taken_repeat_by_repeat():
    """Of students whose accuracies differ much, but all change alike."""
    before = Students([Student({"rank": 0}, r, {"accuracy": a}) for r, a in enumerate([0.1, 0.5, 0.9])])
    after = Students([Student({"rank": 1}, r, {"accuracy": a}) for r, a in [(2, 0.8), (0, 0.0), (1, 0.4)]])
    change = after.change_from(before)
    assert (change.mean, change.n) == (pytest.approx(-0.1), 3) and change.std == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_the_deviation_is_that_of_a_sample(values):
    spread = MeanStd.of(values)
    assert (spread.mean, spread.n) == (mean(values), len(values))
    assert spread.std == pytest.approx(stdev(values))
    assert spread.percent() == f"{100 * mean(values):.1f} ± {100 * spread.std:.1f}"


def test_one_value_has_no_deviation():
    assert MeanStd.of([0.25]) == MeanStd(0.25, 0.0, 1)
    assert MeanStd.of([0.25]).percent() == "25.0"
    assert ROWS.where(ipc=10).spread() == MeanStd.of([1.0, 1.1, 1.0, 1.1])
    assert ROWS.spread("loss").mean == pytest.approx(17 / 9)
    with pytest.raises(ValueError):
        ROWS.where(epoch=3).spread()
