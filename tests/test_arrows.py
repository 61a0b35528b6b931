"""Which folder may import which, and what importing fastlabel costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fastlabel"
LINKS = ("kernels", "cli", "benchmarks")

# A folder (or a module at the root) may import those before it: one line a folder.
ORDER = [
    "errors",
    "digests",
    "kernels",
    "models",
    "system",
    "views",
    "sampling",
    "dataset",
    "labels",
    "images",
    "store",
    "teachers",
    "loading",
    "inspection",
    "labelling",
    "interchange",
    "train",
    "integrity",
    "studies",
    "demo",
    "label_ops",
    "",  # fastlabel/__init__.py
    "benchmarks",
    "cli",
]
# Narrower than the order: these may import, of ours, nothing else.
ONLY: dict[str, set[str]] = {
    "errors": set(),
    "digests": set(),
    "kernels": set(),
    "models": {"errors"},
    "label_ops": {"labels"},
}
OWNERS = {  # third-party package: who may import it
    "zarr": {"store"},
    "ffcv": {"images", "benchmarks"},  # benchmarks: as a peer
    "click": {"cli", "benchmarks"},
    "triton": {"kernels", "benchmarks"},  # benchmarks: to look at compiled kernels
}
KERNELS_MAY_IMPORT = {"torch", "numpy", "numba", "llvmlite", "triton"} | set(sys.stdlib_module_names)


def modules() -> dict[str, str]:
    """Dotted name to source of every module of the package, through the symlinks."""
    files = {path for root in (PACKAGE, *(PACKAGE / name for name in LINKS)) for path in root.rglob("*.py")}
    return {dotted(path): path.read_text() for path in sorted(files)}


def dotted(path: Path) -> str:
    parts = ("fastlabel", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: str, source: str, known: set[str]) -> Iterator[str]:
    """Absolute names of everything that a module imports, at its top or lazily."""
    is_package = any(name.startswith(module + ".") for name in known)
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                ancestor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*ancestor, *base.split(".")]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in known else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.args[0].value


def part(module: str) -> str:
    """views for fastlabel.views, images for fastlabel.images.loader, nothing for fastlabel itself."""
    return module.split(".")[1] if "." in module else ""


def violations(sources: dict[str, str]) -> list[str]:
    """Every import that goes against the design, as `importer -> imported: rule`."""
    found = []
    for module, source in sources.items():
        me = part(module)
        if me not in ORDER:
            found.append(f"{module}: give it a place in ORDER")
            continue
        for target in sorted(set(imports(module, source, set(sources)))):
            rule = broken_rule(me, target)
            if rule:
                found.append(f"{module} -> {target}: {rule}")
    return found


def broken_rule(me: str, target: str) -> str | None:
    top = target.split(".")[0]
    if top != "fastlabel":
        if me not in OWNERS.get(top, {me}):
            return f"only {', '.join(sorted(OWNERS[top]))} may import {top}"
        if me == "kernels" and top not in KERNELS_MAY_IMPORT:
            return f"kernels may not import {top}"
        return None
    other = part(target)
    if other == me:
        return None
    if other not in ORDER or ORDER.index(other) > ORDER.index(me):
        return "against the order"
    if other not in ONLY.get(me, {other}):
        return f"{me} may import, of ours, only {', '.join(sorted(ONLY[me])) or 'nothing'}"
    return None


def prints(source: str) -> list[int]:
    """Lines that call print()."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_imports_follow_the_arrows():
    assert violations(modules()) == []


def test_the_library_does_not_print():
    printing = {name: prints(text) for name, text in modules().items() if part(name) != "cli"}
    assert {name: lines for name, lines in printing.items() if lines} == {}


def test_the_walk_sees_the_symlinked_packages():
    names = modules().keys()
    assert {"fastlabel", "fastlabel.errors", "fastlabel.cli.main", "fastlabel.dataset.write"} <= names
    assert any(name.startswith("fastlabel.kernels.") for name in names)
    assert "fastlabel.benchmarks.harness" in names


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("fastlabel.errors", "from fastlabel import views"),
        ("fastlabel.views", "import fastlabel.store.store"),
        ("fastlabel.views", "def f():\n    from .store.manifest import Manifest"),
        ("fastlabel.views", "from fastlabel import LabelStore"),
        ("fastlabel.labels.topk", "import zarr"),
        ("fastlabel.store.store", "from fastlabel.dataset.write import write_dataset\nimport fastlabel.loading.loader"),
        ("fastlabel.images.loader", "from ..store import LabelStore"),
        ("fastlabel.loading.loader", "def f():\n    from ffcv.loader import Loader"),
        ("fastlabel.loading.loader", "import importlib\nimportlib.import_module('ffcv')"),
        ("fastlabel.loading.loader", "from fastlabel.train import loop"),
        ("fastlabel.train.loop", "import click"),
        ("fastlabel.train.loop", "import fastlabel.cli.main"),
        ("fastlabel.labelling.cache", "from fastlabel.benchmarks import harness"),
        ("fastlabel.models.classifier", "import fastlabel.labels.codec"),
        ("fastlabel.kernels.op.op", "from fastlabel.errors import InputError"),
        ("fastlabel.kernels.op.op", "from ...errors import InputError"),
        ("fastlabel.kernels.op.op", "import tqdm"),
        ("fastlabel.surprise", "import os"),
    ],
)
def test_a_forbidden_import_is_found(module, text):
    parts = [
        "kernels",
        "kernels.op",
        "images",
        "train",
        "cli.main",
        "benchmarks",
        "errors",
        "views",
        "labels",
        "store",
        "store.manifest",
    ]
    sources = dict.fromkeys(["fastlabel", *(f"fastlabel.{name}" for name in parts)], "")
    assert violations(sources) == []
    assert violations(sources | {module: text})


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            "fastlabel.kernels.op.op",
            "import torch, math\nfrom .reference import f\nfrom fastlabel.kernels import op",
        ),
        ("fastlabel.store.store", "import zarr\nfrom .. import views, errors"),
        ("fastlabel.images.loader", "import ffcv\nfrom fastlabel import views"),
        ("fastlabel.cli.main", "import click\nfrom fastlabel import LabelStore"),
    ],
)
def test_an_allowed_import_is_not(module, text):
    known = ["fastlabel", "fastlabel.kernels", "fastlabel.kernels.op", "fastlabel.errors", "fastlabel.views"]
    assert violations(dict.fromkeys(known, "") | {module: text}) == []


def loaded_after(statement: str) -> set[str]:
    """The top-level packages in a fresh process after torch (whatever it brings) and then a statement."""
    script = (
        "import json, sys, torch\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_fastlabel_is_light():
    heavy = {"ffcv", "zarr", "triton", "click", "matplotlib", "torchvision", "sklearn", "cv2"}
    assert loaded_after("import fastlabel") & heavy == set()
