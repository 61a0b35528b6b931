"""Programs that torch.export saved: loaded where they are trusted, checked, and wrapped as a network."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from fastlabel.errors import TeacherError
from fastlabel.models.weights import file_sha256
from fastlabel.teachers.spec import TeacherSpec


class Program(nn.Module):
    """An exported program as a network: normalised images float32 [B, 3, S, S] to logits [B, C].

    Its weights are not parameters of this module: a program stays on the device and in the mode that it was loaded in.

    Attributes:
        arch: names the bytes of the file.
        size: side in pixels of the images that it takes; None where it takes any.
        batch: the only batch size that it takes; None where it takes any.
        tensors: its weights by name.
    """

    def __init__(self, arch: str, program: ExportedProgram, images: Tensor, logits: Tensor) -> None:
        super().__init__()
        self._call = [program.module()]  # in a list, out of sight of train(), to() and state_dict()
        batch, side = images.shape[0], images.shape[2]
        self.arch, self.num_classes = arch, int(logits.shape[1])
        self.size = side if isinstance(side, int) else None
        self.batch = batch if isinstance(batch, int) else None
        self.tensors = dict(_tensors(program))

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """Logits [B, C] of normalised images; contiguous ones, since a program may hold views of that layout."""
        logits: Tensor = self._call[0](images_B3SS.contiguous())
        return logits


def load_program(spec: TeacherSpec, device: torch.device) -> Program:
    """The program in a .pt2 file on a device.

    Loading one is running code: torch.export.load unpickles what it finds, evaluates size expressions and looks
    operators up by name. So it is loaded only where the spec says that it is trusted.

    Raises:
        InputError: it is not trusted.
        TeacherError: the file is damaged, or its program is no classifier in eval mode: one input [B, 3, S, S] of
            floats, one output [B, C] of floats, nothing random.
    """
    path = Path(spec.source)
    if not path.is_file():
        raise TeacherError(f"{path} does not exist: give a program that torch.export.save wrote")
    spec.check_trust()
    try:
        _check_sums(path)
        program = torch.export.load(path)
        if device.type != "cpu":
            program = move_to_device_pass(program, str(device))
    except Exception as error:  # torch.export raises many kinds
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise TeacherError(
            f"{path} is damaged, or no program that torch.export.save wrote for PyTorch {torch.__version__}: {reason}"
        ) from error
    images, logits = _signature(path, program)
    _check_repeatable(path, program)
    return Program(f"export:{file_sha256(path)}", program, images, logits)


def _check_sums(path: Path) -> None:
    """ValueError for a part whose checksum is wrong, which torch.export.load does not look at."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the checksum of its part {broken} is wrong")


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
        or not logits.is_floating_point()
        or images.ndim != 4
        or logits.ndim != 2
        or images.shape[1] != 3
        or not isinstance(logits.shape[1], int)
    ):
        raise TeacherError(
            f"{path} takes {', '.join(takes) or 'nothing'} and gives {', '.join(gives) or 'nothing'}; a teacher takes "
            "one batch of normalised images, float32 [B, 3, S, S], and gives logits [B, C] of floats"
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
