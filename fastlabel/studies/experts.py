"""Experts for the studies: networks trained on hard labels, images in memory, a checkpoint after every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.models.whitening import Whitening
from fastlabel.studies.augment import SiameseAugmentation
from fastlabel.studies.in_memory import (
    ResidentImages,
    decode_pixels,
    fitted_spec,
    load_resident,
    preprocess,
    trunk,
    whitening_of,
)
from fastlabel.studies.resident_loader import ResidentLoader, whole_batches
from fastlabel.system.devices import pick_device
from fastlabel.system.ranks import Ranks
from fastlabel.train.common import check_same_classes, drops_last, plain, seeded
from fastlabel.train.evaluate import Evaluator
from fastlabel.train.loop import Reporter, Trainer
from fastlabel.train.objectives import hard_loss
from fastlabel.train.recipes import Recipe
from fastlabel.train.run_folder import Run

# As in the code of arXiv 2406.10485.
PAPER_RECIPE = Recipe(
    epochs=20, batch_size=256, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0, schedule="constant"
)


@dataclass(frozen=True)
class ExpertsConfig:
    """Training of `count` experts into folders `out`/expert-0, ...; they differ in their seeds.

    `size` in pixels; default that of the images, where all have the same. `keep_every` n keeps the checkpoint of every
    n-th epoch, of the last and of the initialisation.
    """

    data: str | Path
    val: str | Path
    out: str | Path
    arch: str = "zca:convnet-d3"
    recipe: Recipe = PAPER_RECIPE
    count: int = 1
    augment: str = "dsa"
    size: int | None = None
    seed: int = 0
    keep_every: int = 1
    num_workers: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.count < 1 or self.keep_every < 1:
            raise InputError(f"count and keep-every must be 1 or more, not {self.count} and {self.keep_every}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dict(plain(self))


def expert_folder(out: str | Path, number: int) -> Path:
    """Where the checkpoints of expert 0, 1, ... lie."""
    return Path(out) / f"expert-{number}"


def image_size(beton: Beton, size: int | None) -> int:
    """The size asked for, or that of all images. InputError where they differ and none is given."""
    wanted = size or beton.common_size
    if wanted is None:
        raise InputError(f"the images of {beton.path} are not squares of one size: say which --size to resize them to")
    return wanted


def train_experts(config: ExpertsConfig, reporter: Reporter | None = None) -> list[list[dict[str, Any]]]:
    """Train what is not there yet, going on after the last epoch kept; the metrics of every epoch of each expert.

    Raises InputError for a folder that holds experts of another configuration, FastlabelError for a loss that is not
    finite.
    """
    device = pick_device(config.device)
    config = replace(config, recipe=config.recipe.on(device))
    data, val = Beton.open(config.data), Beton.open(config.val)
    check_same_classes(data, val)
    runs = [_run(config, data, val, number) for number in range(config.count)]
    states = [run.begin(resume=True) for run in runs]
    if all(_done(state, config) for state in states):
        return [run.metrics() for run in runs]
    everyone = np.arange(data.num_samples)
    pixels = decode_pixels(data, everyone, image_size(data, config.size), config.num_workers)
    spec = fitted_spec(config.arch, data.num_classes, pixels)
    reference = _reference(spec, pixels, states, device)
    images = preprocess(reference, pixels, device)
    test = load_resident(val, np.arange(val.num_samples), reference, device, config.num_workers)
    train = ResidentImages(images, torch.from_numpy(data.targets).to(device), everyone)
    for number, (run, state) in enumerate(zip(runs, states, strict=True)):
        if not _done(state, config):
            _train_one(config, number, run, reference, train, test, reporter)
    return [run.metrics() for run in runs]


def _run(config: ExpertsConfig, data: Beton, val: Beton, number: int) -> Run:
    identity = {
        "command": "study experts",
        "arch": config.arch,
        "size": image_size(data, config.size),
        "seed": expert_seed(config.seed, number),
        "recipe": config.recipe.to_dict(),
        "augment": list(SiameseAugmentation.from_name(config.augment).strategy),
        "data": data.fingerprint(),
        "val": val.fingerprint(),
    }
    return Run(expert_folder(config.out, number), identity, config.to_dict())


def expert_seed(seed: int, number: int) -> int:
    """Of the weights, the order and the augmentation of expert 0, 1, ..."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _done(state: Mapping[str, Any] | None, config: ExpertsConfig) -> bool:
    return state is not None and state["epoch"] == config.recipe.epochs


def _reference(
    spec: ModelSpec, pixels: Tensor, states: list[dict[str, Any] | None], device: torch.device
) -> Classifier:
    """A model whose preprocessing all experts of a folder share: that of one that was begun, or a new one."""
    with torch.random.fork_rng(devices=[]):
        model = Classifier(spec).to(device)
    whitening = whitening_of(model)
    begun = next((state for state in states if state is not None), None)
    if begun is not None:
        model.load_state_dict(begun["state"])
    elif whitening is not None:
        _fit(whitening, model, pixels, device)
    return model


def _fit(whitening: Whitening, model: Classifier, pixels: Tensor, device: torch.device) -> None:
    parts = [model.normalise(part.to(device)).cpu() for part in pixels.split(4096)]
    whitening.cpu().fit(torch.cat(parts))  # on the CPU: the same on every device
    whitening.to(device)


def _train_one(
    config: ExpertsConfig,
    number: int,
    run: Run,
    reference: Classifier,
    train: ResidentImages,
    test: ResidentImages,
    reporter: Reporter | None,
) -> None:
    device, recipe = train.images.device, config.recipe
    seed = expert_seed(config.seed, number)
    augment = SiameseAugmentation.from_name(config.augment)
    with seeded(seed, device):
        model = new_model(reference, device)
        last = drops_last(len(train), recipe.batch_size, model, Ranks())
        Trainer(
            model=model,
            trunk=trunk(model),
            loader=ResidentLoader(train, None, recipe.batch_size, augment, seed, last),
            loss=hard_loss(),
            evaluate=Evaluator(whole_batches(test), device, amp=bool(recipe.amp)),
            recipe=recipe,
            run=run,
            device=device,
            keep_every=config.keep_every,
            reporter=reporter,
        ).fit(resume=True)


def new_model(reference: Classifier, device: torch.device) -> Classifier:
    """A model with random weights (torch's current ones) and the reference's preprocessing."""
    model = Classifier(reference.spec).to(device)
    ours, theirs = whitening_of(model), whitening_of(reference)
    if ours is not None and theirs is not None:
        ours.load_state_dict(theirs.state_dict())
    if device.type == "cpu":
        # oneDNN trains the small ConvNets up to twice as fast in this format, and bfloat16 most of all.
        model.to(memory_format=torch.contiguous_format)
    return model
