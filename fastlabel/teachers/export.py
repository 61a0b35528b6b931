"""export_teacher: a module of one's own as a file that the command line takes."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fastlabel.errors import InputError, TeacherError
from fastlabel.system.arguments import at_least, boolean, one_of
from fastlabel.system.atomic_files import write_file
from fastlabel.teachers.exported import load_program
from fastlabel.teachers.own import Colours, category_names, checked_module
from fastlabel.teachers.spec import PROGRAM_SUFFIX, TeacherSpec

LARGEST_BATCH = 4096
_CPU = torch.device("cpu")


def export_teacher(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    mean: Colours | None = None,
    std: Colours | None = None,
    size: int | None = None,
    categories: Sequence[str] = (),
    batch: int | None = None,
    force: bool = False,
) -> Path:
    """Write a module as a program of torch.export, for `fastlabel cache-labels --teacher FILE.pt2 --trust-program`.

    `FILE.pt2.json` beside it keeps mean, std, size and the names of the classes. The module itself stays as it is. The
    file is read back, and must give the module's logits.

    Args:
        module, mean, std, size, categories: as of `fastlabel.teacher`.
        path: of the new file, which ends in .pt2.
        batch: the only batch size of the program; None exports it for any, which a module may not allow.
        force: whether it may take the place of another file.

    Returns:
        The path.

    Raises:
        InputError: an argument cannot be used, or the module is in training mode.
        TeacherError: it is no teacher, or torch.export cannot take it.
    """
    one_of("path", path, (str, os.PathLike), "a path")
    path = Path(path)
    if path.suffix != PROGRAM_SUFFIX or not path.parent.is_dir():
        raise InputError(f"{path} must be a name in an existing folder that ends in {PROGRAM_SUFFIX}")
    sidecar = path.with_name(path.name + ".json")
    for file in (path, sidecar):
        if file.is_dir() or (os.path.lexists(file) and not boolean("force", force)):
            raise InputError(f"{file} exists: choose another name, or pass force=True to replace it")
    if batch is not None:
        at_least("batch", batch, 1)
    net, spec = checked_module(module, mean, std, size)
    names = category_names(categories, spec.num_classes)
    net = net.to(_CPU)
    program = _program(net, spec.size, batch)
    _compare(program, net, spec.size, batch)
    beside = {"mean": list(spec.mean), "std": list(spec.std), "size": spec.size}
    text = json.dumps(beside | ({"categories": list(names)} if names else {}), ensure_ascii=False, indent=1)
    # A program without its sidecar, or with that of another one, would be taken for something that it is not.
    path.unlink(missing_ok=True)
    write_file(sidecar, text + "\n")
    write_file(path, program)
    return path


def _program(net: nn.Module, size: int, batch: int | None) -> bytes:
    # Two is the smallest batch that torch.export does not take for a constant.
    example = torch.zeros(batch or 2, 3, size, size)
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},)
    try:
        with torch.no_grad():
            program = torch.export.export(net, (example,), dynamic_shapes=shapes, strict=False)
        file = io.BytesIO()
        torch.export.save(program, file)
    except Exception as error:  # torch.export raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        advice = "" if batch else "; a batch that is fixed (batch=64, labelled with --forward-batch 64) may do"
        raise TeacherError(f"torch.export cannot take {type(net).__name__}: {reason}{advice}") from error
    return file.getvalue()


def _compare(program: bytes, net: nn.Module, size: int, batch: int | None) -> None:
    """TeacherError unless the program, read back, gives the module's logits."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"teacher{PROGRAM_SUFFIX}")
        file.write_bytes(program)
        loaded = load_program(TeacherSpec(file, trust_program=True), _CPU)
        images = torch.rand((batch or 3, 3, size, size), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            found, wanted = loaded(images), net(images)
    if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
        raise TeacherError(f"the exported program of {type(net).__name__} gives other logits than the module")
