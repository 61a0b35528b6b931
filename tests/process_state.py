"""What a whole process shares, and so what one test could leave behind for the next: read, compare, put back.

Not the filters of warnings, which pytest itself puts back after each test.
"""

from __future__ import annotations

import contextlib
import locale
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
import torch


class Setting(NamedTuple):
    read: Callable[[], Any]
    write: Callable[[Any], Any]


# pytest keeps the first of these itself; the others are written by Python and by libraries as they load.
VARIABLES_OF_OTHERS = {
    "PYTEST_CURRENT_TEST",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "LC_CTYPE",
    "NUMBA_THREADING_LAYER",  # fastlabel.kernels, once, before Numba loads
    "LD_LIBRARY_PATH",  # OpenCV
    "QT_QPA_FONTDIR",  # OpenCV
    "QT_QPA_PLATFORM_PLUGIN_PATH",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "TRITON_PTXAS_PATH",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
}


def search_path() -> list[str]:
    """`sys.path` without what setuptools adds as torch's compiler loads it."""
    return [entry for entry in sys.path if not entry.endswith("setuptools/_vendor")]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in VARIABLES_OF_OTHERS}


def write_environment(wanted: dict[str, str]) -> None:
    for name in environment().keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


_OTHERS = (signal.SIGALRM, signal.SIGCHLD)


def signal_handlers() -> dict[signal.Signals, Any]:
    """Without those of pytest-timeout, and of PyTorch's DataLoader, whose first one with workers stays for good."""
    return {number: signal.getsignal(number) for number in signal.Signals if number not in _OTHERS}


def write_signal_handlers(wanted: dict[signal.Signals, Any]) -> None:
    for number, handler in wanted.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def numba_threads() -> int:
    """All, until a parallel kernel has started them: to ask Numba would start them."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    started = parallel is not None and parallel._is_initialized
    return numba.get_num_threads() if started else numba.config.NUMBA_NUM_THREADS


def attribute(owner: Any, name: str) -> Setting:
    return Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def autocast(device: str) -> Setting:
    return Setting(
        lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)),
        lambda state: (torch.set_autocast_enabled(device, state[0]), torch.set_autocast_dtype(device, state[1])),
    )


def precisions() -> dict[str, Setting]:
    """What float32 products may be rounded to: named anew by PyTorch 2.9, which refuses to mix old names with new."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):
        owners = {"cuda.matmul": backends.cuda.matmul, "cudnn": backends.cudnn}
        return {f"torch.backends.{name}.allow_tf32": attribute(it, "allow_tf32") for name, it in owners.items()} | {
            "torch float32 matmul precision": Setting(
                torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
            )
        }
    names = ("cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn", "mkldnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
    found = {}
    for name in names:
        owner = backends
        for step in name.split("."):
            owner = getattr(owner, step)
        found[f"torch.backends.{name}.fp32_precision"] = attribute(owner, "fp32_precision")
    return found


def write_deterministic(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


SETTINGS: dict[str, Setting] = {
    "torch threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "torch deterministic algorithms": Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        write_deterministic,
    ),
    "torch.utils.deterministic.fill_uninitialized_memory": attribute(
        torch.utils.deterministic, "fill_uninitialized_memory"
    ),
    "torch default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch default device": Setting(
        torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)
    ),
    "torch grad mode": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch anomaly mode": Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch autocast on the CPU": autocast("cpu"),
    "torch autocast on CUDA": autocast("cuda"),
    "torch sharing strategy": Setting(
        torch.multiprocessing.get_sharing_strategy, torch.multiprocessing.set_sharing_strategy
    ),
    **{
        f"torch.backends.cudnn.{name}": attribute(torch.backends.cudnn, name)
        for name in ("enabled", "benchmark", "deterministic")
    },
    **{
        f"torch.backends.cuda.matmul.{name}": attribute(torch.backends.cuda.matmul, name)
        for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    },
    **precisions(),
    "numba threads": Setting(numba_threads, numba.set_num_threads),
    "numpy error state": Setting(np.geterr, lambda state: np.seterr(**state)),
    "numpy print options": Setting(np.get_printoptions, lambda options: np.set_printoptions(**options)),
    "environment variables": Setting(environment, write_environment),
    "working directory": Setting(os.getcwd, os.chdir),
    "umask": Setting(umask, os.umask),
    "locale": Setting(lambda: locale.setlocale(locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name)),
    "signal handlers": Setting(signal_handlers, write_signal_handlers),
    "sys.path": Setting(search_path, lambda path: sys.path.__setitem__(slice(None), path)),
    "sys.excepthook": attribute(sys, "excepthook"),
    "threading.excepthook": attribute(threading, "excepthook"),
    "sys.unraisablehook": attribute(sys, "unraisablehook"),
}


def read_settings() -> dict[str, Any]:
    return {name: setting.read() for name, setting in SETTINGS.items()}


def put_back(before: dict[str, Any]) -> list[str]:
    """Restore what differs from `before`; one line for each such setting."""
    changed = []
    for name, value in before.items():
        now = SETTINGS[name].read()
        if now != value:
            changed.append(f"{name}: {difference(value, now)}")
            SETTINGS[name].write(value)
    return changed


def difference(before: Any, now: Any) -> str:
    """Only the entries that differ, where both are dicts."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"{before!r} became {now!r}"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ", ".join(f"{key} {before.get(key)!r} became {now.get(key)!r}" for key in keys)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Put every setting back afterwards: for a test that changes some on purpose."""
    before = read_settings()
    try:
        yield
    finally:
        put_back(before)


@contextlib.contextmanager
def guarded(name: str) -> Iterator[None]:
    """Fail if a setting is left changed, naming who left it, and put it back for those that follow."""
    before = read_settings()
    yield
    changed = put_back(before)
    if changed:
        raise AssertionError("; ".join([f"{name} left a setting of the whole process changed", *changed]))


def seed_everything() -> None:
    """The same global random numbers for every test, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
