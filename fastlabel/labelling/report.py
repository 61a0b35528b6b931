"""What a labelling run did, or would do."""

from __future__ import annotations

from dataclasses import dataclass

from fastlabel.labelling.codec_choice import Choice


@dataclass(frozen=True)
class CacheReport:
    """What a labelling run did, or with `dry_run` would do.

    Attributes:
        crops: sample-view pairs that the finished store holds.
        crops_done: those labelled by this run, each by all teachers.
        units, units_done: of the run's teachers in the whole store; committed by this run.
        bytes_on_disk: of the finished store; an estimate in a dry run.
        seconds: that labelling took; an estimate in a dry run.
        seconds_between: the least and the most that a dry run expects; None where it could not tell.
        choices: codecs that a dry run with a goal tried for the first teacher; empty without.
    """

    store: str
    samples: int
    views: int
    teachers: tuple[str, ...]
    k: int
    num_classes: int
    crops: int
    crops_done: int
    units: int
    units_done: int
    bytes_on_disk: int
    seconds: float
    dry_run: bool = False
    seconds_between: tuple[float, float] | None = None
    choices: tuple[Choice, ...] = ()
