"""How far labels move when only the rounding of a teacher's arithmetic differs, as it does on another device.

Measures what fastlabel/rounding.py must allow. The first samples are labelled twice on the CPU: by oneDNN's kernels in
canonical batches of 64, and by PyTorch's own in batches of 50. Both add the same numbers in another order.

    python -m tests.reliability.rounding DATA.beton TEACHER [--k 5] [--samples 2000]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fastlabel.dataset.beton import Beton
from fastlabel.images.loader import ImageLoader
from fastlabel.integrity.tolerance import Arrays, Rounding, moved_codes, unequal_rows
from fastlabel.labelling.forward import CanonicalBatches, TeacherForward
from fastlabel.store.units import ARRAYS
from fastlabel.teachers.load import load_teachers
from fastlabel.teachers.recorded import describe
from fastlabel.teachers.spec import TeacherSpec
from fastlabel.teachers.teacher import Teacher
from fastlabel.views import ViewPolicy

WAYS = ((64, True), (50, False))  # forward batch, whether oneDNN runs


def labels(beton: Beton, teacher: Teacher, k: int, samples: int, batch: int, onednn: bool) -> Arrays:
    """Labels [samples, ...] of the first samples, made in one way."""
    device = torch.device("cpu")
    forward = TeacherForward(teacher, describe(teacher, beton, k, device, batch), device)
    policy = ViewPolicy.center(teacher.model.spec.size)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
    flags: Any = torch.backends.mkldnn
    with (
        flags.flags(enabled=onednn),
        ImageLoader(beton, policy, 128).epoch(np.arange(min(samples, beton.num_samples)), [0]) as epoch,
    ):
        for stage, ids, _ in CanonicalBatches(1, batch, policy.size).regroup(epoch):
            made = forward.labels(stage[0], ids, 0)
            for name in ARRAYS:
                parts[name].append(getattr(made, name).numpy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def compare(one: Arrays, other: Arrays, limits: Rounding) -> dict[str, float]:
    unequal = unequal_rows(one, other)
    pairs = [tuple({name: arrays[name][row] for name in ARRAYS} for arrays in (one, other)) for row in unequal]
    same = one["classes"] == other["classes"]
    steps = np.abs(one["codes"].astype(int) - other["codes"])[same]
    return {
        "labels": len(one["codes"]),
        "labels_unequal": len(unequal),
        "share_of_codes_moved": moved_codes(one, other) / one["codes"].size,
        "largest_step_of_a_code": int(steps.max()),
        "largest_step_of_the_tail": int(np.abs(one["tail"].astype(int) - other["tail"])[:, 0].max()),
        "labels_beyond_the_limits": sum(not limits.allows(*pair) for pair in pairs),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("teacher")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    beton = Beton.open(options.data)
    (loaded,) = load_teachers([TeacherSpec(options.teacher)], torch.device("cpu"))
    for precision in ("fp32", "bf16", "fp16"):
        teacher = replace(loaded, precision=precision)
        one, other = (labels(beton, teacher, options.k, options.samples, *way) for way in WAYS)
        limits = Rounding.of(describe(teacher, beton, options.k, torch.device("cpu"), WAYS[0][0]))
        print(json.dumps({"precision": precision} | compare(one, other, limits)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
