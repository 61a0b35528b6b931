"""Kernels run on the libtbb of the package, though ffcv's OpenCV is linked to that of the system, which may leak."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

SCRIPT = """
import os
import numpy as np
import fastlabel.dataset.beton
from fastlabel.views import ViewPolicy

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

def crop(times):
    for _ in range(times):
        policy.boxes(0, ids, sides, sides)

policy, ids, sides = ViewPolicy.random_resized_crop(16), np.arange(8), np.full(8, 32)
crop(500)
before = anonymous()
crop(3000)
maps = [line.split()[-1] for line in open("/proc/self/maps")]
print(anonymous() - before, *{os.path.realpath(name) for name in maps if "libtbb.so" in name})
"""


@pytest.mark.slow
def test_the_packages_tbb_comes_first_and_keeps_nothing_of_a_call() -> None:
    try:
        files = metadata.files("tbb") or []
    except metadata.PackageNotFoundError:
        pytest.skip("the package tbb is not installed here")
    (wanted,) = [str(file.locate().resolve()) for file in files if file.name == "libtbb.so.12"]
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    kib, *loaded = done.stdout.split()
    assert loaded == [wanted]
    assert int(kib) < 1024  # the system's TBB 2021.8: 21,000
