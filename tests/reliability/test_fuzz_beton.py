"""Ten seconds of the fuzzer of `.beton` files, in a process of its own: a crash would take the tests with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability import fuzz_beton


@pytest.mark.slow
@pytest.mark.fault("11 fuzzed dataset files")
def test_a_slice_of_the_fuzzer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.reliability.fuzz_beton", "--seconds", "10", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    running = (tmp_path / "running").read_text()
    assert done.returncode == 0, f"case {running}, exit {done.returncode}: {done.stdout[-4000:]}{done.stderr[-2000:]}"
    tally = json.loads(done.stdout.splitlines()[-1])
    assert tally["cases"] > 20 and tally["refused"] > 5 and tally["read whole"] > 0


def test_the_fuzzer_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a raw error or a sample's pixels not noticed, it would say that all is well."""
    given = fuzz_beton.seedlings(tmp_path)
    wrong = [fuzz_beton.Seedling(one.content, one.payloads, one.crops ^ 1) for one in given]
    monkeypatch.setattr(fuzz_beton, "seedlings", lambda folder: wrong)
    assert any("has other pixels" in finding for finding in fuzz_beton.run(0, 0, tmp_path, cases=30).findings)
    monkeypatch.setattr(fuzz_beton, "seedlings", lambda folder: given)

    def raw_error(*arguments: object) -> None:
        raise IndexError("out of bounds")

    monkeypatch.setattr(fuzz_beton.Beton, "open", raw_error)
    tally = fuzz_beton.run(0, 0, tmp_path, cases=3)
    assert len(tally.findings) == 3 and "IndexError: out of bounds" in tally.findings[0]
