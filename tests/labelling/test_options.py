"""Arguments that contradict each other, and a dry run that ends in time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlabel.errors import InputError
from fastlabel.labelling import estimate as estimate_module
from fastlabel.labelling.cache import cache_labels
from fastlabel.labelling.estimate import _speeds
from fastlabel.labelling.options import view_policy
from fastlabel.views import ViewPolicy
from tests.stores import make_teacher


@pytest.mark.fault("11.7 arguments that are ignored")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 24}, "size=24 contradicts the view policy, whose size is 16: leave size out"),
        ({"seed": 5}, "seed=5 contradicts the view policy, whose seed is 3"),
        ({"seed": 0}, "seed=0 contradicts"),
        ({"flip": True}, "flip=True contradicts the view policy, whose flip is False"),
    ],
)
def test_what_a_policy_says_itself_cannot_be_said_otherwise(
    make_store: Callable[..., Path], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    policy = ViewPolicy.pad_crop(16, seed=3, flip=False, padding=2)
    with pytest.raises(InputError, match=message):
        make_store(policy=policy, **{"size": None} | arguments)
    assert not list(tmp_path.glob("*.zarr"))


def test_what_a_policy_says_may_be_said_again() -> None:
    policy = ViewPolicy.pad_crop(16, seed=3, flip=False, padding=2)
    assert view_policy(policy, None, None, None, 32) is policy
    assert view_policy(policy, 16, 3, False, 32) is policy
    named = view_policy("random-resized-crop", None, None, None, 32)
    assert (named.size, named.seed, named.flip) == (32, 0, True)


@pytest.mark.fault("11.14 a dry run that takes half of the run")
def test_a_dry_run_ends_in_time(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as many samples as it may take: none after the first batch that ends late."""
    seen: list[int] = []
    real = estimate_module.try_labelling

    def count(*arguments: Any) -> Any:
        for crops, nbytes in real(*arguments):
            seen.append(crops)
            yield crops, nbytes

    monkeypatch.setattr(estimate_module, "try_labelling", count)
    options: dict[str, Any] = {"views": 8, "k": 2, "size": 16, "forward_batch": 1, "device": "cpu", "dry_run": True}
    whole = cache_labels(photos, tmp_path / "a.zarr", [make_teacher()], **options)
    assert len(seen) == 1 + 12 * 8 and whole.seconds_between is not None
    assert whole.seconds_between[0] <= whole.seconds <= whole.seconds_between[1]
    monkeypatch.setattr(estimate_module, "SECONDS", 0.0)
    seen.clear()
    short = cache_labels(photos, tmp_path / "a.zarr", [make_teacher()], **options)
    assert len(seen) == 2 and short.seconds_between is None and short.crops == 96
    assert short.bytes_on_disk > 0 and not (tmp_path / "a.zarr").exists()


def test_speeds_are_of_parts_of_equally_many_batches() -> None:
    assert _speeds([1.0, 2.0], [4, 8]) == []
    ends = [float(number + 1) for number in range(21)]
    assert _speeds(ends, [8 * (number + 1) for number in range(21)]) == [8.0] * 5
