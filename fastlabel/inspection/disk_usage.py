"""The files of a store, and which of them belong to what is committed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fastlabel.store.store import LabelStore
from fastlabel.store.units import ALL_ARRAYS, UnitAddress, record_path, shard_path


class StoreFiles:
    """The size of every file of a store; what belongs to committed units is taken out."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sizes: dict[Path, int] = {}
        for folder, _, names in os.walk(root):
            for name in names:
                # A run that is labelling may rename a file at any time.
                with suppress(FileNotFoundError):
                    self._sizes[Path(folder) / name] = os.lstat(os.path.join(folder, name)).st_size
        self.total = sum(self._sizes.values())

    def take_units(self, store: LabelStore, teacher: int, units: Iterable[UnitAddress]) -> tuple[dict[str, int], int]:
        """Bytes of each array and of the records. StoreError where a unit has lost a file."""
        arrays, records = dict.fromkeys(store.arrays(teacher), 0), 0
        for unit in units:
            store.check_shards(unit, teacher)
            for name in arrays:
                arrays[name] += self._sizes.pop(shard_path(self._root, teacher, name, unit), 0)
            records += self._sizes.pop(record_path(self._root, teacher, unit), 0)
        return arrays, records

    def uncommitted_bytes(self) -> int:
        return sum(size for path, size in self._sizes.items() if not self._is_metadata(path))

    def metadata_bytes(self) -> int:
        return sum(size for path, size in self._sizes.items() if self._is_metadata(path))

    def _is_metadata(self, path: Path) -> bool:
        parts = path.relative_to(self._root).parts
        shard = len(parts) > 2 and parts[1] in ALL_ARRAYS and parts[2] == "c"
        return not shard and not any(part.endswith(".partial") for part in parts)
