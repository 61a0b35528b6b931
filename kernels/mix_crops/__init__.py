"""Crops of pairs of samples, mixed in place: CutMix and MixUp on uint8."""

from fastlabel.kernels.mix_crops.op import TABLE, mix_crops_
from fastlabel.kernels.mix_crops.reference import mix_crops_reference

__all__ = ["TABLE", "mix_crops_", "mix_crops_reference"]
