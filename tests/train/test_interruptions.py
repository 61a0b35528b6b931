"""Ranks agree about once a second, and in the same steps."""

from __future__ import annotations

import time

import pytest

from fastlabel.system.ranks import Ranks
from fastlabel.train import interruptions
from fastlabel.train.interruptions import Interruptions


class TwoRanks(Ranks):
    """This rank among two, the other of which asks for nothing and takes `other_ms` for a step."""

    other_ms, calls = 1, 0

    def largest(self, *values):
        type(self).calls += 1
        signum, save, step_ms = values
        return [signum, save, max(step_ms, self.other_ms)]


@pytest.mark.parametrize(("other_ms", "steps"), [(1, 50), (100, 10), (400, 2), (5000, 1)])
def test_the_slowest_rank_says_how_many_steps_are_about_a_second(monkeypatch, other_ms, steps):
    monkeypatch.setattr(TwoRanks, "other_ms", other_ms)
    monkeypatch.setattr(TwoRanks, "calls", 0)
    asked = Interruptions(TwoRanks(0, 2))
    asked.stop.signum = 15
    found = [asked.asked() for _ in range(1 + 2 * steps)]
    assert TwoRanks.calls == 3
    assert [step for step, (signum, _) in enumerate(found) if signum == 15] == [0, steps, 2 * steps]


def test_where_a_rank_would_wait_all_are_asked(monkeypatch):
    monkeypatch.setattr(TwoRanks, "calls", 0)
    asked = Interruptions(TwoRanks(0, 2))
    assert [asked.asked(at_once=True) for _ in range(5)] == [(None, False)] * 5
    assert TwoRanks.calls == 5


def test_a_process_alone_looks_at_every_step(monkeypatch):
    asked = Interruptions(Ranks())
    assert asked.asked() == asked.asked() == (None, False)
    asked.stop.signum = 2
    assert asked.asked() == (2, False)


def test_a_save_that_takes_long_comes_less_often(monkeypatch):
    monkeypatch.setattr(interruptions, "SECONDS_BETWEEN_SAVES", 0.01)
    asked = Interruptions(Ranks())
    assert not asked.save_is_due
    time.sleep(0.02)
    assert asked.asked() == (None, True)
    asked.saved(seconds=100)
    time.sleep(0.02)
    assert not asked.save_is_due
