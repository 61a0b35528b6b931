"""Modules of one's own as teachers: labelled with, verified, exported; and what is no teacher is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

import fastlabel
from fastlabel.errors import InputError, ManifestMismatchError, TeacherError
from fastlabel.integrity import verify_store
from fastlabel.store.store import LabelStore
from fastlabel.teachers.load import load_teachers
from fastlabel.teachers.spec import TeacherSpec

SIZE, CLASSES = 16, 3
HOW = {"mean": 0.5, "std": (0.25, 0.25, 0.5), "size": SIZE}


class Mine(nn.Module):
    """A small network of somebody's own; `last` is what it does with its logits."""

    scale: Tensor

    def __init__(self, last: Callable[[Tensor], object] | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.conv = nn.Conv2d(3, 8, 3, stride=2)
            self.norm = norm or nn.BatchNorm2d(8)
            self.head = nn.Linear(8, CLASSES)
            self.head.weight.data *= 20
        self.register_buffer("scale", torch.ones(1), persistent=False)
        self.last = last

    def forward(self, images: Tensor) -> object:
        logits = self.head(self.norm(self.conv(images)).relu().mean(dim=(2, 3))) * self.scale
        return logits if self.last is None else self.last(logits)


class Other(Mine):
    """Another class with the same weights."""


def own(module: nn.Module, **options: object) -> fastlabel.teachers.teacher.Teacher:
    return fastlabel.teacher(module, **HOW | options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mine() -> nn.Module:
    return Mine().eval()


def test_a_module_labels_and_is_known_again(photos, tmp_path, mine):
    store = tmp_path / "labels.zarr"
    fastlabel.cache_labels(photos, store, [own(mine)], views=2, k=2, forward_batch=4)
    (info,) = LabelStore.open(store).manifest.teachers
    assert (info.name, info.arch.rpartition(".")[2]) == ("Mine", "Mine") and info.arch.startswith("module:")
    assert (info.size, info.mean, info.std) == (SIZE, (0.5,) * 3, (0.25, 0.25, 0.5))
    report = verify_store(store, photos, [own(mine)], device="cpu")
    assert report.sound and report.labels_recomputed > 0
    for stranger in (own(Other().eval()), own(mine, mean=0.4), own(Mine(norm=nn.Identity()).eval())):
        with pytest.raises(ManifestMismatchError):
            verify_store(store, photos, [stranger], device="cpu")
    with pytest.raises(ManifestMismatchError, match=r"was a module in Python .*fastlabel\.teacher"):
        verify_store(store, photos, [str(photos)], device="cpu")


def test_a_hidden_buffer_is_part_of_the_digest(mine):
    changed = Mine().eval()
    changed.scale += 1
    assert own(changed).sha256 != own(mine).sha256 == own(Mine().eval()).sha256


def test_plain_attributes_of_modules_are_part_of_the_digest(mine):
    """With the same weights, these are other teachers; the same module given again is the same."""

    def changed(**attributes: object) -> str:
        net = copy.deepcopy(mine)
        for name, value in attributes.items():
            setattr(net, name, value)
        return own(net).sha256

    plain = own(mine).sha256
    assert changed() == plain == changed(training=False)
    settings = [{"gain": 2.0}, {"gain": 3.0}, {"kind": "gelu"}, {"last": torch.Tensor.relu}, {"last": torch.Tensor.exp}]
    settings += [{"table": np.arange(3)}, {"table": np.arange(1, 4)}, {"table": torch.arange(3)}]
    settings += [{"gain": np.float32(2)}, {"gain": np.float32(3)}, {"names": np.array(["a", None], object)}]
    digests = {changed(**attributes) for attributes in settings}
    assert len(digests | {plain}) == len(settings) + 1


def test_the_module_stays_as_it_is():
    module = Mine().eval()
    teacher = own(module)
    before = teacher.sha256
    assert module.head.weight.requires_grad and module.conv.weight.is_contiguous()
    module.head.weight.data += 1
    assert teacher.sha256 == before


def test_wrappers_are_taken_off(mine):
    wrapped = own(nn.DataParallel(mine).eval())
    assert (wrapped.name, wrapped.sha256) == ("Mine", own(mine).sha256)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Mine(), {}, r"training mode: call eval\(\)"),
        (Mine(norm=nn.BatchNorm2d(8)).eval().requires_grad_(False), {"mean": None}, "mean or std is missing"),
        (Mine().eval(), {"size": None}, "size is missing"),
        (Mine().eval(), {"size": 0}, "image size"),
        (Mine().eval(), {"mean": 127.0}, "divide what is meant for"),
        (Mine().eval(), {"mean": "a"}, "mean must be 3 numbers"),
        (Mine().eval(), {"categories": ["a"]}, "1 categories for 3 classes"),
        (Mine().eval(), {"class_map": [0, 3]}, "0 to 2"),
        (Mine().eval(), {"precision": "fp8"}, "unknown precision"),
        (Mine().eval(), {"name": 3}, "name is 3"),
        ("resnet18", {}, r"module is 'resnet18', expected a torch\.nn\.Module"),
        (Mine(norm=nn.BatchNorm2d(8, track_running_stats=False)).eval(), {}, "depend on the other images"),
        (Mine(lambda logits: logits.softmax(1)).eval(), {}, "probabilities"),
        (Mine(lambda logits: (logits, logits)).eval(), {}, "gives tuple, expected one tensor"),
        (Mine(lambda logits: logits[:, 0]).eval(), {}, "expected one tensor of logits"),
        (Mine(lambda logits: logits + torch.randn(1)).eval(), {}, "repeat itself"),
        (Mine(lambda logits: logits * float("nan")).eval(), {}, "NaN"),
        (Mine().eval().double(), {}, "cannot take normalised images, float32"),
    ],
)
def test_what_is_no_teacher_is_refused(module, options, message):
    with pytest.raises((InputError, TeacherError), match=message):
        own(module, **options)


def test_one_part_in_training_mode_is_named():
    module = Mine().eval()
    module.norm.train()
    with pytest.raises(InputError, match="in its part norm"):
        own(module)


def test_a_bare_module_says_what_to_do(photos, tmp_path, mine):
    with pytest.raises(InputError, match=r"module Mine.*fastlabel\.teacher\(module"):
        fastlabel.cache_labels(photos, tmp_path / "x.zarr", [mine], views=1, k=2)


def test_an_exported_module_labels_the_same(photos, tmp_path, mine, cli: Callable[..., Result]):
    names = sorted(fastlabel.dataset.beton.Beton.open(photos).class_names)
    path = fastlabel.export_teacher(mine, tmp_path / "t.pt2", categories=names, **HOW)
    (loaded,) = load_teachers([TeacherSpec(path, trust_program=True)], torch.device("cpu"))
    assert (loaded.categories, loaded.fixed_batch, loaded.model.spec.size) == (tuple(names), None, SIZE)
    assert loaded.model.spec.mean == (0.5,) * 3
    one, other = tmp_path / "module.zarr", tmp_path / "program.zarr"
    options = ["--views", "2", "--k", "2", "--forward-batch", "4", "--device", "cpu"]
    assert cli("cache-labels", photos, other, "--teacher", path, "--trust-program", *options).exit_code == 0
    fastlabel.cache_labels(photos, one, [own(mine)], views=2, k=2, forward_batch=4, device="cpu")
    planes = [LabelStore.open(store).plane(1) for store in (one, other)]
    assert torch.equal(*(plane[torch.arange(12)].dense() for plane in planes))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("t.pt", {}, "ends in .pt2"),
        ("none/t.pt2", {}, "existing folder"),
        ("there.pt2", {}, "exists: choose another name"),
        ("t.pt2", {"batch": 0}, "batch 0 must be at least 1"),
        ("t.pt2", {"std": None}, "std is missing"),
    ],
)
def test_a_bad_export_writes_nothing(tmp_path, mine, name, options, message):
    (tmp_path / "there.pt2").write_text("x")
    with pytest.raises(InputError, match=message):
        fastlabel.export_teacher(mine, tmp_path / name, **HOW | options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.pt2"]


def test_what_torch_cannot_export_is_said(tmp_path):
    module = Mine(lambda logits: logits if float(logits.sum()) > 0 else logits * 2).eval()
    with pytest.raises(TeacherError, match="cannot take Mine"):
        fastlabel.export_teacher(module, Path(tmp_path, "t.pt2"), **HOW)
    assert list(tmp_path.iterdir()) == []


def test_names_and_colours_are_checked(mine):
    assert own(mine, mean=np.array([0.5, 0.5, 0.5]), std=torch.tensor([0.25, 0.25, 0.5])).sha256 == own(mine).sha256
    for options, message in (
        ({"name": " "}, "name is ' ': give the teacher a name"),
        ({"categories": ["cat", "dog", "cat"]}, "'cat' more than once"),
        ({"mean": np.ones((2, 3))}, "mean must be 3 numbers"),
    ):
        with pytest.raises(InputError, match=message):
            own(mine, **options)


@pytest.mark.parametrize("there", ["t.pt2", "t.pt2.json"])
def test_an_export_replaces_neither_file_unasked(tmp_path, mine, there):
    file = tmp_path / there
    file.write_text("somebody's")
    with pytest.raises(InputError, match=f"{there} exists: choose another name"):
        fastlabel.export_teacher(mine, tmp_path / "t.pt2", **HOW)
    assert [path.name for path in tmp_path.iterdir()] == [there] and file.read_text() == "somebody's"
