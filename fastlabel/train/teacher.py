"""Training a teacher on hard labels, a new view of every image each epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastlabel.dataset.beton import Beton
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.system.devices import pick_device
from fastlabel.system.ranks import Ranks
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
)
from fastlabel.train.loop import Reporter, Trainer
from fastlabel.train.objectives import hard_loss
from fastlabel.train.process_group import training_ranks
from fastlabel.train.recipes import Recipe
from fastlabel.train.run_folder import Run
from fastlabel.views import ViewPolicy

DEFAULT_SIZE = 224
LARGEST_PAD_CROP = 64


@dataclass(frozen=True)
class TeacherConfig:
    """A teacher's training. `size` in pixels, `view_policy`: by the images; `num_workers` 0: all cores.

    `flip` False keeps random views from mirroring, which digits and letters do not survive. `resident_bytes` of a GPU's
    memory may decoded images take: None for an eighth of what is free, 0 for none.
    """

    data: str | Path
    val: str | Path
    out: str | Path
    arch: str
    recipe: Recipe
    size: int | None = None
    view_policy: str | None = None
    flip: bool = True
    seed: int = 0
    keep_every: int = 1
    eval_every: int = 1
    num_workers: int = 0
    device: str = "auto"
    sync_batch_norm: bool = False
    allow_missing_classes: bool = False
    resident_bytes: int | None = None
    resume: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dict(plain(self))


def train_teacher(config: TeacherConfig, reporter: Reporter | None = None) -> Result:
    """Train a teacher; a checkpoint for every epoch kept goes to `config.out`.

    The same configuration gives the same weights on the same CPU, resumed or not. Under torchrun and at a SIGINT or
    SIGTERM it does as `train_student` does. Raises InputError (a folder that holds another run, data that do not
    fit together) and FastlabelError (a loss that is not finite).
    """
    with training_ranks(pick_device(config.device)) as (ranks, device):
        return _train(config, reporter if ranks.first else None, ranks, device)


def _train(config: TeacherConfig, reporter: Reporter | None, ranks: Ranks, device: torch.device) -> Result:
    recipe = config.recipe.on(device)
    data, val = Beton.open(config.data), Beton.open(config.val)
    val_classes = check_same_classes(data, val, config.allow_missing_classes)
    policy = _view_policy(config, data)
    with seeded(config.seed, device):
        spec = ModelSpec(config.arch, data.num_classes, policy.size)
        model = Classifier(spec, categories=data.class_names or ())
        model = prepare(model, config.sync_batch_norm, ranks, device)
        seed_rank(config.seed, ranks)
        loader = SoftLabelLoader(
            data,
            None,
            batch_size=recipe.batch_size,
            device=device,
            seed=config.seed,
            policy=policy,
            num_workers=ranks.workers(config.num_workers),
            drop_last=drops_last(data.num_samples, recipe.batch_size, model, ranks),
            rank=ranks.rank,
            world_size=ranks.world_size,
            resident_bytes=config.resident_bytes,
        )
        identity = {
            "command": "train-teacher",
            "arch": config.arch,
            "size": policy.size,
            "view_policy": policy.to_dict(),
            "seed": config.seed,
            "recipe": recipe.to_dict(),
            "sync_batch_norm": config.sync_batch_norm,
            "data": data.fingerprint(),
            "val": val.fingerprint(),
        }
        run = Run(Path(config.out), identity, config.to_dict())
        trainer = Trainer(
            model=model,
            loader=loader,
            loss=hard_loss(recipe.label_smoothing),
            evaluate=make_evaluator(val, policy, config.num_workers, ranks, device, bool(recipe.amp), val_classes),
            recipe=recipe,
            run=run,
            device=device,
            keep_every=config.keep_every,
            eval_every=config.eval_every,
            reporter=reporter,
            ranks=ranks,
        )
        return finish(trainer, run, config.resume)


def _view_policy(config: TeacherConfig, data: Beton) -> ViewPolicy:
    size = config.size or data.common_size or DEFAULT_SIZE
    small = size <= LARGEST_PAD_CROP and size == data.common_size
    name = config.view_policy or ("pad-crop" if small else "random-resized-crop")
    return ViewPolicy.from_name(name, size=size, seed=config.seed, flip=config.flip)
