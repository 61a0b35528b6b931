"""TransformBasis: the orthonormal basis of a teacher's logits, made from some of them and kept beside the labels."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.kernels.transform import finite_centred
from fastlabel.system.arguments import at_least, one_of
from fastlabel.system.devices import as_device

DTYPE = np.dtype("<f2")
NEGLIGIBLE = 1e-9  # share of the variance below which a component is rounding, not a dimension of the teacher
MOST_ROWS = 8192  # the smaller side of the logits: an eigendecomposition of that size takes minutes


class TransformBasis:
    """The mean of centred logits, and R orthonormal components, most variance first.

    Args:
        rows: float16 [R + 1, C]: the mean, in nats, then the components. The very values that labels are coded with.

    Raises:
        InputError: another dtype or shape, or a value that is not finite.
    """

    def __init__(self, rows: Tensor) -> None:
        one_of("a basis", rows, Tensor, "a tensor float16 [R + 1, C]")
        if rows.dtype != torch.float16 or rows.ndim != 2 or not 2 <= len(rows) <= rows.shape[1] + 1:
            raise InputError(f"a basis is {rows.dtype} {tuple(rows.shape)}, expected float16 [R + 1, C] with R up to C")
        if not bool(rows.isfinite().all()):
            raise InputError("a basis holds a value that is not finite")
        self.rows = rows
        self.wide = rows.to(torch.float32)  # as `rows`: what the loss multiplies with
        self._elsewhere: dict[torch.device, TransformBasis] = {}

    @property
    def num_classes(self) -> int:
        return self.rows.shape[1]

    @property
    def num_components(self) -> int:
        return len(self.rows) - 1

    @property
    def mean(self) -> Tensor:
        """float32 [C], nats."""
        return self.wide[0]

    @property
    def components(self) -> Tensor:
        """float32 [R, C]."""
        return self.wide[1:]

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the rows as little-endian float16 in C order."""
        return hashlib.sha256(self.to_numpy().tobytes()).hexdigest()

    def to_numpy(self) -> NDArray[Any]:
        """float16 [R + 1, C], little-endian."""
        return np.ascontiguousarray(self.rows.cpu().numpy(), DTYPE)

    def to(self, device: torch.device | str) -> TransformBasis:
        """The same basis on another device; made once for each."""
        device = as_device(device)
        if device == self.rows.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = TransformBasis(self.rows.to(device))
        return self._elsewhere[device]

    def first(self, num_components: int) -> TransformBasis:
        """The mean and the first components alone."""
        return TransformBasis(self.rows[: num_components + 1])

    def __reduce__(self) -> tuple[Any, ...]:
        return TransformBasis, (self.rows,)

    def __repr__(self) -> str:
        return f"TransformBasis({self.num_components} of {self.num_classes} dimensions)"

    @classmethod
    def from_logits(cls, logits_MC: Tensor, num_components: int | None = None) -> TransformBasis:
        """The principal components of M rows of logits (nats), all without a number; on one machine always the same.

        Raises:
            InputError: the logits have fewer dimensions than `num_components`.
        """
        if num_components is not None:
            at_least("num_components", num_components, 1)
        z_MC = finite_centred(logits_MC.cpu())
        mean_C = z_MC.mean(0)
        values, components_DC = _principal(z_MC - mean_C)
        dimensions = int((values > NEGLIGIBLE * values.sum()).sum())
        num_components = max(1, dimensions) if num_components is None else num_components
        if num_components > dimensions:
            raise InputError(
                f"{num_components} components were asked for, but the logits of {len(z_MC)} calibration crops "
                f"have only {dimensions} dimensions; give --transform {max(1, dimensions)} or less, or more crops"
            )
        chosen_RC = components_DC[:num_components]
        # A component's sign is arbitrary: its largest entry is positive.
        largest_R1 = chosen_RC.gather(1, chosen_RC.abs().argmax(1, keepdim=True))
        return cls(torch.cat([mean_C[None], chosen_RC * largest_R1.sign()]).to(torch.float16))


def _principal(z_MC: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the covariance, falling, and eigenvectors [D, C], D the smaller side of float64 [M, C]."""
    rows, columns = z_MC.shape
    if min(rows, columns) > MOST_ROWS:
        raise InputError(f"a basis of {rows} rows of {columns} logits: give at most {MOST_ROWS} rows")
    if columns <= rows:
        values, vectors = torch.linalg.eigh(z_MC.T @ z_MC)
        return values.flip(0).clamp(min=0), vectors.flip(1).T
    values, vectors = torch.linalg.eigh(z_MC @ z_MC.T)
    values = values.flip(0).clamp(min=0)
    components_MC = vectors.flip(1).T @ z_MC
    return values, components_MC / components_MC.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
