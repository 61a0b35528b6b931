"""A digest of source files, for Numba's cache on disk to see that code in other files has changed.

Numba's cache looks at the file of a function, not at those of the functions that it calls: it would go on with what
they were when it was filled. It does look at what a function has closed over. So a function that is cached and calls
into other files closes over this digest of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


def digest(modules: Iterable[ModuleType]) -> str:
    """Hex digest of the modules' source text, in their order."""
    return hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in modules)).hexdigest()
