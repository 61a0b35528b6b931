"""Numba's cache on disk, made to see changes in other files, and not to need a folder that can be written.

Numba compares the file of a function with the one that it compiled, not those of the functions that it calls nor of
the constants that it reads: it would go on with what they were when the cache was filled.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numba

_DEPENDS_ON: dict[str, tuple[ModuleType, ...]] = {}


def cached_njit(*, depends_on: Iterable[ModuleType] = (), **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` whose compiled code is kept on disk until its file, or one that it depends on, changes.

    Where neither the folder of the file nor the user's cache can be written, code is kept in a folder of this user's
    beside other temporary files; where that cannot be either, it is compiled in each process.

    Args:
        depends_on: Modules whose functions or constants are compiled into this one; what those depend on by their own
            `cached_njit` need not be repeated.
        options: Options of `numba.njit`, other than `cache`.
    """
    modules = tuple(depends_on)

    def decorate(function: Callable[..., Any]) -> Any:
        name = function.__module__
        _DEPENDS_ON[name] = tuple(dict.fromkeys((*_DEPENDS_ON.get(name, ()), *modules)))
        compiled = numba.njit(**options)(function)
        if hasattr(compiled, "enable_caching"):  # not under NUMBA_DISABLE_JIT
            _enable(compiled, _digest(all_of(modules)))
        return compiled

    return decorate


def all_of(modules: Iterable[ModuleType]) -> tuple[ModuleType, ...]:
    """These modules and what their cached functions depend on, each once."""
    found: dict[str, ModuleType] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop(0)
        if module.__name__ not in found:
            found[module.__name__] = module
            waiting.extend(_DEPENDS_ON.get(module.__name__, ()))
    return tuple(found.values())


def _digest(modules: Iterable[ModuleType]) -> str:
    """Hex digest of the modules' source text, in their order."""
    return hashlib.sha256(b"".join(_source(str(module.__file__)) for module in modules)).hexdigest()


@lru_cache
def _source(file: str) -> bytes:
    return Path(file).read_bytes()


def _enable(compiled: Any, sources: str) -> None:
    """Keep the code of a function on disk, if anywhere, as that of its own file and of these sources."""
    try:
        compiled.enable_caching()
    except RuntimeError:  # no folder can be written
        with _temporary_folder():
            try:
                compiled.enable_caching()
            except RuntimeError:
                return
    file = compiled._cache._cache_file
    file._source_stamp = (file._source_stamp, sources)


@contextmanager
def _temporary_folder() -> Iterator[None]:
    """Within: Numba takes a folder for temporary files that only this user can write, since it runs what it finds."""
    folder, given = Path(tempfile.gettempdir()) / f"fastlabel-numba-{os.getuid()}", vars(numba.config)["CACHE_DIR"]
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid == os.getuid() and status.st_mode & 0o170077 == 0o040000:
            vars(numba.config)["CACHE_DIR"] = str(folder)
    except OSError:
        pass
    try:
        yield
    finally:
        vars(numba.config)["CACHE_DIR"] = given
