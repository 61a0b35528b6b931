"""Programs that torch.export saved: checked before they are loaded, and wrapped as a network."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from fastlabel.errors import TeacherError
from fastlabel.models.classifier import ModelSpec
from fastlabel.models.weights import file_sha256
from fastlabel.teachers.pretrained import Network
from fastlabel.teachers.program_text import text_faults

SUFFIX = ".pt2"
# All that torch.export.save writes. PyTorch loads whatever begins with models/, and looks names up in any case.
_PARTS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(?:version|serialization_id)|models/model\.json"
    r"|data/weights/(?:weight_\d+|model_weights_config\.json|model\.pt)|data/sample_inputs/model\.pt"
    r"|data/constants/(?:(?:tensor|custom_obj|opaque_obj)_\d+|model_constants_config\.json|model\.pt)|extra/[\w./-]+",
    re.ASCII,
)


class Program(nn.Module):
    """An exported program as a network: normalised images float32 [B, 3, S, S] to logits [B, C].

    Its weights are not parameters of this module: a program stays on the device and in the mode that it was loaded in.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self._call = [program.module()]  # in a list, out of sight of train(), to() and state_dict()

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Logits [B, C] of normalised images; contiguous ones, since a program may hold views of that layout."""
        logits: Tensor = self._call[0](images_B3SS.contiguous())
        return logits


def load_program(path: Path, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Network:
    """The program in a .pt2 file on a device, which takes images so normalised. Its batch and size may be fixed.

    Raises TeacherError for a file that is damaged, holds pickled objects or compiled code, or whose program is no
    classifier in eval mode: one input [B, 3, S, S] of floats, one output [B, C], nothing random.
    """
    check_archive(path)
    try:
        program = torch.export.load(path)
        if device.type != "cpu":
            program = move_to_device_pass(program, str(device))
    except Exception as error:  # torch.export raises many kinds
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise TeacherError(f"{path} cannot be loaded by this PyTorch {torch.__version__}: {reason}") from error
    images, logits = _signature(path, program)
    _check_repeatable(path, program)
    batch, side = images.shape[0], images.shape[2]
    own = side if isinstance(side, int) else None
    spec = ModelSpec(f"export:{file_sha256(path)}", int(logits.shape[1]), own or 1, mean, std)
    return Network(
        spec,
        Program(program),
        any_size=own is None,
        fixed_batch=batch if isinstance(batch, int) else None,
        extra_state=dict(_tensors(program)),
    )


def check_archive(path: Path) -> None:
    """TeacherError where loading a .pt2 file could run code: pickled objects, compiled code, odd size expressions.

    torch.export.load unpickles whatever it finds in one, without a question.
    """
    if not path.is_file():
        raise TeacherError(f"{path} does not exist: give a program that torch.export.save wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken is not None:
                raise TeacherError(f"{path} is damaged: the checksum of its part {broken} is wrong")
            reason = _odd_entries(archive.namelist())
        reason = reason or next(_dangers(torch._C.PyTorchFileReader(str(path))), None)
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, RuntimeError, AttributeError, TypeError) as error:
        message = (str(error).splitlines() or ["no reason given"])[0]
        raise TeacherError(f"{path} is no program that torch.export.save wrote, or is damaged: {message}") from error
    if reason:
        raise TeacherError(f"{path} is refused: {reason}")


def _odd_entries(entries: list[str]) -> str | None:
    """Why PyTorch might read other parts than these, if it might: of two parts of one name it takes the first."""
    if len({entry.casefold() for entry in entries}) != len(entries):
        return "it has two parts of the same name"
    if len({entry.partition("/")[0] for entry in entries}) > 1:
        return "it has more than one folder at its top"
    return None


def _dangers(reader: Any) -> Iterator[str]:
    # Read as PyTorch will read it, since archives can be made that two readers see differently.
    names = reader.get_all_records()
    if "archive_format" not in names or not any(name.startswith("models/") for name in names):
        yield "it is not of the format of torch.export.save of PyTorch 2.8 and later; export it again"
    for name in names:
        if name.startswith("data/aotinductor/"):
            yield f"it holds compiled code ({name})"
        if not _PARTS.fullmatch(name):
            yield f"its part {name} is none that torch.export.save writes"
        elif name.endswith("_config.json"):
            for what, payload in json.loads(reader.get_record(name))["config"].items():
                if payload.get("use_pickle") or "obj" in payload["path_name"]:
                    yield f"its {what} is a pickled object, which can run code when loaded"
        elif name.endswith(".pt"):
            try:
                torch.load(io.BytesIO(reader.get_record(name)), weights_only=True, map_location="cpu")
            except Exception:
                yield f"its part {name} is a pickle of more than tensors, which can run code when loaded"
        elif name == "models/model.json":
            yield from text_faults(json.loads(reader.get_record(name)))


def _signature(path: Path, program: ExportedProgram) -> tuple[Tensor, Tensor]:
    """The program's input and output, as tensors without values. TeacherError unless it is a classifier of images."""
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [nodes.get(str(name)) for name in program.graph_signature.user_inputs]
    outputs = [nodes.get(str(name)) for name in program.graph_signature.user_outputs]
    takes, gives = ([_shape(value) for value in values] for values in (inputs, outputs))
    (images, *more), (logits, *others) = inputs or [None], outputs or [None]
    if (
        not isinstance(images, Tensor)
        or not isinstance(logits, Tensor)
        or more
        or others
        or images.dtype != torch.float32
        or images.ndim != 4
        or logits.ndim != 2
        or images.shape[1] != 3
        or not isinstance(logits.shape[1], int)
    ):
        raise TeacherError(
            f"{path} takes {', '.join(takes) or 'nothing'} and gives {', '.join(gives) or 'nothing'}; a teacher takes "
            "one batch of normalised images, float32 [B, 3, S, S], and gives logits [B, C]"
        )
    return images, logits


def _shape(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}".removeprefix("torch.") if isinstance(value, Tensor) else str(value)


def _check_repeatable(path: Path, program: ExportedProgram) -> None:
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise TeacherError(f"{path} changes its own buffers when it runs: export it in eval mode, after model.eval()")
    # What runs under no_grad or autocast is a graph of its own.
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        given = _arguments(node)
        if given.get("training") is True or given.get("train") is True:
            raise TeacherError(f"{path} was exported in training mode ({node.target.name()}): call model.eval() before")
        random = torch.Tag.nondeterministic_seeded in node.target.tags
        if random and given.get("train") is not False and given.get("dropout_p", 1) != 0:
            raise TeacherError(f"{path} draws random numbers ({node.target.name()}): a teacher must repeat itself")


def _arguments(node: Any) -> dict[str, Any]:
    schema = node.target._schema.arguments
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return defaults | {argument.name: value for argument, value in zip(schema, node.args, strict=False)} | node.kwargs


def _tensors(program: ExportedProgram) -> Iterator[tuple[str, Tensor]]:
    stores: tuple[Mapping[str, Any], ...] = (program.state_dict, program.constants)
    for prefix, tensors in zip(("", "constant."), stores, strict=True):
        for name, value in tensors.items():
            if isinstance(value, Tensor):
                yield prefix + name, value
