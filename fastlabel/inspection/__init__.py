"""What a store holds: `inspect`, its figures and the contact sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlabel.system.lazy_names import lazy_names

if TYPE_CHECKING:
    from fastlabel.inspection.inspect import Inspection, inspect_store

__all__ = ["Inspection", "inspect_store"]

__getattr__ = lazy_names(__name__, {"Inspection": "inspect", "inspect_store": "inspect"})
