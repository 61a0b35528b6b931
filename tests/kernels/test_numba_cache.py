"""Numba's cache on disk sees changes in other files, and does without a folder that can be written."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fastlabel.kernels.numba_cache import all_of

ROOT = Path(__file__).parents[2]
KERNELS = (
    *(f"{op}.numba" for op in ("decode_topk", "encode_topk", "view_boxes", "soft_cross_entropy")),
    *("resized_crop.numba", "resized_crop.weights", "resized_crops.numba"),
    *("common.exp32", "common.half", "common.label_row"),
)

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from callee import CONSTANT  # noqa
import kernel
assert kernel.value() == CONSTANT
print("from disk" if sum(kernel.value.stats.cache_hits.values()) else "compiled")
"""
KERNEL = """
import callee, middle
from middle import add
from fastlabel.kernels.numba_cache import cached_njit

@cached_njit(nogil=True, depends_on=(middle,))
def value():
    return add()
"""
MIDDLE = """
import callee
from callee import CONSTANT
from fastlabel.kernels.numba_cache import cached_njit

@cached_njit(depends_on=(callee,))
def add():
    return CONSTANT
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A cached kernel that calls another one, of another file, which reads a constant of a third."""
    for name, text in (("kernel", KERNEL), ("middle", MIDDLE), ("callee", "CONSTANT = 1\n")):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def run(folder: Path, **environment: str) -> str:
    """Whether a process finds the kernel on disk; it fails on a result that is not the constant."""
    given = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    given |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [sys.executable, "-c", PROGRAM.format(folder=str(folder))]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_constant_of_another_file_is_seen_to_change(package: Path) -> None:
    assert [run(package), run(package)] == ["compiled", "from disk"]
    (package / "callee.py").write_text("CONSTANT = 2\n")
    assert [run(package), run(package)] == ["compiled", "from disk"]


@pytest.mark.fault("11.12 no locator available")
def test_without_a_folder_that_can_be_written_beside_the_file_or_at_home(package: Path) -> None:
    (package / "__pycache__").write_text("a file, where a folder is wanted")
    temporary = package / "temporary"
    temporary.mkdir()
    places = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache", "TMPDIR": str(temporary)}
    assert [run(package, **places), run(package, **places)] == ["compiled", "from disk"]
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)  # others could have put code there
    assert run(package, **places) == "compiled"


@pytest.mark.parametrize("name", KERNELS)
def test_every_file_that_a_kernel_imports_is_one_that_it_depends_on(name: str) -> None:
    module = importlib.import_module(f"fastlabel.kernels.{name}")
    known = {other.__name__ for other in all_of([module])}
    for other in all_of([module]):
        assert imported(other) <= known, f"{other.__name__} is compiled with files that nothing names"


def imported(module: ModuleType) -> set[str]:
    """Modules of the kernels that a module imports by name or takes names from, beside this mechanism."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fastlabel.kernels"):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & sys.modules.keys()
            found |= inside or {str(node.module)}
    return found - {"fastlabel.kernels.numba_cache"}
