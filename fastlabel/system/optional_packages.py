"""Packages that only some uses need, and that fastlabel does not bring."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastlabel.errors import InputError


def optional_module(name: str, extra: str | None = None) -> Any:
    """A module of a package that may be missing; InputError says how to install it: by fastlabel's extra, or alone."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        by_extra = f"pip install 'fastlabel[{extra}]' or " if extra else ""
        raise InputError(f"{package} is not installed: {by_extra}pip install {package} ({error})") from error
