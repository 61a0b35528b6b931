"""Commands that run networks keep freed memory; a library call, another C library or a user's word leave it alone."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from fastlabel.cli.main import COMMANDS, COMPUTING
from fastlabel.errors import InputError
from fastlabel.system.allocator import keep_freed_memory

NAMES = ("FASTLABEL_MALLOC", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
MEASURE = """
import ctypes
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
before, block = resident(), library.malloc(64 << 20)
ctypes.memset(block, 1, 64 << 20)
library.free(block)
print(resident() - before)
"""
KEEP = "from fastlabel.system.allocator import keep_freed_memory\nkeep_freed_memory()\n"
COMMAND = """
import click, sys
from fastlabel.cli import main
main.import_module = lambda module: type("", (), {"command": click.Command("stand-in", callback=lambda: None)})
try:
    main.main([sys.argv[1]])
except SystemExit as end:
    assert not end.code
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")


def megabytes_kept(script: str, *arguments: str, **variables: str) -> int:
    """What a process holds of 64 MB that it took, wrote to and freed again after a script."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | variables
    command = [sys.executable, "-c", script + MEASURE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@glibc
@pytest.mark.fault("11.15 the allocator of a CPU run")
@pytest.mark.parametrize(
    ("script", "variables", "kept"),
    [
        ("", {}, False),
        ("import fastlabel\n", {}, False),
        (KEEP, {}, True),
        (KEEP, {"FASTLABEL_MALLOC": "default"}, False),
        (KEEP, {"FASTLABEL_MALLOC": ""}, True),
        (KEEP, {"MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        (KEEP, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}, False),
    ],
)
def test_freed_memory_is_kept_where_it_was_asked_for(script: str, variables: dict[str, str], kept: bool) -> None:
    found = megabytes_kept(script, **variables)
    assert found >= 63 if kept else found <= 1


@glibc
@pytest.mark.fault("11.15 the allocator of a CPU run")
@pytest.mark.parametrize("name", ["cache-labels", "inspect"])
def test_a_command_that_computes_keeps_it(name: str) -> None:
    assert megabytes_kept(COMMAND, name) >= 63 if name in COMPUTING else megabytes_kept(COMMAND, name) <= 1


def test_the_commands_that_compute_are_commands() -> None:
    assert set(COMMANDS) > COMPUTING


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Musl())
    assert keep_freed_memory({}) is False


def test_an_unknown_word_is_an_error() -> None:
    with pytest.raises(InputError, match="FASTLABEL_MALLOC is 'off': set it to default"):
        keep_freed_memory({"FASTLABEL_MALLOC": "off"})
