"""Training on a CUDA device: in bfloat16 by default, fused, evaluated there; about as the CPU trains."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastlabel.labelling.cache import cache_labels
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.train import Recipe, StudentConfig, train_student
from fastlabel.train.recipes import load_optimizer
from tests.stores import make_teacher

pytestmark = pytest.mark.gpu
ARCH = "convnet-d1-w8"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 images of 16 pixels and 3 classes, and a store of 3 views."""
    from fastlabel.dataset.write import write_dataset

    folder = tmp_path_factory.mktemp("gpu")
    random = np.random.default_rng(4)
    for index in range(60):
        place = folder / "images" / f"class{index % 3}" / f"{index:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(80 * (index % 3) + random.integers(0, 90, (16, 16, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(place)
    write_dataset(folder / "images", folder / "data.beton", write_mode="raw", progress=False)
    cache_labels(folder / "data.beton", folder / "labels.zarr", [make_teacher()], views=3, k=3, policy="pad-crop")
    return folder


def train(data, out, device, labels="cache", resume=False, **recipe):
    recipe = Recipe(**{"epochs": 4, "batch_size": 16, "lr": 0.02} | recipe)
    config = StudentConfig(
        data / "data.beton",
        data / "labels.zarr",
        data / "data.beton",
        out,
        ARCH,
        recipe,
        labels=labels,
        device=device,
        keep_every=1,
        resume=resume,
    )
    return train_student(config)


@pytest.mark.parametrize("labels", ["cache", "hard"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_student_trains_there_as_on_the_cpu(data, tmp_path, labels, optimizer):
    """Within TF32, torch's default for convolutions, with `--no-amp`; in bfloat16 within its rounding."""
    options = {"labels": labels, "optimizer": optimizer} | ({"lr": 0.002} if optimizer == "adamw" else {})
    cpu = train(data, tmp_path / "cpu", "cpu", **options)
    exact = train(data, tmp_path / "exact", "cuda", amp=False, **options)
    usual = train(data, tmp_path / "usual", "cuda", **options)
    recipes = [
        json.loads((tmp_path / name / "config.json").read_text())["run"]["recipe"]["amp"] for name in ("exact", "usual")
    ]
    assert recipes == [False, True]
    for result, near in ((exact, 0.02), (usual, 0.08)):
        for line, wanted in zip(result.history, cpu.history, strict=True):
            assert line["train_loss"] == pytest.approx(wanted["train_loss"], rel=near)
            assert line["val_loss"] == pytest.approx(wanted["val_loss"], rel=2 * near)


def test_a_resumed_run_goes_on(data, tmp_path):
    whole = train(data, tmp_path / "run", "cuda")
    again = train(data, tmp_path / "run", "cuda", resume=True)
    assert again.history == whole.history


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizers_are_fused_and_take_up_a_state_of_the_cpu(name):
    recipe = Recipe(1, optimizer=name)
    networks = [Classifier(ModelSpec(ARCH, 3, 16)).to(device) for device in ("cpu", "cuda")]
    cpu, cuda = (recipe.make_optimizer(network.parameters()) for network in networks)
    assert (cpu.param_groups[0]["fused"], cuda.param_groups[0]["fused"]) == (None, True)
    for network, optimizer in zip(networks, (cpu, cuda), strict=True):
        network(torch.zeros(2, 3, 16, 16, device=next(network.parameters()).device)).sum().backward()
        optimizer.step()
    for ours, theirs in ((cuda, cpu), (cpu, cuda)):
        load_optimizer(ours, theirs.state_dict())
        ours.step()
    assert (cpu.param_groups[0]["fused"], cuda.param_groups[0]["fused"]) == (None, True)


def test_a_compiled_student(data, tmp_path):
    plain, compiled = (train(data, tmp_path / str(made), "cuda", amp=False, compile=made) for made in (False, True))
    for line, wanted in zip(compiled.history, plain.history, strict=True):
        assert line["train_loss"] == pytest.approx(wanted["train_loss"], rel=0.05)
