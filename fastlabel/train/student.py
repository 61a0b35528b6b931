"""Training a student on the views of a store, against its labels, the teacher itself, or the hard labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastlabel.dataset.beton import Beton
from fastlabel.digests import ids_digest
from fastlabel.errors import InputError
from fastlabel.inspection.truncation import information_kept
from fastlabel.labels.choices import USES
from fastlabel.labels.soft_label_loss import SoftLabelLoss
from fastlabel.labels.transform_codec import TransformCodec
from fastlabel.loading.loader import SoftLabelLoader, images_per_batch
from fastlabel.loading.sizes import SizeSchedule
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.sampling import images_per_class
from fastlabel.store.manifest import TeacherInfo
from fastlabel.store.store import LabelStore
from fastlabel.system.devices import pick_device
from fastlabel.system.ranks import Ranks
from fastlabel.teachers.labelling_network import LabellingNetwork
from fastlabel.teachers.recorded import recorded_teacher
from fastlabel.teachers.spec import TeacherSpec
from fastlabel.train.common import (
    Result,
    check_same_classes,
    drops_last,
    finish,
    make_evaluator,
    plain,
    prepare,
    seed_rank,
    seeded,
    tell,
)
from fastlabel.train.loop import Reporter, Trainer
from fastlabel.train.objectives import PerSampleLoss, ScheduledLoss, cached_use, hard_loss, online_loss, online_use
from fastlabel.train.process_group import training_ranks
from fastlabel.train.recipes import Recipe
from fastlabel.train.run_folder import Run

LABELS = ("cache", "online", "hard")
EPOCHS_EVALUATED_EACH = 20
LABELS_ASSESSED = 1000


@dataclass(frozen=True)
class StudentConfig:
    """A student's training. Its views and image size are those of the store.

    `ipc` trains on that many random images per class, chosen by `ipc_seed` (default: `seed`); `teacher` is
    the one that "online" runs (a checkpoint, torchvision:NAME@WEIGHTS, ...; of an ensemble all members, in order);
    `trust_program` loads one that is a .pt2 program, which can run any code. `teacher_index` says which teacher of the
    store the labels are from. `views_per_image` crops of every image are
    trained on in each epoch, next to each other in a batch of the recipe's `batch_size` crops. `resident_bytes` of a
    GPU's memory may decoded images take: None for an eighth of what is free, 0 for none.

    `size` is the side of the student's crops, where it is not the store's; "160:16,192:32,224" grows it by epochs.

    `loss`, both temperatures, `temperature_squared`, `keep`, `tail`, `hard_weight` and `phases` say how the labels are
    used: see `SoftLabelLoss`.
    """

    data: str | Path
    store: str | Path
    val: str | Path
    out: str | Path
    arch: str
    recipe: Recipe
    labels: str = "cache"
    teacher: str | Path | Sequence[str | Path] | None = None
    teacher_index: int = 0
    trust_program: bool = False
    ipc: int | None = None
    ipc_seed: int | None = None
    views_per_image: int = 1
    size: int | str | None = None
    label_temperature: float | str = 1.0
    student_temperature: float | str = 1.0
    loss: str = "soft-ce"
    temperature_squared: bool = False
    keep: int | None = None
    tail: str = "uniform"
    hard_weight: float = 0.0
    phases: str | None = None
    seed: int = 0
    keep_every: int = 0
    eval_every: int | None = None
    num_workers: int = 0
    device: str = "auto"
    sync_batch_norm: bool = False
    allow_missing_classes: bool = False
    resident_bytes: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.labels not in LABELS:
            raise InputError(f"unknown kind of labels {self.labels!r}: known are {', '.join(LABELS)}")
        images_per_batch(self.recipe.batch_size, self.views_per_image)
        if (self.labels == "online") != (self.teacher is not None):
            raise InputError(f"a teacher is given for online labels, and only for these: labels are {self.labels}")
        if self.size is not None:
            object.__setattr__(self, "size", str(SizeSchedule.of(self.size)))
            if self.labels == "online":
                raise InputError("an online teacher sees the student's crops: leave size out, or take stored labels")
        use = self.use
        for name, schedule in zip(("label_temperature", "student_temperature"), use.schedules, strict=True):
            object.__setattr__(self, name, schedule.plain())
        if self.labels == "hard":
            changed = [name for name in USES if getattr(self, name) != USES[name]]
            if changed:
                what = "temperatures are" if changed[0].endswith("temperature") else f"{changed[0]} is"
                raise InputError(f"{what} for soft labels: leave it out with hard labels")
        elif self.recipe.label_smoothing and not (use.hard_weight or use.phases):
            raise InputError("label smoothing is for hard labels: leave it at 0 with soft ones")

    @property
    def use(self) -> SoftLabelLoss:
        """How the labels are used."""
        return SoftLabelLoss(
            label_smoothing=self.recipe.label_smoothing,
            epochs=self.recipe.epochs,
            **self._uses(),
        )

    def _uses(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in USES}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dict(plain(self))


def train_student(config: StudentConfig, reporter: Reporter | None = None) -> Result:
    """Train a student into the folder `config.out`.

    The three kinds of labels train on the same crops in the same order, from the same weights. Under torchrun its
    ranks train together: each step is that of one process with the whole batch, up to the order of sums; only
    batch norm differs, unless `sync_batch_norm`. Rank 0 writes the files.

    A SIGINT or SIGTERM is obeyed after the step in hand, with the state saved (Interrupted). Raises InputError
    (a folder that holds another run, data that do not fit together, too few images of a class), StoreError (a
    store that does not belong to the data or to the teacher) and FastlabelError (a loss that is not finite).
    """
    with training_ranks(pick_device(config.device)) as (ranks, device):
        return _train(config, reporter if ranks.first else None, ranks, device)


def default_eval_every(epochs: int) -> int:
    """Evaluate after every epoch of a run of up to 20, else about ten times."""
    return 1 if epochs <= EPOCHS_EVALUATED_EACH else math.ceil(epochs / 10)


def student_ids(config: StudentConfig, data: Beton, store: LabelStore) -> npt.NDArray[np.int64]:
    """The sorted ids of the samples to train on: all that the store has labelled, or `ipc` of each class."""
    if config.ipc is None:
        return store.ids
    seed = config.seed if config.ipc_seed is None else config.ipc_seed
    return images_per_class(data.targets, config.ipc, seed, among=store.ids, num_classes=data.num_classes)


def _train(config: StudentConfig, reporter: Reporter | None, ranks: Ranks, device: torch.device) -> Result:
    recipe = config.recipe.on(device)
    config = replace(config, recipe=recipe)
    data, val, store = Beton.open(config.data), Beton.open(config.val), LabelStore.open(config.store)
    val_classes = check_same_classes(data, val, config.allow_missing_classes)
    teacher = _teacher(config, store)
    loss = _loss(config, teacher, device)
    ids = student_ids(config, data, store)
    if config.labels == "cache" and ranks.first:
        _tell_what_is_kept(config, store, reporter)
    if config.loss == "dist" and not ranks.alone and ranks.first:
        tell(reporter, f"dist compares the samples of a batch in each class: on {ranks.world_size} ranks those of each")
    num_classes, class_map = _classes(config, data, teacher)
    if class_map is not None:
        # Without names a validation set may have fewer classes: they are the first ones.
        of_val = range(val.num_classes) if val_classes is None else val_classes
        val_classes = tuple(class_map[c] for c in of_val)
    sizes = SizeSchedule.of(store.views.size if config.size is None else config.size)
    with seeded(config.seed, device):
        model = Classifier(ModelSpec(config.arch, num_classes, sizes.sizes[-1]))
        check_takes(model, () if config.size is None else sizes.sizes)
        model = prepare(model, config.sync_batch_norm, ranks, device)
        seed_rank(config.seed, ranks)
        loader = SoftLabelLoader(
            data,
            store,
            batch_size=recipe.batch_size,
            device=device,
            seed=config.seed,
            indices=ids,
            teacher=config.teacher_index,
            num_workers=ranks.workers(config.num_workers),
            drop_last=drops_last(len(ids), recipe.batch_size, model, ranks, config.views_per_image),
            class_map=class_map,
            rank=ranks.rank,
            world_size=ranks.world_size,
            views_per_image=config.views_per_image,
            size=config.size,
            resident_bytes=config.resident_bytes,
        )
        shown = replace(store.views, size=sizes.sizes[-1], pixels=None, mixing=None)
        run = Run(Path(config.out), _identity(config, data, val, store, teacher, ids), config.to_dict())
        trainer = Trainer(
            model=model,
            loader=loader,
            loss=loss,
            evaluate=make_evaluator(val, shown, config.num_workers, ranks, device, bool(recipe.amp), val_classes),
            recipe=recipe,
            run=run,
            device=device,
            keep_every=config.keep_every,
            eval_every=config.eval_every or default_eval_every(recipe.epochs),
            reporter=reporter,
            ranks=ranks,
        )
        return finish(trainer, run, config.resume)


def check_takes(model: Classifier, sizes: Sequence[int]) -> None:
    """InputError unless a network takes images of all these sizes."""
    training = model.training
    for size in sorted(set(sizes)):
        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, 3, size, size))
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{model.spec.arch} of {model.spec.size} pixels takes no images of {size}: take a network that pools, "
                "such as a ResNet, or one size"
            ) from error
    model.train(training)


def _tell_what_is_kept(config: StudentConfig, store: LabelStore, reporter: Reporter | None) -> None:
    """How much of a label is left at the temperature asked for; a warning where it is less than a half."""
    codec = store.manifest.teachers[config.teacher_index].codec
    temperature = config.use.schedules[0].highest
    if isinstance(codec, TransformCodec):
        kept = codec.kept_at(temperature)
        if kept is not None:
            what = f"at temperature {temperature:g} the labels keep about {kept:.0%} of what the teacher said"
            advice = f": a step of {codec.step:g} nats is too coarse for it" if kept < 0.5 else ""
            tell(reporter, f"{'warning: ' * bool(advice)}{what} (measured when the store began){advice}")
        return
    rows = np.linspace(0, len(store.ids) - 1, min(len(store.ids), LABELS_ASSESSED)).astype(np.int64)
    labels = store.plane(view=0, teacher=config.teacher_index)[store.ids[rows]]
    share = information_kept(labels, temperature)
    if share < 0.5 or (reporter is not None and labels.k < labels.num_classes):
        what = f"at temperature {temperature:g} the labels keep about {share:.0%} of what the teacher said"
        advice = f": {labels.k} of {labels.num_classes} classes are too few for it" if share < 0.5 else ""
        tell(reporter, f"{'warning: ' * bool(advice)}{what} (estimated from {len(labels)} of them){advice}")


def _loss(config: StudentConfig, labeller: TeacherInfo, device: torch.device) -> PerSampleLoss | ScheduledLoss:
    if config.labels == "hard":
        return hard_loss(config.recipe.label_smoothing)
    use, codec = config.use, labeller.codec
    if config.teacher is None:
        use.check_labels(codec.k, codec.num_classes, isinstance(codec, TransformCodec))
        return cached_use(use)
    use.check_labels(codec.num_classes, codec.num_classes)
    sources = [config.teacher] if isinstance(config.teacher, (str, Path)) else list(config.teacher)
    specs = [TeacherSpec(source, trust_program=config.trust_program) for source in sources]
    teacher = recorded_teacher(labeller, specs, device, f"teacher {config.teacher_index} of {config.store}")
    network = LabellingNetwork(teacher).to(device)
    plain = all(getattr(config, name) == USES[name] for name in USES if not name.endswith("temperature"))
    if plain and all(schedule.constant for schedule in use.schedules):
        return online_loss(network, *use.temperatures(0))
    return online_use(network, use)


def _classes(config: StudentConfig, data: Beton, teacher: TeacherInfo) -> tuple[int, tuple[int, ...] | None]:
    """The student's number of classes, and which of them each of the dataset's is, where they are the teacher's."""
    if config.labels == "hard" or not teacher.keeps_classes:
        return data.num_classes, None
    if teacher.class_map is None:
        raise InputError(
            f"the labels of {config.store} are over the {teacher.codec.num_classes} classes of its teacher, and "
            "nothing says which of them the images belong to: label with --class-map FILE beside --keep-teacher-classes"
        )
    return teacher.codec.num_classes, teacher.class_map


def _teacher(config: StudentConfig, store: LabelStore) -> TeacherInfo:
    teachers = store.manifest.teachers
    if not 0 <= config.teacher_index < len(teachers):
        raise InputError(
            f"{config.store} has {len(teachers)} teachers, counted from 0: there is no {config.teacher_index}"
        )
    return teachers[config.teacher_index]


def _identity(
    config: StudentConfig, data: Beton, val: Beton, store: LabelStore, teacher: TeacherInfo, ids: npt.NDArray[np.int64]
) -> dict[str, Any]:
    return {
        "command": "train-student",
        "arch": config.arch,
        "labels": config.labels,
        **_use_identity(config),
        "ipc": config.ipc,
        "ipc_seed": config.ipc_seed,
        "images": len(ids),
        "views_per_image": config.views_per_image,
        "seed": config.seed,
        "recipe": config.recipe.to_dict(),
        "sync_batch_norm": config.sync_batch_norm,
        "ids": ids_digest(ids),
        "teacher_sha256": teacher.sha256,
        "store": store.manifest.digest(config.teacher_index),
        "views": store.num_views,
        "view_policy": store.views.name,
        "size": store.views.size if config.size in (None, str(store.views.size)) else config.size,
        "k": teacher.codec.k,
        "data": data.fingerprint(),
        "val": val.fingerprint(),
    }


def _use_identity(config: StudentConfig) -> dict[str, Any]:
    """How labels are used; temperatures always, and of the rest what is not as it was before it could be said."""
    label, student = (schedule.plain() for schedule in config.use.schedules)
    said = {name: getattr(config, name) for name in USES if getattr(config, name) != USES[name]}
    return {**said, "label_temperature": label, "student_temperature": student}
