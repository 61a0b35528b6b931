"""Faults that were mended: what training must notice before it begins."""

from __future__ import annotations

import json
import sys
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import InputError
from fastlabel.labelling.cache import cache_labels
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.loss import soft_cross_entropy
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.system.ranks import Ranks
from fastlabel.teachers.teacher import load_teacher
from fastlabel.train import Recipe, StudentConfig, train_student
from fastlabel.train.common import check_same_classes, drops_last, evaluation_policy, finish
from fastlabel.train.evaluate import Evaluator
from fastlabel.train.objectives import cached_loss, online_loss
from fastlabel.views import ViewPolicy
from tests.stores import make_teacher

from .test_loop import Crash, CrashingLoader

NAMES = [f"class{number}" for number in range(8)]


class Listener:
    """Keeps what it is told before a run."""

    def __init__(self):
        self.notes = []

    def start(self, *_): ...
    def step(self, images): ...
    def epoch(self, metrics): ...
    def note(self, text):
        self.notes.append(text)


def write_classes(folder, out, names, per_class=2):
    for target, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = np.random.default_rng([NAMES.index(name), target, index]).integers(0, 256, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    write_dataset(folder, out, write_mode="raw", progress=False)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight classes to train on, all and five of them to test on, and a store of two of eight classes kept."""
    folder = tmp_path_factory.mktemp("faults")
    made = SimpleNamespace(
        train=write_classes(folder / "train", folder / "train.beton", NAMES),
        five=write_classes(folder / "five", folder / "five.beton", NAMES[:2] + NAMES[5:]),
        store=folder / "labels.zarr",
    )
    cache_labels(made.train, made.store, [make_teacher(8)], views=2, k=2, policy="pad-crop")
    return made


@pytest.mark.fault("11.11 batch norm on a batch of one")
def test_a_batch_of_one_is_too_few_for_batch_norm():
    normed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(InputError, match=r"batches of 1 images leave less than 2, too few .* take larger batches$"):
        drops_last(40, 1, normed, Ranks())
    assert not drops_last(40, 1, nn.Conv2d(3, 4, 3), Ranks()) and not drops_last(40, 2, normed, Ranks())


@pytest.mark.fault("11.11 a temperature that divides to infinity")
@pytest.mark.parametrize("temperature", [1e-320, 1e-40])
def test_a_temperature_next_to_zero_is_an_error_and_not_a_loss_that_is_nan(temperature):
    labels, logits = TopKCodec(3, 7).encode(torch.randn(4, 7)), torch.randn(4, 7)
    expected = r"student_temperature is .*, expected (at least 1e-30|a positive finite number)"
    with pytest.raises(InputError, match=expected):
        soft_cross_entropy(logits, labels, student_temperature=temperature)
    for loss in (cached_loss, lambda *both: online_loss(nn.Identity(), *both)):
        with pytest.raises(InputError, match="student_temperature"):
            loss(1.0, temperature)
    # A label's own may be as near to zero as a number of full precision: its top class is all that is left.
    assert soft_cross_entropy(logits, labels, max(temperature, sys.float_info.min)).isfinite()
    assert soft_cross_entropy(logits, labels, 1.0, 1e-30).isfinite()


@pytest.mark.fault("11.13 --resume without a saved state")
def test_resume_without_a_state_says_so_and_keeps_the_metrics(tmp_path, make_trainer):
    options = {"epochs": 5, "keep_every": 0, "eval_every": 5}
    with pytest.raises(Crash):
        make_trainer(tmp_path / "run", loader=CrashingLoader(3), **options).fit()
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert len(before.splitlines()) == 3 and not (tmp_path / "run" / "last.pt").exists()
    listener = Listener()
    trainer = make_trainer(tmp_path / "run", reporter=listener, **options)
    result = finish(trainer, trainer.run, resume=True)
    assert listener.notes == [f"{tmp_path / 'run'} holds no saved state: the run starts anew"]
    assert (tmp_path / "run" / "metrics-before.jsonl").read_text() == before
    assert [line["epoch"] for line in result.history] == [1, 2, 3, 4, 5]
    trainer = make_trainer(tmp_path / "run", reporter=listener, **options)
    finish(trainer, trainer.run, resume=True)
    assert len(listener.notes) == 1  # this one had a state


def dataset(names, path="val.beton"):
    return SimpleNamespace(path=path, class_names=tuple(names), num_classes=len(names))


@pytest.mark.fault("11.13 classes that differ are listed")
@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (NAMES[:-1], r"it lacks 'class7'; train-teacher and train-student take --allow-missing-classes"),
        (NAMES[6:], r"it lacks 'class0', 'class1', 'class2', 'class3', 'class4' and 1 more; train-teacher"),
        ([*NAMES[1:], "dog"], r"it lacks 'class0' and it has 'dog' besides$"),
        ([*NAMES, "dog"], r"it has 'dog' besides$"),
        (NAMES[::-1], r"in another order, class 0 is 'class7' and not 'class0'$"),
    ],
)
def test_classes_that_differ_are_listed(theirs, message):
    with pytest.raises(InputError, match=f"val.beton has other classes than train.beton: .*{message}"):
        check_same_classes(dataset(NAMES, "train.beton"), dataset(theirs))
    assert check_same_classes(dataset(NAMES), dataset(NAMES)) is None


@pytest.mark.fault("11.13 NFC against NFD is said")
def test_the_other_form_of_unicode_is_said():
    composed = ["caf\u00e9", "dog"]
    decomposed = [unicodedata.normalize("NFD", name) for name in composed]
    with pytest.raises(InputError, match=r"spelled in Unicode's other form, NFD: .*rename those folders"):
        check_same_classes(dataset(composed), dataset(decomposed), allow_missing=True)


@pytest.mark.fault("11.13 --allow-missing-classes")
def test_validation_images_of_some_classes(cli, data, tmp_path):
    """Refused without the option; with it each image counts for the class of its name."""
    command = ["train-teacher", data.train, "--val", data.five, "--arch", "convnet-d1-w8", "--epochs", 1]
    command += ["--batch-size", 8, "--device", "cpu", "--json", "--out", tmp_path / "run"]
    refused = cli(*command)
    assert refused.exit_code == 2 and "it lacks 'class2', 'class3', 'class4'; train-teacher and" in refused.stderr
    assert not (tmp_path / "run").exists()
    done = cli(*command, "--allow-missing-classes")
    assert done.exit_code == 0, done.stderr
    five = Beton.open(data.five)
    model = load_teacher(tmp_path / "run" / "epoch-001.pt").model
    policy = evaluation_policy(ViewPolicy.pad_crop(16), five)
    found = Evaluator(SoftLabelLoader(five, None, 10, policy=policy, class_map=[0, 1, 5, 6, 7], shuffle=False))(model)
    metrics = json.loads(done.stdout)
    assert metrics["val_loss"] == pytest.approx(found["val_loss"], rel=1e-5)
    wrong = Evaluator(SoftLabelLoader(five, None, 10, policy=policy, shuffle=False))(model)
    assert abs(wrong["val_loss"] - found["val_loss"]) > 1e-3


@pytest.mark.fault("11.8 a temperature that the labels cannot serve")
def test_what_labels_keep_at_a_temperature_is_said(data, tmp_path):
    notes = {}
    for temperature in (0.2, 20.0):
        listener = Listener()
        recipe = Recipe(1, batch_size=8)
        config = StudentConfig(
            data.train, data.store, data.train, tmp_path / str(temperature), "convnet-d1-w8", recipe, device="cpu"
        )
        object.__setattr__(config, "label_temperature", temperature)
        train_student(config, listener)
        (notes[temperature],) = listener.notes
    assert notes[0.2].startswith("at temperature 0.2 the labels keep about ")
    assert notes[20.0].startswith("warning: at temperature 20 the labels keep about ")
    assert notes[20.0].endswith("(estimated from 16 of them): 2 of 8 classes are too few for it")
