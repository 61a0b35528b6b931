"""SparseLabels: labels as weighted classes and an even tail, the form in which labels are edited and mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastlabel.errors import InputError
from fastlabel.labels.indexing import Rows, as_index
from fastlabel.system.arguments import at_least, integer, one_of
from fastlabel.system.devices import as_device

MAX_CLASSES = 1 << 31  # exclusive: class ids are int32


@dataclass(frozen=True, eq=False)
class SparseLabels:
    """B labels over `num_classes` classes: M weighted classes in each row, and one weight for every other class.

    A row need not sum to 1: a truncation may drop mass. Labels from a store are `TopKLabels.sparse()`.

    Attributes:
        classes: int32 [B, M]; a class occurs at most once in a row, -1 is an empty place.
        probs: float32 [B, M], the weight of each listed class; 0 at empty places.
        rest: float32 [B], the weight of each single class that the row does not list.

    Raises InputError when dtypes, shapes or devices do not fit together; `check_values` reads the values.
    """

    classes: Tensor
    probs: Tensor
    rest: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        _check_num_classes(self.num_classes)
        for name, tensor, dtype in (
            ("classes", self.classes, torch.int32),
            ("probs", self.probs, torch.float32),
            ("rest", self.rest, torch.float32),
        ):
            if tensor.dtype != dtype:
                raise InputError(f"not sparse labels: {name} have dtype {tensor.dtype}, expected {dtype}")
            if tensor.device != self.classes.device:
                raise InputError(
                    f"not sparse labels: {name} are on {tensor.device} and classes on {self.classes.device}, "
                    "expected one device"
                )
        if self.classes.ndim != 2 or not 1 <= self.classes.shape[1] <= self.num_classes:
            raise InputError(
                f"not sparse labels: classes have shape {tuple(self.classes.shape)}, "
                f"expected [B, M] with M from 1 to the {self.num_classes} classes"
            )
        for name, tensor, shape in (
            ("probs", self.probs, self.classes.shape),
            ("rest", self.rest, self.classes.shape[:1]),
        ):
            if tensor.shape != shape:
                raise InputError(f"not sparse labels: {name} have shape {tuple(tensor.shape)}, expected {tuple(shape)}")

    @classmethod
    def from_dense(cls, probs_BC: Tensor, k: int | None = None) -> SparseLabels:
        """The k largest weights of each row, equal ones by the lower class id, the others averaged; all by default.

        Exact for k = C. Raises InputError unless weights [B, C] are finite and not negative, and 1 <= k <= C.
        """
        one_of("probs", probs_BC, Tensor, "a tensor [B, C]")
        if probs_BC.ndim != 2 or not probs_BC.shape[1] or not probs_BC.is_floating_point():
            raise InputError(f"probs are {probs_BC.dtype} {tuple(probs_BC.shape)}, expected floating point [B, C]")
        num_classes = probs_BC.shape[1]
        k = num_classes if k is None else integer("k", k)
        if not 1 <= k <= num_classes:
            raise InputError(f"k is {k}, expected 1 to the {num_classes} classes")
        if not bool(((probs_BC >= 0) & (probs_BC < torch.inf)).all()):
            raise InputError("probs hold negative numbers, infinity or NaN; give softmax(logits), not logits")
        weights, classes = probs_BC.detach().sort(dim=1, descending=True, stable=True)
        rest = weights[:, k:].double().sum(1) / max(1, num_classes - k)
        return cls(classes[:, :k].to(torch.int32), weights[:, :k].float(), rest.float(), num_classes)

    @classmethod
    def hard(cls, targets: Tensor, num_classes: int) -> SparseLabels:
        """All weight on one class in each row; InputError unless targets are integers [B] from 0 to C - 1."""
        _check_num_classes(num_classes)
        one_of("targets", targets, Tensor, "a tensor of integers [B]")
        check_targets("targets", targets, num_classes)
        classes = targets.to(torch.int32)[:, None]
        return cls(classes, torch.ones_like(classes, dtype=torch.float32), _zeros(classes), num_classes)

    @classmethod
    def uniform(cls, count: int, num_classes: int, device: torch.device | str = "cpu") -> SparseLabels:
        """`count` rows that give every class 1 / C."""
        _check_num_classes(num_classes)
        classes = torch.full((at_least("count", count, 0), 1), -1, dtype=torch.int32, device=device)
        return cls(
            classes, torch.zeros_like(classes, dtype=torch.float32), _zeros(classes) + 1 / num_classes, num_classes
        )

    def __len__(self) -> int:
        return self.classes.shape[0]

    @property
    def width(self) -> int:
        """M, the places of a row."""
        return self.classes.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the three tensors are."""
        return self.classes.device

    def _map(self, change: Callable[[Tensor], Tensor]) -> SparseLabels:
        return SparseLabels(change(self.classes), change(self.probs), change(self.rest), self.num_classes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseLabels:
        """The same labels on another device."""
        device = as_device(device)
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def __getitem__(self, rows: Rows) -> SparseLabels:
        """The labels of some rows: a slice, or integers or booleans as tensor, array or list."""
        index = as_index(rows, len(self), self.device)
        return self._map(lambda tensor: tensor[index])

    def unlisted(self) -> Tensor:
        """How many classes each row does not list, int64 [B]."""
        return self.num_classes - (self.classes >= 0).sum(1)

    def mass(self) -> Tensor:
        """The sum of each row over all classes, float64 [B]: 1 until an edit drops or adds weight."""
        return self.kept_mass() + self.unlisted() * self.rest.double()

    def kept_mass(self) -> Tensor:
        """The sum of each row over its listed classes, float64 [B]."""
        return self.probs.double().sum(1)

    def weights_of(self, classes_BQ: Tensor) -> Tensor:
        """The weight of any Q classes in each row, listed or not, float32 [B, Q]; 0 where a class is -1."""
        return look_up(self.classes, self.probs, self.rest, classes_BQ)

    def dense(self) -> Tensor:
        """The weights of all classes, float32 [B, C]."""
        return spread(self.classes, self.probs, self.rest, self.num_classes)

    def check_values(self) -> None:
        """Raise InputError unless ids lie below C, none is twice in a row, and weights are finite and >= 0."""
        if bool((self.classes >= self.num_classes).any() | (self.classes < -1).any()):
            raise InputError(f"class ids lie outside of -1 (empty) to {self.num_classes - 1}")
        ids = self.classes.sort(dim=1).values
        if bool(((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)).any()):
            raise InputError("a row lists a class twice; add up its weights first")
        for name, weights in (("probs", self.probs), ("rest", self.rest)):
            if not bool(((weights >= 0) & (weights < torch.inf)).all()):
                raise InputError(f"{name} hold negative numbers, infinity or NaN")
        if bool((self.probs.masked_fill(self.classes >= 0, 0) != 0).any()):
            raise InputError("an empty place (class -1) has a weight, expected 0")


def look_up(classes_BM: Tensor, values_BM: Tensor, rest_B: Tensor, wanted_BQ: Tensor) -> Tensor:
    """Values [B, Q] of the wanted classes: those of the places that list them, else the rest's; 0 for class -1."""
    listed, order = classes_BM.sort(dim=1)
    wanted_BQ = wanted_BQ.to(classes_BM.dtype).contiguous()
    place = torch.searchsorted(listed, wanted_BQ).clamp_(max=listed.shape[1] - 1)
    found = listed.gather(1, place) == wanted_BQ
    values = torch.where(found, values_BM.gather(1, order.gather(1, place)), rest_B[:, None])
    return values.masked_fill(wanted_BQ < 0, 0)


def spread(classes_BM: Tensor, values_BM: Tensor, rest_B: Tensor, num_classes: int) -> Tensor:
    """Values [B, C] of all classes, in the dtype of the values: the rest's, where no place lists the class."""
    dense_BC = rest_B[:, None].repeat(1, num_classes)
    used = classes_BM >= 0
    # An empty place repeats a used one, or, in a row without one, writes the rest to class 0: no effect.
    first = used.to(torch.int8).argmax(dim=1, keepdim=True)
    spare_class = classes_BM.gather(1, first).clamp(min=0)
    spare_value = torch.where(used.any(1, keepdim=True), values_BM.gather(1, first), rest_B[:, None])
    classes = torch.where(used, classes_BM, spare_class).to(torch.int64)
    return dense_BC.scatter_(1, classes, torch.where(used, values_BM, spare_value))


def check_targets(name: str, targets: Tensor, num_classes: int) -> None:
    """Raise InputError unless these are integers [B] from 0 to C - 1; reads the values."""
    if targets.ndim != 1 or targets.is_floating_point() or targets.dtype == torch.bool:
        raise InputError(f"{name} are {targets.dtype} {tuple(targets.shape)}, expected integers [B]")
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        raise InputError(
            f"{name} lie between {int(targets.min())} and {int(targets.max())}, expected 0 to {num_classes - 1}"
        )


def _check_num_classes(num_classes: int) -> None:
    if not 1 <= integer("num_classes", num_classes) < MAX_CLASSES:
        raise InputError(f"num_classes is {num_classes}, expected 1 to {MAX_CLASSES - 1}")


def _zeros(classes_BM: Tensor) -> Tensor:
    return torch.zeros(classes_BM.shape[0], dtype=torch.float32, device=classes_BM.device)
