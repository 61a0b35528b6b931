"""Fixtures of betons, see tests/betons.py."""

from tests.betons import ffcv_betons, ffcv_images, write_beton

__all__ = ["ffcv_betons", "ffcv_images", "write_beton"]
