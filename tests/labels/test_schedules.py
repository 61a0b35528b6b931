from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlabel.errors import InputError
from fastlabel.labels.schedules import Phases, TemperatureSchedule


def temperatures(text, epochs):
    schedule = TemperatureSchedule.parse("temperature", text)
    return [schedule.at(epoch, epochs) for epoch in range(epochs)]


def test_a_step_schedule_is_that_of_the_papers_script():
    """20 times 0.7 after each 30 epochs, never below 2 (arXiv 2604.18135)."""
    values = temperatures("step:20,0.7,30,2", 300)
    assert values == [max(20 * 0.7 ** (epoch // 30), 2) for epoch in range(300)]
    assert values[29] == 20 and values[30] == pytest.approx(14) and values[-1] == 2


def test_a_cosine_schedule_anneals():
    values = temperatures("cosine:20,2", 100)
    assert values == pytest.approx([2 + 9 * (1 + math.cos(math.pi * e / 100)) for e in range(100)])
    assert values[0] == 20 and values[50] == pytest.approx(11) and 2 < values[-1] < 2.01
    assert temperatures("cosine:2,20", 100)[0] == 2


@pytest.mark.parametrize("value", [4, 4.0, "4"])
def test_a_number_is_a_temperature_for_all_epochs(value):
    schedule = TemperatureSchedule.parse("temperature", value)
    assert schedule.constant and schedule.at(0, 3) == schedule.at(2, 3) == schedule.plain() == schedule.highest == 4


@pytest.mark.parametrize("text", ["step:20,0.7,30,2", "cosine:20,2", "cosine:0.125,3"])
def test_plain_values_give_the_schedule_again(text):
    schedule = TemperatureSchedule.parse("temperature", text)
    assert schedule.plain() == text and TemperatureSchedule.parse("temperature", schedule.plain()) == schedule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "warm",
        "0",
        "-1",
        "nan",
        "inf",
        "1,2",
        "step",
        "step:20",
        "step:20,0.7,30",
        "step:20,0.7,30,2,1",
        "step:20,0,30,2",
        "step:20,1.1,30,2",
        "step:20,0.7,0,2",
        "step:20,0.7,1.5,2",
        "step:2,0.7,30,20",
        "step:0,0.7,30,0",
        "step:20,0.7,inf,2",
        "step:20,nan,30,2",
        "step:20,0.7,nan,2",
        "cosine:20",
        "cosine:20,0",
        "cosine:inf,2",
        "cosine:20,2,1",
        "linear:20,2",
    ],
)
def test_a_bad_schedule_is_one_clear_error(text):
    with pytest.raises(InputError, match="a_name"):
        TemperatureSchedule.parse("a_name", text)


def test_phases_by_epoch():
    phases = Phases.parse("soft:2,hard:3,soft:1", 6)
    assert [phases.at(epoch) for epoch in range(6)] == ["soft"] * 2 + ["hard"] * 3 + ["soft"]


@pytest.mark.parametrize(
    ("epochs", "text"),
    [(300, "soft:75,hard:150,soft:75"), (8, "soft:2,hard:4,soft:2"), (5, "soft:1,hard:3,soft:1"), (1, "hard:1")],
)
def test_phases_of_fewer_epochs(epochs, text):
    scaled = Phases.parse("soft:75,hard:150,soft:75", 300).scaled(epochs)
    assert scaled == Phases.parse(text, epochs) and scaled.plain() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [("soft:75,hard:150,soft:74", "add up to 299 epochs, and the run has 300"), ("soft:301", "add up to 301")]
    + [
        (text, "expected soft or hard")
        for text in ("", "soft", "soft:0", "soft:-3", "soft:1.5", "mild:300", "soft:300,")
    ]
    + [("soft:" + "9" * 5000, "expected soft or hard")]
    + [(text, "expected soft or hard") for text in ("soft: 300", "soft:\uff13", 300)],
)
def test_bad_phases_are_one_clear_error(text, message):
    with pytest.raises(InputError, match=message):
        Phases.parse(text, 300)


@pytest.mark.parametrize("value", [True, None, [4], -3, 0])
def test_what_is_no_temperature_at_all_is_one_too(value):
    with pytest.raises(InputError, match="a_name"):
        TemperatureSchedule.parse("a_name", value)


NUMBERS = st.sampled_from(["0", "1", "0.7", "30", "1e308", "1.7e308", "5e-324", "1e-308", "inf", "nan", "-1", "x", ""])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["step", "cosine", "", "soft", "hard"]), st.lists(NUMBERS, max_size=5), st.integers(1, 400))
def test_any_text_is_a_schedule_or_one_error(kind, numbers, epochs):
    """And a schedule gives positive finite temperatures between its ends."""
    text = f"{kind}:{','.join(numbers)}"
    try:
        schedule = TemperatureSchedule.parse("temperature", text)
    except InputError:
        return
    low, high = sorted((schedule.start, schedule.end))
    for epoch in (0, epochs // 2, epochs - 1):
        value = schedule.at(epoch, epochs)
        assert 0 < value < math.inf and low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["soft", "hard", "x", ""]), st.integers(-1, 9)), max_size=4), st.text())
def test_any_text_is_phases_or_one_error(parts, text):
    for written in (",".join(f"{kind}:{count}" for kind, count in parts), text):
        total = sum(count for _, count in parts)
        try:
            phases = Phases.parse(written, total)
        except InputError:
            continue
        assert phases.plain() == written and sum(count for _, count in phases.parts) == total


def test_a_schedule_stays_between_its_ends_where_their_difference_loses_the_smaller() -> None:
    schedule = TemperatureSchedule.parse("T", "cosine:1,1e308")
    assert [schedule.at(epoch, 4) >= 1 for epoch in range(4)] == [True] * 4 and schedule.at(0, 4) == 1
