"""A teacher's network as its forward pass runs it: weights in its precision, compiled if it says so."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from fastlabel.teachers.precision import PRECISIONS
from fastlabel.teachers.teacher import Teacher

# Exactly these: a subclass may compute with its weights before it uses them.
_AUTOCAST = (nn.Conv1d, nn.Conv2d, nn.Linear, NonDynamicallyQuantizableLinear)


def forward_network(teacher: Teacher) -> nn.Module:
    """What `LabellingNetwork` calls within `teacher_precision`; the teacher's own model stays as it is."""
    if teacher.members:
        return teacher.model  # they run each in its own way
    network = with_cast_weights(teacher.model, PRECISIONS[teacher.precision])
    return network if teacher.forward == "eager" else compiled(network)


def with_cast_weights(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy whose convolutions and linear layers hold weights of the type that autocast gives them in each pass.

    Under autocast its outputs are the same, bit by bit. Without a type, or such layers, it is the model itself.
    """
    if dtype is None or not any(_is_cast(module) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        if _is_cast(module):
            module.to(dtype)
    return model


def compiled(model: nn.Module) -> nn.Module:
    """The model as torch.compile runs it without gradients: weights are constants, batch norm is folded into them.

    One graph, or an error: what is compiled in part, or no more after some shapes, would give other last bits.
    """
    from torch._inductor import config

    # Without "deterministic" kernels are chosen by their speed, which differs from run to run.
    options: dict[str, Any] = {"freezing": True} | ({"deterministic": True} if hasattr(config, "deterministic") else {})
    network: nn.Module = torch.compile(model, fullgraph=True, dynamic=False, options=options)  # type: ignore[assignment]
    return network


def is_compile_error(error: RuntimeError) -> bool:
    """Whether torch.compile could not take a network, or not as one graph."""
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def _is_cast(module: nn.Module) -> bool:
    hooked = module._forward_pre_hooks  # such as weight norm's, which makes the weight anew
    return type(module) in _AUTOCAST and module.weight.dtype == torch.float32 and not hooked
