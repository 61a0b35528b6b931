"""Tables of pyarrow as the package datasets makes them of a folder of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.dataset.tiny_images import NAMES


def table(root: Path, names: tuple[str, ...] = NAMES, *, typed: bool = True, fine: bool = False) -> pa.Table:
    """The images of a folder as `datasets` stores them."""
    files = sorted(root.rglob("*.JPEG"))
    labels = [NAMES.index(path.parts[-3]) for path in files]
    columns: dict[str, Any] = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in files]}
    columns["label"] = labels
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    if fine:
        columns["fine"] = [1 - min(label, 1) for label in labels]
        features["fine"] = {"_type": "ClassLabel", "names": ["a", "b"]}
    made = pa.table(columns)
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})} if typed else {})
