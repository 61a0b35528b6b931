"""Is a store sound, and how is it made sound again: `verify` and `repair`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlabel.system.lazy_names import lazy_names

if TYPE_CHECKING:
    from fastlabel.integrity.repair import repair_store
    from fastlabel.integrity.verify import verify_store

__all__ = ["repair_store", "verify_store"]

__getattr__ = lazy_names(__name__, {"repair_store": "repair", "verify_store": "verify"})
