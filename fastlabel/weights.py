"""Weights files: reading one without running code from it, and a digest of its tensors."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastlabel.errors import TeacherError

CHECKPOINT_FORMAT = 1


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a fastlabel checkpoint, tensors on the CPU.

    Only tensors and plain values are read (`weights_only`): a pickle that needs more could run any code, and
    is refused. Raises TeacherError for a missing, truncated or foreign file.
    """
    path = Path(path)
    if path.is_dir():
        raise TeacherError(f"{path} is a folder: name one of its checkpoints, such as {path}/epoch-001.pt")
    if not path.is_file():
        raise TeacherError(f"{path} does not exist: give the path of a checkpoint that train-teacher wrote")
    if not zipfile.is_zipfile(path):
        raise TeacherError(f"{path} is not a PyTorch checkpoint, or is cut short ({path.stat().st_size} bytes)")
    return _checked(path, _load(path))


def _load(path: Path) -> object:
    try:
        # torch.load does not check the checksums that torch.save wrote.
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise TeacherError(f"{path} is damaged: the checksum of its part {broken} is wrong")
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip().splitlines()[:1]
        raise TeacherError(
            f"{path} holds Python objects beyond tensors and plain values, which can run code when loaded: "
            f"refused ({''.join(reason) or 'weights_only load failed'})"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise TeacherError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _checked(path: Path, content: object) -> dict[str, Any]:
    if not isinstance(content, dict) or "format" not in content:
        raise TeacherError(
            f"{path} is not a fastlabel checkpoint (no format number): give one that train-teacher wrote"
        )
    if content["format"] != CHECKPOINT_FORMAT:
        raise TeacherError(f"{path} has checkpoint format {content['format']}, this version reads {CHECKPOINT_FORMAT}")
    missing = [key for key in ("spec", "state", "epoch") if key not in content]
    if missing:
        raise TeacherError(f"{path} is not a whole checkpoint: it lacks {', '.join(missing)}")
    return content


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of a state dict: sorted names, each with dtype, shape and C-order little-endian bytes.

    It depends neither on the device nor on the memory format, so the same weights have the same digest
    everywhere.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
