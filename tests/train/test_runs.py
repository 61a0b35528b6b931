"""From a dataset file to a teacher, a store and students, through the library and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastlabel.dataset.beton import Beton
from fastlabel.dataset.write import write_dataset
from fastlabel.errors import InputError, ManifestMismatchError
from fastlabel.labelling.cache import cache_labels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.models.weights import read_checkpoint
from fastlabel.store.store import LabelStore
from fastlabel.teachers.teacher import load_teacher
from fastlabel.train import Recipe, StudentConfig, TeacherConfig, interruptions, train_student, train_teacher
from fastlabel.train.common import evaluation_policy
from fastlabel.train.objectives import cached_loss, online_loss
from fastlabel.train.student import default_eval_every, student_ids
from fastlabel.views import ViewPolicy

pytestmark = pytest.mark.slow  # each trains networks

ARCH = "convnet-d1-w8"
CLASSES = 4
TIMINGS = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Datasets of 48 and 20 images of 4 coloured classes, a teacher of 3 epochs, a store of 3 views with K = C."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(4)
    colours = random.integers(0, 256, (CLASSES, 3))
    for name, per_class in (("train", 12), ("val", 5)):
        for target in range(CLASSES):
            (folder / name / f"class{target}").mkdir(parents=True)
            for index in range(per_class):
                pixels = np.clip(colours[target] + random.integers(-60, 61, (16, 16, 3)), 0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / name / f"class{target}" / f"{index}.png")
        write_dataset(folder / name, folder / f"{name}.beton", write_mode="raw", progress=False)
    teacher = teacher_config(folder, folder / "teacher")
    train_teacher(teacher)
    paths = SimpleNamespace(
        folder=folder,
        train=folder / "train.beton",
        val=folder / "val.beton",
        teacher=folder / "teacher" / "epoch-003.pt",
        store=folder / "labels.zarr",
    )
    cache_labels(paths.train, paths.store, [paths.teacher], views=3, k=CLASSES, policy="pad-crop", device="cpu")
    return paths


def teacher_config(folder, out, epochs=3, **options):
    return TeacherConfig(
        data=folder / "train.beton",
        val=folder / "val.beton",
        out=out,
        arch=ARCH,
        recipe=Recipe(epochs=epochs, batch_size=16),
        device="cpu",
        **options,
    )


def student_config(data, out, epochs=3, **options):
    return StudentConfig(
        data=data.train,
        store=data.store,
        val=data.val,
        out=out,
        arch=ARCH,
        recipe=Recipe(epochs=epochs, batch_size=16),
        device="cpu",
        **options,
    )


def untimed(result):
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in result.history]


def test_the_teacher_learns_and_repeats_itself_to_the_byte(data, tmp_path):
    again = train_teacher(teacher_config(data.folder, tmp_path / "again", num_workers=1))
    assert again.accuracy > 0.5
    assert again.checkpoint.read_bytes() == data.teacher.read_bytes()
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (config["run"]["size"], config["run"]["view_policy"]["name"]) == (16, "pad-crop")


def test_a_finished_teacher_resumes_and_a_longer_one_is_another_run(data):
    teacher = data.folder / "teacher"
    assert train_teacher(teacher_config(data.folder, teacher, resume=True)).history[-1]["epoch"] == 3
    with pytest.raises(InputError, match="already holds this run"):
        train_teacher(teacher_config(data.folder, teacher))
    with pytest.raises(InputError, match=r"recipe\.epochs is 3, this one has 4"):
        train_teacher(teacher_config(data.folder, teacher, epochs=4, resume=True))


@pytest.mark.parametrize("labels", ["cache", "online", "hard"])
def test_students_learn_and_repeat_themselves(data, tmp_path, labels):
    teacher = data.teacher if labels == "online" else None
    config = student_config(data, tmp_path / "a", labels=labels, teacher=teacher)
    result = train_student(config)
    again = train_student(replace(config, out=tmp_path / "b", num_workers=1))
    assert result.accuracy > 0.4
    assert untimed(result) == untimed(again)
    assert result.checkpoint.read_bytes() == again.checkpoint.read_bytes()
    assert [path.name for path in sorted((tmp_path / "a").glob("epoch-*"))] == ["epoch-003.pt"]


def test_cached_and_online_students_stay_close(data, tmp_path):
    cached = train_student(student_config(data, tmp_path / "cache"))
    online = train_student(student_config(data, tmp_path / "online", labels="online", teacher=data.teacher))
    for one, other in zip(cached.history, online.history, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=0.02)


def test_losses_of_one_sample_agree_within_the_step_of_the_codec(data):
    loader = SoftLabelLoader(data.train, data.store, batch_size=48)
    teacher = load_teacher(data.teacher).model
    loader.set_epoch(1)
    (batch,) = loader
    logits = torch.randn(48, CLASSES, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 2.0):
        cached = cached_loss(temperature)(logits, batch)
        online = online_loss(teacher, temperature)(logits, batch)
        # Each log-probability gap is off by at most 1/16 nat, hence each probability by exp(+-1/8T).
        logs = torch.log_softmax(logits, dim=1)
        spread = logs.amax(dim=1) - logs.amin(dim=1)
        bound = (torch.tensor(1 / (8 * temperature)).exp() - 1) * spread
        assert bool(((cached - online).abs() <= bound).all())


def test_ipc_trains_on_the_same_few_images(data, tmp_path):
    store, beton = LabelStore.open(data.store), Beton.open(data.train)
    few = student_config(data, tmp_path / "few", ipc=2, epochs=2)
    ids = student_ids(few, beton, store)
    assert np.bincount(beton.targets[ids]).tolist() == [2] * CLASSES
    assert np.array_equal(student_ids(replace(few, seed=5, ipc_seed=0), beton, store), ids)
    assert not np.array_equal(student_ids(replace(few, seed=5), beton, store), ids)
    assert set(student_ids(replace(few, ipc=1), beton, store)) < set(ids)
    assert student_ids(replace(few, ipc=None), beton, store).tolist() == list(range(48))
    train_student(few)
    assert json.loads((tmp_path / "few" / "config.json").read_text())["run"]["images"] == 8


def test_too_few_images_of_a_class(data, tmp_path):
    with pytest.raises(InputError, match="class 0 has 12 images to choose from, 13"):
        train_student(student_config(data, tmp_path / "run", ipc=13))
    assert not (tmp_path / "run").exists()


def test_a_resumed_student_equals_the_uninterrupted_one(data, tmp_path):
    config = student_config(data, tmp_path / "whole", epochs=4, eval_every=1)
    whole = train_student(config)

    class Interrupt:
        def start(self, *_): ...
        def step(self, images): ...
        def note(self, text): ...
        def epoch(self, metrics):
            if metrics["epoch"] == 2:
                raise KeyboardInterrupt

    config = replace(config, out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_student(config, Interrupt())
    resumed = train_student(replace(config, resume=True))
    assert untimed(resumed) == untimed(whole)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


@pytest.mark.parametrize("labels", ["cache", "online", "hard"])
def test_students_on_two_views_of_an_image(data, tmp_path, labels, monkeypatch):
    """They learn from 2 x 48 crops an epoch, and go on in the middle of one to the bytes of an undisturbed run."""
    teacher = data.teacher if labels == "online" else None
    config = student_config(data, tmp_path / "whole", epochs=2, labels=labels, teacher=teacher, views_per_image=2)
    whole = train_student(config)
    assert whole.accuracy > 0.4
    run = json.loads((tmp_path / "whole" / "config.json").read_text())["run"]
    assert (run["views_per_image"], run["images"]) == (2, 48)
    monkeypatch.setattr(interruptions, "SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(interruptions, "SHARE_OF_SAVES", 1e9)

    crops = []

    class Interrupt:
        def start(self, step, epochs, steps_per_epoch):
            assert (step, epochs, steps_per_epoch) == (0, 2, 6)

        def step(self, images):
            crops.append(images)
            if len(crops) == 9:
                raise KeyboardInterrupt

        def epoch(self, metrics): ...

        def note(self, text): ...

    config = replace(config, out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_student(config, Interrupt())
    assert crops == [16] * 9
    assert read_checkpoint(tmp_path / "run" / "last.pt")["loader"]["batches"] == 2
    with pytest.raises(InputError, match="its views_per_image is 2, this one has 1"):
        train_student(replace(config, views_per_image=1, resume=True))
    resumed = train_student(replace(config, resume=True))
    assert untimed(resumed) == untimed(whole)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_a_run_of_before_there_were_several_views_goes_on(data, tmp_path):
    config = student_config(data, tmp_path / "run", epochs=1)
    history = train_student(config).history
    path = tmp_path / "run" / "config.json"
    kept = json.loads(path.read_text())
    del kept["run"]["views_per_image"]
    path.write_text(json.dumps(kept))
    assert train_student(replace(config, resume=True)).history == history
    with pytest.raises(InputError, match="its views_per_image is 1, this one has 2"):
        train_student(replace(config, views_per_image=2, resume=True))


def test_views_per_image_of_the_command_line(data, tmp_path, cli):
    files = ["train-student", data.train, data.store, "--val", data.val, "--arch", ARCH, "--device", "cpu"]
    options = ["--epochs", 1, "--views-per-image", 3, "--json", "--out", tmp_path / "run", "--batch-size"]
    refused = cli(*files, *options, 16)
    assert refused.exit_code == 2 and "16 crops is not a multiple of views_per_image 3: take 18" in refused.stderr
    assert not (tmp_path / "run").exists()
    done = cli(*files, *options, 24)
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["views_per_image"] == 3


def test_online_refuses_a_teacher_that_did_not_label_the_store(data, tmp_path):
    other = data.teacher.with_name("epoch-001.pt")
    with pytest.raises(ManifestMismatchError, match="is not teacher 0"):
        train_student(student_config(data, tmp_path / "run", labels="online", teacher=other))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "soft"}, "unknown kind of labels"),
        ({"labels": "online"}, "a teacher is given for online labels, and only for these: labels are online"),
        (
            {"labels": "cache", "teacher": "x.pt"},
            "a teacher is given for online labels, and only for these: labels are cache",
        ),
        ({"labels": "hard", "label_temperature": 2.0}, "temperatures are for soft labels"),
        ({"recipe": Recipe(epochs=1, label_smoothing=0.1)}, "label smoothing is for hard labels"),
        ({"views_per_image": 3}, "a batch_size of 256 crops is not a multiple of views_per_image 3: take 258"),
    ],
)
def test_options_that_contradict_each_other(data, options, message):
    base = {"data": "a", "store": "b", "val": "c", "out": "d", "arch": ARCH, "recipe": Recipe(epochs=1)}
    with pytest.raises(InputError, match=message):
        StudentConfig(**{**base, **options})


def test_a_teacher_of_the_store_that_is_not_there(data, tmp_path):
    with pytest.raises(InputError, match="has 1 teachers, counted from 0: there is no 1"):
        train_student(student_config(data, tmp_path / "run", teacher_index=1))


def test_evaluation_rhythm_and_views(data):
    assert [default_eval_every(epochs) for epochs in (1, 20, 21, 1000)] == [1, 1, 3, 100]
    val = Beton.open(data.val)
    crop = ViewPolicy.random_resized_crop
    assert evaluation_policy(ViewPolicy.pad_crop(16), val) == ViewPolicy.center(16, fraction=(1, 1))
    assert evaluation_policy(crop(16), val) == ViewPolicy.center(16, fraction=(1, 1))
    assert evaluation_policy(crop(14), val) == ViewPolicy.center(14, fraction=(7, 8))


def test_the_callers_random_numbers_stay_as_they_were(data, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    train_student(student_config(data, tmp_path / "run", epochs=1, labels="hard"))
    assert torch.equal(torch.get_rng_state(), before)


def test_commands(cli, data, tmp_path):
    recipe = ("--val", data.val, "--arch", ARCH, "--epochs", 1, "--batch-size", 16, "--device", "cpu")
    teacher = cli("train-teacher", data.train, *recipe, "--out", tmp_path / "t", "--json")
    assert teacher.exit_code == 0, teacher.stderr
    summary = json.loads(teacher.stdout)
    assert summary["checkpoint"].endswith("t/epoch-001.pt")
    assert 0 <= summary["val_accuracy"] <= 1
    assert "epoch 1/1" in teacher.stderr
    student = cli("train-student", data.train, data.store, *recipe, "--ipc", 2, "--out", tmp_path / "s")
    assert student.exit_code == 0, student.stderr
    assert student.stdout.startswith(str(tmp_path / "s" / "epoch-001.pt: top-1 "))


def test_command_errors_are_one_line(cli, data, tmp_path):
    common = ("--val", data.val, "--epochs", 1, "--device", "cpu", "--out", tmp_path / "t")
    unknown = cli("train-teacher", data.train, *common, "--arch", "resnet81")
    assert unknown.exit_code == 2
    assert "did you mean resnet18" in unknown.stderr
    assert len(unknown.stderr.strip().splitlines()) == 1
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "notes").touch()
    taken = cli("train-student", data.train, data.store, *common, "--arch", ARCH)
    assert taken.exit_code == 2
    assert "holds no run" in taken.stderr
    missing = cli("train-student", data.train, tmp_path / "none.zarr", *common, "--arch", ARCH)
    assert missing.exit_code == 1
    assert "no label store" in missing.stderr
