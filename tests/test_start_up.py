"""What each command imports: nothing heavy that it does not use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlabel.cli.main import COMMANDS
from fastlabel.studies.registry import STUDIES

HEAVY = {"PIL", "cv2", "ffcv", "matplotlib", "numba", "sklearn", "timm", "torch", "torchvision", "triton", "zarr"}
SCRIPT = """
import json, sys
from fastlabel.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def imported(*commands: list[str]) -> set[str]:
    """The heavy packages in a new process after these commands."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & set(json.loads(done.stderr.splitlines()[-1]))


def test_help_imports_nothing_heavy():
    commands = [[name, "--help"] for name in COMMANDS]
    assert imported(["--help"], ["--version"], *commands, ["study", "experts", "--help"]) == set()


@pytest.mark.slow
def test_the_help_of_a_study_imports_torch_alone():
    assert imported(*(["study", name, "--help"] for name in STUDIES)) <= {"torch", "zarr", "numba"}


@pytest.mark.slow
def test_a_store_is_read_without_images_and_networks(make_store: Callable[..., Path], photos: Path, tmp_path: Path):
    store, data = str(make_store()), str(photos)
    assert imported(["copy", store, str(tmp_path / "copy.zarr")]) == {"torch"}
    # `verify` and `inspect` still load Numba and Triton with the modules that make crops and labels.
    commands = ["verify", store], ["verify", store, data], ["inspect", store], ["inspect", store, data]
    assert imported(*commands) <= {"torch", "zarr", "numba", "triton"}
