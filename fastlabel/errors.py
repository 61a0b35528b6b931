"""Every error that fastlabel raises on purpose. The command line turns them into one line and an exit code."""

from __future__ import annotations


class FastlabelError(Exception):
    """Something failed that the message explains. Exit code 1."""

    exit_code = 1


class InputError(FastlabelError, ValueError):
    """A value that the caller gave cannot be used. Exit code 2."""

    exit_code = 2


class DatasetError(InputError):
    """A dataset file or folder is missing, damaged or not what it should be. Exit code 2."""


class StoreError(FastlabelError):
    """A label store is damaged, incomplete or cannot be written. Exit code 1."""


class MissingLabelsError(StoreError, LookupError):
    """The store does not hold the labels that were asked for (view, teacher or sample). Exit code 1."""


class ManifestMismatchError(StoreError):
    """A store belongs to other data, views, codec or teachers than the ones at hand. Exit code 1."""


class ImageDecodeError(FastlabelError):
    """An image could not be decoded; the message names the sample. Exit code 1."""


class TeacherError(FastlabelError):
    """A teacher cannot be loaded, or gives logits that cannot be stored. Exit code 1."""


class Interrupted(FastlabelError):
    """A run stopped where nothing is lost, because a signal asked for it. Exit code 128 + signal: 130 or 143."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum
