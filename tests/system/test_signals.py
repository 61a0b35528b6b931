"""A run that was asked to stop says so in its exit code, also when it had nothing left to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from fastlabel.errors import Interrupted
from fastlabel.labelling import unit
from fastlabel.store.store import LabelStore
from fastlabel.system.signals import stop_requests
from fastlabel.train.checkpoint import save_checkpoint
from tests.stores import make_teacher

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever happens, the handlers are those of before."""
    before = {signum: signal.getsignal(signum) for signum, _ in CODES}
    yield
    assert {signum: signal.getsignal(signum) for signum, _ in CODES} == before


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.fault("11.13 a signal in the last unit")
@pytest.mark.parametrize(("signum", "code"), CODES)
@pytest.mark.parametrize("patient", [True, False])
def test_a_stop_that_nobody_checked_is_told_at_the_end(signum: int, code: int, patient: bool) -> None:
    done = []
    with pytest.raises(Interrupted, match="all that it was to stop was done by then") as raised:  # noqa: SIM117
        with stop_requests("", patient) as stop, stop.deferred():
            send(signum)
            done.append("the last unit")
    assert raised.value.exit_code == code and done


def test_an_error_comes_before_a_stop() -> None:
    with pytest.raises(ZeroDivisionError), stop_requests(""):
        send(signal.SIGTERM)
        _ = 1 / 0


def test_a_second_signal_ends_the_block_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_requests("") as stop:
        send(signal.SIGINT)
        assert stop.requested
        send(signal.SIGTERM)
        raise AssertionError("not reached")


def test_nothing_is_raised_where_nobody_asked() -> None:
    with stop_requests("") as stop:
        pass
    assert not stop.requested


@pytest.mark.fault("11.13 a signal in the last unit")
@pytest.mark.parametrize(("signum", "code"), CODES)
def test_cache_labels_says_so_after_its_last_unit(
    photos: Path, tmp_path: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, signum: int, code: int
) -> None:
    original = unit.label_unit

    def signalled(*arguments: Any) -> Any:
        send(signum)
        return original(*arguments)

    monkeypatch.setattr(unit, "label_unit", signalled)
    teacher = make_teacher()
    expert = tmp_path / "expert.pt"
    save_checkpoint(expert, teacher.model, epoch=3, metrics={})
    store = tmp_path / "labels.zarr"
    result = cli("cache-labels", photos, store, "--teacher", expert, "--views", 2, "--k", 2)
    assert result.exit_code == code and "done by then" in result.stderr, result.stderr
    # Whole, and the same command finds nothing to do.
    assert len(LabelStore.open(store).plane(1)) == 12
    monkeypatch.undo()
    again = cli("cache-labels", photos, store, "--teacher", expert, "--views", 2, "--k", 2)
    assert again.exit_code == 0 and "is complete" in again.stdout
