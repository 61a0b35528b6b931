"""Digests of JSON values and of sample ids, and where two JSON values differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, in ASCII: equal values have equal texts, and 1 is not true."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_digest(value: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def ids_digest(ids: NDArray[np.int64]) -> str:
    """SHA-256 (hex) of sample ids as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(ids, "<i8").tobytes()).hexdigest()


def first_difference(found: Any, wanted: Any, where: str = "") -> tuple[str, str, str] | None:
    """(dotted path, found, wanted) of the first place where two JSON values differ, or None."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = list(dict.fromkeys([*found, *wanted]))
        pairs = [(f"{where}.{key}" if where else key, found.get(key), wanted.get(key)) for key in keys]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(found, wanted, strict=True))]
    else:
        return None if canonical_json(found) == canonical_json(wanted) else (where, _brief(found), _brief(wanted))
    return next((d for at, a, b in pairs if (d := first_difference(a, b, at))), None)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
