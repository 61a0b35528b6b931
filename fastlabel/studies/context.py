"""Images, experts and labels of a study: decoded once, labelled once, then taken from memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.labelling.cache import cache_labels
from fastlabel.labels.topk import TopKLabels
from fastlabel.models.architectures import WHITENED
from fastlabel.sampling import images_per_class
from fastlabel.store.plane import LabelPlane
from fastlabel.store.store import LabelStore
from fastlabel.studies.config import StudyConfig
from fastlabel.studies.expert_runs import ExpertRun, find_experts
from fastlabel.studies.in_memory import ResidentImages, load_resident
from fastlabel.system.devices import pick_device
from fastlabel.train.common import check_same_classes

Ids = npt.NDArray[np.int64]
Expert = tuple[int, int]
"""Number and epoch."""

TEACHERS_AT_ONCE = 8


class Workbench:
    """Everything that the cells of a study share."""

    def __init__(self, config: StudyConfig) -> None:
        self.config, self.device = config, pick_device(config.device)
        self.data, self.val = Beton.open(config.data), Beton.open(config.val)
        check_same_classes(self.data, self.val)
        self.experts: list[ExpertRun] = find_experts(config.experts)
        self.reference = self.experts[0].teacher(self.experts[0].last, self.device).model
        self.num_classes = self.reference.spec.num_classes
        if self.num_classes != self.data.num_classes:
            raise InputError(
                f"{config.experts} knows {self.num_classes} classes, {self.data.path} has {self.data.num_classes}"
            )
        self.notes: dict[str, Any] = {}  # what a study computes once for all of its cells
        self.labelling_seconds = 0.0
        self._teachers: dict[Expert, str] = {}
        self._planes: dict[Expert, LabelPlane] = {}
        self._resident: ResidentImages | None = None

    @property
    def arch(self) -> str:
        """Of the students: asked for, or the expert's own behind its whitening."""
        arch = self.config.arch or self.reference.spec.arch.removeprefix(WHITENED)
        if arch.startswith(WHITENED):
            raise InputError(f"students get their images as the experts whiten them: give --arch without {WHITENED}")
        return arch

    @property
    def store_path(self) -> Path:
        return Path(self.config.out) / "labels.zarr"

    @cached_property
    def test(self) -> ResidentImages:
        """All images of `val`, preprocessed as the first expert does."""
        return load_resident(
            self.val, np.arange(self.val.num_samples), self.reference, self.device, self.config.num_workers
        )

    def random_ids(self, ipc: int, repeat: int) -> Ids:
        """That many random images of each class; those of a smaller number are among those of a larger one."""
        return images_per_class(
            self.data.targets, ipc, self.config.image_seed(repeat), num_classes=self.data.num_classes
        )

    def label(self, experts: Iterable[Expert], ids: Ids, progress: bool = False) -> None:
        """Have these samples labelled, whole and not augmented, by these experts, where the store has no labels yet."""
        wanted, started = list(dict.fromkeys(experts)), time.monotonic()
        if self.store_path.exists():
            ids = np.union1d(ids, LabelStore.open(self.store_path).ids)
        for start in range(0, len(wanted), TEACHERS_AT_ONCE):
            group = wanted[start : start + TEACHERS_AT_ONCE]
            teachers = [self.experts[number].teacher(epoch, self.device) for number, epoch in group]
            cache_labels(
                self.data,
                self.store_path,
                teachers,
                views=1,
                k=self.num_classes,
                size=self.reference.spec.size,
                policy="identity",
                subset=ids,
                num_workers=self.config.num_workers,
                device=self.device,
                progress=progress,
            )
            self._teachers |= {expert: teacher.sha256 for expert, teacher in zip(group, teachers, strict=True)}
        self._planes.clear()
        self.labelling_seconds += time.monotonic() - started

    def labels(self, expert: Expert, ids: Ids) -> TopKLabels:
        """The expert's labels of these samples, with all classes, on the device."""
        if expert not in self._planes:
            store = LabelStore.open(self.store_path)
            digests = [teacher.sha256 for teacher in store.manifest.teachers]
            index = digests.index(self._teachers[expert])
            self._planes[expert] = store.plane(view=0, teacher=index, device=self.device)
        return self._planes[expert][torch.from_numpy(ids).to(self.device)]

    def load(self, ids: Ids) -> None:
        """Bring the images of these samples into memory."""
        self._resident = load_resident(self.data, ids, self.reference, self.device, self.config.num_workers)

    def images(self, ids: Ids) -> ResidentImages:
        """Images of `load`."""
        assert self._resident is not None
        return self._resident.take(ids)

    def one_epoch(self, values: Sequence[object] | None) -> int:
        """The epoch asked for, of which there must be one alone; by default the last. InputError else."""
        epochs = list(dict.fromkeys(self.epochs_of(values or (self.experts[0].final,))))
        if len(epochs) > 1:
            raise InputError(f"this study takes one --epoch, not {', '.join(map(str, epochs))}")
        return epochs[0]

    def epochs_of(self, values: Sequence[object] | None, number: int = 0) -> list[int]:
        """Epochs asked for, which must be there; by default all kept but the initialisation."""
        run = self.experts[number]
        if not values:
            values = [epoch for epoch in run.epochs if 0 < epoch <= run.final]
        epochs = [int(str(value)) for value in values]
        for epoch in epochs:
            run.check(epoch)
        return epochs
