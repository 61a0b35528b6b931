"""A teacher's classes in the order of the dataset's: by name, on trust, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.data import ImageNetInfo
from torchvision.models import ResNet18_Weights

from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError
from fastlabel.models.classifier import ModelSpec
from fastlabel.teachers.class_map import Classes
from fastlabel.teachers.class_order import in_order
from fastlabel.teachers.load import load_teachers
from fastlabel.teachers.spec import TeacherSpec
from fastlabel.teachers.teacher import Teacher
from fastlabel.train.checkpoint import save_checkpoint
from tests.stores import make_teacher

CPU = torch.device("cpu")


def named(*names: str, num_classes: int | None = None) -> Teacher:
    teacher = make_teacher(num_classes or len(names))
    return replace(teacher, categories=names)


def dataset(*names: str, count: int | None = None) -> Classes:
    return Classes("data.beton", count or len(names), names)


@pytest.mark.fault("11.3 class order")
def test_folders_that_sort_as_text_meet_a_teacher_in_numeric_order(caplog: pytest.LogCaptureFixture) -> None:
    numbers = [str(number) for number in range(12)]
    found = in_order(named(*numbers), dataset(*sorted(numbers)))
    assert found.class_map == (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)
    assert "in another order: they are mapped by name" in caplog.text


def test_the_same_names_need_no_map(caplog: pytest.LogCaptureFixture) -> None:
    for ours in (("house finch", "tabby"), ("House_finch", "Tabby")):
        teacher = named("house finch", "tabby")
        assert in_order(teacher, dataset(*ours)) is teacher
    assert not caplog.messages


@pytest.mark.fault("11.3 class order")
def test_other_names_are_refused_with_the_remedies() -> None:
    with pytest.raises(InputError) as raised:
        in_order(named("a", "b", "c"), dataset("a", "c", "d"))
    assert str(raised.value) == (
        "the classes of data.beton and teacher expert have other names: 1 is 'c' and 'b', 2 is 'd' and 'c'; say with "
        "--class-map FILE which is which, or that they are in the same order with --class-map in-order"
    )


@pytest.mark.fault("11.3 class order")
def test_names_that_one_side_lacks_are_taken_on_trust_aloud(caplog: pytest.LogCaptureFixture) -> None:
    one, other = named("a", "b"), named(num_classes=2)
    for teacher, classes, who in ((one, dataset(count=2), "data.beton"), (other, dataset("a", "b"), "teacher expert")):
        caplog.clear()
        assert in_order(teacher, classes) is teacher
        assert caplog.messages == [
            f"{who} has no class names: that class i of teacher expert is class i of data.beton is taken on trust"
        ]


def test_what_a_class_map_or_another_number_says_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    two = named("a", "b")
    for teacher in (replace(two, class_map=(1, 0)), replace(two, keeps_classes=True), named("a", "b", "c")):
        assert in_order(teacher, dataset("x", "y")) is teacher
    assert not caplog.messages


def test_wordnet_ids_are_in_the_order_of_imagenet() -> None:
    english = tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    teacher = replace(make_teacher(1000), categories=english)
    ids = ImageNetInfo("imagenet-1k").label_names()
    assert in_order(teacher, dataset(*ids)) is teacher
    for others in ((*ids[1:], ids[0]), [f"n{number:08d}" for number in range(1000)]):
        with pytest.raises(InputError, match="have other names"):
            in_order(teacher, dataset(*others))


def test_classes_that_are_said_to_be_in_order(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, beton = tmp_path / "expert.pt", Beton.open(photos)
    model = make_teacher().model
    assert isinstance(model.spec, ModelSpec)
    save_checkpoint(path, model, epoch=1, metrics={}, extra={"categories": ["dog", "bird", "cat"]})
    (mapped,) = load_teachers([path], CPU, beton)
    assert mapped.class_map == (1, 2, 0)
    (kept,) = load_teachers([TeacherSpec(path, class_map="in-order")], CPU, beton)
    assert kept.class_map is None
