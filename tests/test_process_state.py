"""The guard of every test: it must notice each setting of the process that a test leaves changed."""

from __future__ import annotations

import locale
import os
import signal
import sys
import threading

import numba
import numpy as np
import pytest
import torch

from tests.process_state import SETTINGS, guarded, numba_threads, read_settings, restored


def change_autocast(device):
    torch.set_autocast_enabled(device, not torch.is_autocast_enabled(device))


def flip(owner, name):
    return lambda: setattr(owner, name, not getattr(owner, name))


CHANGES = {
    "torch threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch.utils.deterministic.fill_uninitialized_memory": flip(torch.utils.deterministic, "fill_uninitialized_memory"),
    "torch default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch default device": lambda: torch.set_default_device("meta"),
    "torch grad mode": lambda: torch.set_grad_enabled(False),
    "torch anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "torch autocast on the CPU": lambda: change_autocast("cpu"),
    "torch autocast on CUDA": lambda: change_autocast("cuda"),
    "torch sharing strategy": lambda: torch.multiprocessing.set_sharing_strategy("file_system"),
    "numpy error state": lambda: np.seterr(over="raise"),
    "numpy print options": lambda: np.set_printoptions(precision=2),
    "environment variables": lambda: os.environ.update(FASTLABEL_LEFT_BEHIND="1"),
    "working directory": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o077),
    "locale": lambda: locale.setlocale(locale.LC_NUMERIC, "C.UTF-8"),
    "signal handlers": lambda: signal.signal(signal.SIGUSR1, lambda *_: None),
    "sys.path": lambda: sys.path.append("/nowhere"),
    "sys.excepthook": lambda: setattr(sys, "excepthook", lambda *_: None),
    "threading.excepthook": lambda: setattr(threading, "excepthook", lambda *_: None),
    "sys.unraisablehook": lambda: setattr(sys, "unraisablehook", lambda *_: None),
    **{
        f"torch.backends.cudnn.{name}": flip(torch.backends.cudnn, name)
        for name in ("enabled", "benchmark", "deterministic")
    },
    **{
        f"torch.backends.cuda.matmul.{name}": flip(torch.backends.cuda.matmul, name)
        for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    },
}
PRECISIONS = sorted(name for name in SETTINGS if name.endswith(("precision", "allow_tf32")))


def test_every_setting_is_tried():
    assert sorted([*CHANGES, *PRECISIONS, "numba threads"]) == sorted(SETTINGS)


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_left_changed_fails_by_name_and_is_put_back(name):
    check(name, CHANGES[name])


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_left_changed_fails_by_name_and_is_put_back(name):
    value = SETTINGS[name].read()
    other = (not value) if isinstance(value, bool) else ("medium" if value == "highest" else "ieee")
    check(name, lambda: SETTINGS[name].write(other))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core: there is no other number of threads")
def test_numba_threads_left_changed_fail_by_name_and_are_put_back():
    numba.get_num_threads()  # starts them
    check("numba threads", lambda: numba.set_num_threads(numba_threads() - 1))


def check(name, change):
    before = read_settings()
    with (
        pytest.raises(AssertionError, match="test_a left a setting of the whole process changed") as caught,
        guarded("test_a"),
    ):
        change()
    assert f"{name}: " in str(caught.value)
    assert read_settings() == before


def test_what_changes_nothing_passes():
    with guarded("test_a"):
        torch.rand(3)


def test_restored_puts_back_what_a_test_changes_on_purpose_even_as_it_fails():
    before = read_settings()
    with pytest.raises(ZeroDivisionError), restored():
        torch.set_float32_matmul_precision("medium")
        os.environ["HOME"] = "/elsewhere"
        1 / 0  # noqa: B018
    assert read_settings() == before
