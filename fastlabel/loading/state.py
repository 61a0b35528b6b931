"""Where a loader stands, as a few plain values: checked against the loader that takes them up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastlabel.errors import InputError

STATE_VERSION = 1
_SHOWN = 12  # of the digits of a digest
_ADDED = {"views_per_image": 1}  # what a loader was of which an earlier state says nothing


@dataclass
class Place:
    """After how many batches of which epoch an iteration stands; `running` while it hands out batches."""

    epoch: int
    batches: int = 0
    running: bool = False


def place_to_dict(place: Place, loader: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a loader at a place. `loader` says what the loader is: integers, flags and digests by name."""
    return {"version": STATE_VERSION, "epoch": place.epoch, "batches": place.batches, **loader}


def place_from_dict(state: Mapping[str, Any], loader: Mapping[str, Any], batches_per_epoch: int) -> Place:
    """The place of a state that a loader of the same `loader` values gave.

    Raises:
        InputError: not a state, of another version, or of another loader: names the first value that differs.
    """
    if not isinstance(state, Mapping) or "version" not in state:
        raise InputError("not the state of a SoftLabelLoader: give what its state_dict() returned")
    if state["version"] != STATE_VERSION:
        raise InputError(
            f"the loader's state has version {state['version']!r}, this fastlabel reads version {STATE_VERSION}"
        )
    state = _ADDED | dict(state)
    names = ["version", "epoch", "batches", *loader]
    if set(state) != set(names):
        raise InputError(
            f"the loader's state has the values {', '.join(sorted(map(str, state)))}; expected {', '.join(names)}"
        )
    for name, here in loader.items():
        if type(state[name]) is not type(here) or state[name] != here:
            raise InputError(
                f"the state is that of another loader: its {name} is {_show(state[name])}, "
                f"this loader has {_show(here)}; it continues with the same {name} only"
            )
    epoch, batches = state["epoch"], state["batches"]
    if type(epoch) is not int or epoch < 0 or type(batches) is not int or not 0 <= batches <= batches_per_epoch:
        raise InputError(
            f"the loader's state stands after batch {batches!r} of epoch {epoch!r}: epochs count from 0, and this "
            f"loader has {batches_per_epoch} batches in each"
        )
    return Place(epoch, batches)


def _show(value: Any) -> str:
    return value[:_SHOWN] if isinstance(value, str) else str(value)
