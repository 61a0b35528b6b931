"""Weights files: reading one without running code from it, and a digest of its tensors."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastlabel.errors import InputError, TeacherError

CHECKPOINT_FORMAT = 1
LARGEST_SIDECAR = 16 << 20  # bytes: the names of a million classes
SMALL = 1 << 20  # bytes that an expanded tensor may take
_PICKLE_MAGIC = b"\x80"
_NAMED_BY_HASH = re.compile(r"-([0-9a-f]{8,64})\.[A-Za-z0-9]+$")


def read_weights(path: str | Path) -> object:
    """Whatever a weights file holds, tensors on the CPU: a PyTorch file, or safetensors by its suffix.

    Only tensors and plain values are read (`weights_only`): a pickle that needs more could run any code, and
    is refused. Raises TeacherError for that, and for a file that is missing, foreign or damaged.
    """
    path = Path(path)
    if path.is_dir():
        raise TeacherError(f"{path} is a folder: name one of its checkpoints, such as {path}/epoch-001.pt")
    if not path.is_file():
        raise TeacherError(
            f"{path} does not exist: give the path of a checkpoint, torchvision:NAME@WEIGHTS or timm:NAME"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with open(path, "rb") as file:
        # Before version 1.6 PyTorch wrote a bare pickle.
        legacy = file.read(1) == _PICKLE_MAGIC
    if not legacy and not _is_archive(path):
        raise TeacherError(f"{path} is not a PyTorch checkpoint, or is cut short ({path.stat().st_size} bytes)")
    return _load(path, legacy)


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # for some damaged ends, instead of an answer
        return False


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a fastlabel checkpoint, read as `read_weights` does. TeacherError for a foreign file."""
    content = read_weights(path)
    if not is_checkpoint(content):
        raise TeacherError(
            f"{path} is not a fastlabel checkpoint (no format number): give one that train-teacher wrote"
        )
    return checked(Path(path), content)


def is_checkpoint(content: object) -> bool:
    """Whether the contents of a file are a checkpoint of train-teacher or train-student."""
    # Others write a "format" as well, such as "pt"; ours is a number.
    return isinstance(content, dict) and type(content.get("format")) is int


def checked(path: Path, content: object) -> dict[str, Any]:
    """The contents of a fastlabel checkpoint. TeacherError unless it is whole and of this version's format."""
    assert isinstance(content, dict)
    if content["format"] != CHECKPOINT_FORMAT:
        raise TeacherError(f"{path} has checkpoint format {content['format']}, this version reads {CHECKPOINT_FORMAT}")
    missing = [key for key in ("spec", "state", "epoch") if key not in content]
    if missing:
        raise TeacherError(f"{path} is not a whole checkpoint: it lacks {', '.join(missing)}")
    if not isinstance(content["spec"], dict) or type(content["epoch"]) is not int:
        raise TeacherError(f"{path} is damaged: its spec or its epoch is none")
    categories = content.get("categories", [])
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise TeacherError(f"{path} is damaged: its categories are no list of class names")
    if not is_state_dict(content["state"]):
        raise TeacherError(f"{path} is damaged: its state is no dictionary of names and tensors")
    return content


def is_state_dict(content: object) -> bool:
    """Whether something is a dictionary of names and tensors, and not empty."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


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


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_in_name(name: str) -> str | None:
    """The start of a file's SHA-256 where its name carries it, as PyTorch's model zoo does: resnet18-f37072fd.pth."""
    match = _NAMED_BY_HASH.search(name)
    return match[1] if match else None


def read_sidecar(path: Path) -> dict[str, Any]:
    """The JSON object in PATH.json beside a weights file, or nothing. InputError if it is no JSON object."""
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        return {}
    if sidecar.stat().st_size > LARGEST_SIDECAR:
        raise InputError(f"{sidecar} has {sidecar.stat().st_size:,} bytes, expected at most {LARGEST_SIDECAR:,}")
    try:
        values = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{sidecar} is not JSON: {error}") from error
    known = ("arch", "mean", "std", "size", "categories")
    if not isinstance(values, dict) or set(values) - set(known):
        raise InputError(f"{sidecar} must be a JSON object with some of the keys {', '.join(known)}")
    size, categories = values.get("size", 1), values.get("categories", [])
    if type(size) is not int or size < 1:
        raise InputError(f"size in {sidecar} must be a whole number of pixels, not {size!r}")
    if not isinstance(values.get("arch", ""), str):
        raise InputError(f"arch in {sidecar} must be the name of a network, not {values['arch']!r}")
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise InputError(f"categories in {sidecar} must be a list of class names, not {str(categories)[:60]}")
    return values


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(f"{path}: pip install safetensors, or fastlabel[timm], to read this format") from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise TeacherError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _load(path: Path, legacy: bool) -> object:
    try:
        if not legacy:
            _check_archive(path)
        content = torch.load(path, weights_only=True, map_location="cpu")
        _check_storage(path, content)
        return content
    except pickle.UnpicklingError as error:
        raise TeacherError(
            f"{path} holds Python objects beyond tensors and plain values, which can run code when loaded: "
            f"refused ({_reason(error)}); where you trust it, load it yourself and torch.save its state_dict() alone"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TeacherError(f"{path} is damaged: {(str(error).splitlines() or ['no reason given'])[0]}") from error


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        if "constants.pkl" in names:
            raise TeacherError(f"{path} is a TorchScript program, which is not read: save it with torch.export.save")
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise TeacherError(f"{path} is compressed, which torch.save never does: unpack it, and save it again")
        # torch.load does not check the checksums that torch.save wrote.
        broken = archive.testzip()
    if broken is not None:
        raise TeacherError(f"{path} is damaged: the checksum of its part {broken} is wrong")


def _check_storage(path: Path, content: object) -> None:
    """TeacherError for a tensor of more values than the file has: sparse, or expanded, and large when it is copied."""
    stack, seen = [content], set()
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            nbytes = value.numel() * value.element_size()
            whole = value.layout == torch.strided and not value.is_meta
            if not whole or nbytes > max(SMALL, value.untyped_storage().nbytes()):
                raise TeacherError(
                    f"{path} is refused: a tensor of shape {list(value.shape)} has no values, or fewer than it says"
                )
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            stack += value.values() if isinstance(value, dict) else value


def _reason(error: Exception) -> str:
    text = str(error).partition("WeightsUnpickler error:")[2].strip()
    # What follows is advice on how to allow it, which is not ours to give.
    return re.split(r" was not an allowed global|\.? Please use|\n", text)[0] or "weights_only load failed"
