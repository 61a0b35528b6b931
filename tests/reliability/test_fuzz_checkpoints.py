"""Ten seconds of the fuzzer of checkpoints, from a seed that never changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.fuzz_checkpoints import fuzz, run_case


@pytest.mark.slow
def test_damaged_checkpoints_and_sidecars_load_or_are_refused() -> None:
    ends = fuzz(seed=0, seconds=10)
    assert ends.get("TeacherError", 0) > 10 and ends.get("loaded", 0) > 0, ends


def test_an_archive_that_claims_several_disks_is_refused(tmp_path: Path) -> None:
    assert run_case(2953, tmp_path) == "TeacherError"
