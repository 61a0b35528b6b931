"""Writing checkpoints: whole or not at all, and with the same bytes for the same training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlabel.models.classifier import Classifier
from fastlabel.models.weights import CHECKPOINT_FORMAT, read_checkpoint
from fastlabel.system.atomic_files import write_file

__all__ = ["epoch_path", "read_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path,
    model: Classifier,
    *,
    epoch: int,
    metrics: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model, the epoch it stands after and that epoch's metrics; `extra` adds what resuming needs.

    `read_checkpoint` reads it back without running code.
    """
    content = {
        "format": CHECKPOINT_FORMAT,
        "spec": model.spec.to_dict(),
        "epoch": epoch,
        "metrics": dict(metrics),
        **({"categories": list(model.categories)} if model.categories else {}),
        "state": portable_state(model),
        **(extra or {}),
    }
    # torch.save puts the name of the file into its bytes; a buffer has none.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_file(path, buffer.getvalue())


def portable_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights on the CPU, each with its own memory."""
    return {name: _portable(tensor) for name, tensor in model.state_dict().items()}


def epoch_path(run: Path, epoch: int) -> Path:
    """Where the checkpoint after `epoch` epochs lies; 0 is the initialisation."""
    return run / f"epoch-{epoch:03d}.pt"


def _portable(tensor: Tensor) -> Tensor:
    # A clone keeps a view from dragging its whole storage into the file.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
