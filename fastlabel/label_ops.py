"""The public name of `fastlabel.labels.ops`: edits and mixtures of sparse labels."""

from fastlabel.labels.ops import *  # noqa: F403
from fastlabel.labels.ops import __all__ as __all__
