"""Files of `torch.save`, read without running code: tensors, NumPy arrays and plain values alone."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlabel.errors import DatasetError

_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


def _numpy_values() -> list[Any]:
    """What makes arrays and numbers of bytes. NumPy 1 wrote the same under the module name `numpy.core`."""
    numpy: Any = np
    multiarray = numpy._core.multiarray
    makers = [(multiarray.scalar, "scalar"), (multiarray._reconstruct, "_reconstruct")]
    allowed: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(name)) for name in _DTYPES)]
    for maker, name in makers:
        allowed += [(maker, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")]
    return allowed


def read_saved(path: Path) -> Any:
    """What a file of `torch.save` holds, tensors on the CPU. DatasetError where it is damaged or has code."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist, or is no file")
    try:
        _check_archive(path)
        with torch.serialization.safe_globals(_numpy_values()):
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip().split("\n")[0].split(" was not an")[0]
        raise DatasetError(
            f"{path} holds Python objects beyond tensors, arrays and plain values, which can run code when loaded: "
            f"refused ({reason or 'weights_only load failed'})"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise DatasetError(f"{path} is damaged or cut short: {reason}; copy it again") from error


def _check_archive(path: Path) -> None:
    """ValueError unless it is a whole archive of `torch.save`, whose checksums torch.load does not look at."""
    with open(path, "rb") as file:
        if file.read(1) == b"\x80":  # before version 1.6 PyTorch wrote a bare pickle
            return
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("it is compressed, which torch.save never does")
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the checksum of its part {broken} is wrong")
