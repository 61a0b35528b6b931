"""Several teachers as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastlabel.errors import InputError
from fastlabel.models.classifier import ModelSpec
from fastlabel.teachers.labelling_network import LabellingNetwork
from fastlabel.teachers.teacher import Teacher

ENSEMBLES = ("mean-logits", "mean-probs", "scaled-logits")


class Ensemble(nn.Module):
    """Several teachers as one: crops of 0 to 255 [B, 3, S, S] to the combined logits float32 [B, C].

    "mean-logits" is the mean of their logits; "mean-probs" the log of the mean of their probabilities; "scaled-logits"
    the mean of their centred logits after each got the mean norm of all, in every row (G-VBSM, arXiv 2311.17950, takes
    the norm of a batch). `spec` counts the classes, and says that the images come as they are: each member normalises
    and resizes for itself.
    """

    def __init__(self, rule: str, members: Sequence[nn.Module], num_classes: int, size: int) -> None:
        super().__init__()
        if rule not in ENSEMBLES:
            raise InputError(f"unknown ensemble {rule!r}: known are {', '.join(ENSEMBLES)}")
        self.rule, self.members = rule, nn.ModuleList(members)
        self.spec = ModelSpec("ensemble", num_classes, size, (0.0,) * 3, (1.0,) * 3)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """The combined logits of B crops."""
        logits_MBC = torch.stack([member(images_B3SS) for member in self.members])
        if self.rule == "mean-logits":
            return logits_MBC.mean(dim=0)
        if self.rule == "scaled-logits":
            return _scaled_mean(logits_MBC.double()).float()
        logs = torch.log_softmax(logits_MBC.double(), dim=2)
        return (torch.logsumexp(logs, dim=0) - math.log(len(self.members))).float()


def _scaled_mean(logits_MBC: Tensor) -> Tensor:
    centred_MBC = logits_MBC - logits_MBC.mean(dim=2, keepdim=True)
    norms_MB1 = centred_MBC.norm(dim=2, keepdim=True)
    # A row without a norm is all zero: it stays so.
    return (centred_MBC * torch.where(norms_MB1 > 0, norms_MB1.mean(dim=0) / norms_MB1, 1.0)).mean(dim=0)


def combine(members: Sequence[Teacher], rule: str, size: int) -> Teacher:
    """Several teachers as one, which takes images of `size` pixels. InputError unless their labels go together."""
    if rule not in ENSEMBLES:
        raise InputError(f"unknown ensemble {rule!r}: known are {', '.join(ENSEMBLES)}")
    if len(members) < 2:
        raise InputError("an ensemble needs two teachers or more")
    for what, values in (
        ("numbers of classes", [member.num_classes for member in members]),
        (
            "choices of classes",
            [(member.keeps_classes, member.keeps_classes and member.class_map) for member in members],
        ),
        ("precisions", [(member.precision, member.tf32) for member in members]),
        ("forwards", [member.forward for member in members]),
    ):
        if any(value != values[0] for value in values):
            raise InputError(f"the teachers of an ensemble have different {what}: {', '.join(map(str, values))}")
    first = members[0]
    model: Any = Ensemble(rule, [LabellingNetwork(member) for member in members], first.num_classes, size)
    return Teacher(
        model=model.eval(),
        name="+".join(member.name for member in members),
        precision=first.precision,
        tf32=first.tf32,
        forward=first.forward,
        class_map=first.class_map if first.keeps_classes else None,
        keeps_classes=first.keeps_classes,
        ensemble=rule,
        members=tuple(members),
    )
