"""Arrays in files, read without running code: `.npy`, `.npz`, `.safetensors`, `.h5`, and tensors of `torch.save`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlabel.dataset.saved_files import read_saved
from fastlabel.errors import DatasetError, InputError

SUFFIXES = (".npy", ".npz", ".safetensors", ".h5", ".hdf5", ".pt", ".pth")
Arrays = dict[str, NDArray[Any]]


def read_arrays(path: Path) -> Arrays:
    """The arrays of a file, by name; one without a name is called "", those of a list "0", "1", ...

    Raises InputError for another kind of file; DatasetError where it is damaged, or a pickle.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a file of the kind {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DatasetError(f"{path} does not exist, or is no file")
    if path.suffix in (".pt", ".pth"):
        return _of_tensors(path, read_saved(path))
    try:
        if path.suffix in (".h5", ".hdf5"):
            return _read_hdf5(path)
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(path))
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except Exception as error:  # NumPy, zipfile, HDF5 and safetensors each have errors of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{path} cannot be read as arrays: {reason}") from error


def _of_tensors(path: Path, content: Any) -> Arrays:
    if isinstance(content, (torch.Tensor, np.ndarray)):
        content = {"": content}
    elif isinstance(content, (list, tuple)):
        content = {str(number): value for number, value in enumerate(content)}
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds a {type(content).__name__}, expected tensors")
    found = {str(name): value for name, value in content.items() if isinstance(value, (torch.Tensor, np.ndarray))}
    if not found:
        raise DatasetError(f"{path} holds no tensor")
    return {name: _array(value) for name, value in found.items()}


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def _read_hdf5(path: Path) -> Arrays:
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path}: reading HDF5 needs h5py: pip install 'fastlabel[h5]'") from error
    found: Arrays = {}
    with h5py.File(path, "r") as file:

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and node.dtype.kind in "biuf":
                found[name] = node[()]

        file.visititems(visit)
    return found
