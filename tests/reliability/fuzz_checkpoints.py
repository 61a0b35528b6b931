"""Random damage to checkpoints, state dicts and the JSON beside them: each loads, or is refused with one clear error.

`python -m tests.reliability.fuzz_checkpoints --seconds 1800 --seed 0` in the root of the repository. A case that fails
is told with its seed: `--seed N --cases 1` makes it again.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlabel.errors import FastlabelError
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.teachers.labelling_network import LabellingNetwork
from fastlabel.teachers.load import load_teachers
from fastlabel.teachers.spec import TeacherSpec

ARCH, SIZE = "convnet-d1-w8", 8
MAX_SECONDS, MAX_BYTES = 20.0, 1 << 30  # of one case
LONGEST_MESSAGE = 1500
Random = np.random.Generator


class Failure(AssertionError):
    """A case that ended in something else than a loaded teacher or a clear error."""


def run_case(seed: int, folder: Path) -> str:
    """Damage a file as a seed says, and load it: "loaded", or the class of the error. Failure for any other end."""
    random = np.random.default_rng(seed)
    path = folder / "case.pt"
    sidecar = folder / "case.pt.json"
    sidecar.unlink(missing_ok=True)
    kind = ("checkpoint", "state dict", "sidecar")[random.integers(3)]
    content = _content(kind != "checkpoint")
    if kind == "sidecar":
        path.write_bytes(_saved(content))
        sidecar.write_bytes(_odd_json(random))
    elif random.random() < 0.5:
        path.write_bytes(_damaged(_saved(content), random))
    else:
        path.write_bytes(_saved(_changed(content, random)))
    before, started = _peak_bytes(), time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch says that it looks at sparse tensors
            outcome = _load(path, None if kind == "checkpoint" else ARCH)
    except FastlabelError as error:
        message = str(error)
        if "\n" in message or not message or len(message) > LONGEST_MESSAGE:
            raise Failure(f"seed {seed}: the message is not one line of a decent length: {message[:200]!r}") from error
        outcome = type(error).__name__
    except Exception as error:
        raise Failure(f"seed {seed}, {kind}: {type(error).__name__}: {str(error)[:200]}") from error
    if time.monotonic() - started > MAX_SECONDS or _peak_bytes() - before > MAX_BYTES:
        raise Failure(f"seed {seed}, {kind}: took too much time or memory")
    return outcome


def _load(path: Path, arch: str | None) -> str:
    (teacher,) = load_teachers([TeacherSpec(path, arch=arch)], torch.device("cpu"), size=SIZE)
    side = teacher.model.spec.size
    with torch.inference_mode():
        LabellingNetwork(teacher)(torch.zeros(2, 3, side, side, dtype=torch.uint8))
    return "loaded"


def _content(bare: bool) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(ModelSpec(ARCH, 3, SIZE))
    if bare:
        return {"state_dict": dict(model.net.state_dict()), "epoch": 3}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return {"format": 1, "spec": model.spec.to_dict(), "epoch": 3, "metrics": {"loss": 0.5}, "state": state}


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _damaged(data: bytes, random: Random) -> bytes:
    """Bytes flipped, cut, doubled, overwritten or put in between, a few times."""
    found = bytearray(data)
    for _ in range(random.integers(1, 4)):
        at, length = int(random.integers(len(found) or 1)), int(random.integers(1, 64))
        way = random.integers(5)
        if way == 0 and found:
            found[at % len(found)] ^= 1 << int(random.integers(8))
        elif way == 1:
            del found[at:]
        elif way == 2:
            found[at:at] = found[at : at + length]
        elif way == 3:
            found[at : at + length] = random.bytes(length)
        else:
            found[at:at] = random.bytes(length)
    return bytes(found)


def _changed(content: dict[str, Any], random: Random) -> object:
    """The contents with odd values, keys taken away, renamed or added, a few times."""
    for _ in range(random.integers(1, 4)):
        holder = content
        while random.random() < 0.8:
            inner = [value for value in holder.values() if isinstance(value, dict) and value]
            if not inner:
                break
            holder = inner[random.integers(len(inner))]
        keys = list(holder)
        if not keys:
            return content
        key, way = keys[random.integers(len(keys))], random.integers(4)
        if way == 0:
            del holder[key]
        elif way == 1:
            holder[str(key) + ".odd"] = holder.pop(key)
        else:
            holder[key] = _odd_value(random, holder[key])
    return _odd_value(random, content) if random.random() < 0.02 else content


def _odd_value(random: Random, value: object) -> Any:
    if isinstance(value, Tensor) and random.random() < 0.7:
        return _odd_tensor(random, value)
    choices: list[Callable[[], Any]] = [
        lambda: None,
        lambda: -1,
        lambda: 10**12,
        lambda: 2**70,
        lambda: float("nan"),
        lambda: 1e308,
        lambda: "",
        lambda: "x" * 2000,
        lambda: "resnet18",
        lambda: "convnet-d3-w64",
        lambda: "vit_h_14",
        lambda: [],
        lambda: [0.5, 0.5, "a"],
        lambda: [0.5] * 3,
        lambda: {},
        lambda: {"a": torch.zeros(2)},
        lambda: torch.zeros(()),
        lambda: True,
        lambda: 5,
        lambda: 64,
        lambda: _nested(100),
    ]
    return choices[random.integers(len(choices))]()


def _odd_tensor(random: Random, value: Tensor) -> Tensor:
    if value.layout != torch.strided or not 0 < value.numel() <= 10**8:
        return value  # it is odd enough, and changes no more
    choices: list[Callable[[], Tensor]] = [
        lambda: value.char(),
        lambda: value.half(),
        lambda: value.double() if not value.is_complex() else value,
        lambda: value.to(torch.complex64),
        lambda: value.bool(),
        lambda: value * torch.nan,
        lambda: value[..., None],
        lambda: value.flatten()[:1].expand(10**9),
        lambda: value.flatten()[:0],
        lambda: value.reshape(-1),
        lambda: torch.zeros(7, 8),
        lambda: torch.zeros(3, 3).to_sparse(),
        lambda: value.to("meta"),
    ]
    return choices[random.integers(len(choices))]()


def _odd_json(random: Random) -> bytes:
    """A sidecar: odd values under its keys, or no JSON at all."""
    if random.random() < 0.2:
        return [b"", b"[", b"[" * 100_000, b"\xff\xfe", b"null", b"[1]", random.bytes(50)][random.integers(7)]
    keys = ["arch", "mean", "std", "size", "categories", "colour"]
    odd: list[Any] = [
        None, 0, -1, 1.5, 8, 16, 2**70, "", "a", "resnet18", ARCH, "timm:resnet18", "timm:", "zca:" + ARCH, [], [1], {},
        [0.5] * 3, [0.5, 0.5, None], ["a", "b", "c"], ["a"], float("nan"), float("inf"), True, "é" * 500,
    ]  # fmt: skip
    chosen = random.choice(keys, size=random.integers(1, 4), replace=False)
    values = {str(key): odd[random.integers(len(odd))] for key in chosen}
    return json.dumps(values).encode()


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(seed: int, seconds: float, cases: int | None = None) -> dict[str, int]:
    """Cases from a seed on until the time is over: how many ended in what. Failure for the first that must not."""
    ends: dict[str, int] = {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() - started < seconds and (cases is None or sum(ends.values()) < cases):
            outcome = run_case(seed, Path(folder))
            ends[outcome] = ends.get(outcome, 0) + 1
            seed += 1
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int)
    options = parser.parse_args()
    ends = fuzz(options.seed, options.seconds, options.cases)
    print(f"{sum(ends.values()):,} cases from seed {options.seed}: {ends}")


if __name__ == "__main__":
    main()
