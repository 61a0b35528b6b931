from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import nn

from fastlabel.errors import InputError, TeacherError
from fastlabel.models.classifier import Classifier, ModelSpec, build_model
from fastlabel.models.weights import read_checkpoint, weights_sha256
from fastlabel.teachers.teacher import load_teacher
from fastlabel.train.checkpoint import save_checkpoint

TINY = ModelSpec("convnet-d1-w8", num_classes=5, size=8)


def images(count=4, size=8):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return pixels.permute(0, 3, 1, 2)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(3)
    path = tmp_path / "run" / "epoch-003.pt"
    path.parent.mkdir()
    model = Classifier(TINY)
    save_checkpoint(path, model, epoch=3, metrics={"val_loss": 1.5})
    return path, model


def test_convnet_is_that_of_the_literature():
    net = build_model("convnet-d3", 10, 32)
    weights = {name: tuple(value.shape) for name, value in net.named_parameters()}
    assert weights["features.0.weight"] == (128, 3, 3, 3)
    assert weights["features.8.weight"] == (128, 128, 3, 3)
    assert weights["classifier.weight"] == (10, 128 * 4 * 4)
    assert sum(value.numel() for value in net.parameters()) == 320_010
    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [128, 128, 128]


def test_group_norm_with_a_group_per_channel_is_instance_norm():
    x = torch.randn(2, 128, 16, 16)
    norm = build_model("convnet-d3", 10, 32).features[1]
    torch.testing.assert_close(norm(x), nn.functional.instance_norm(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("arch", "size", "shape"), [("convnet-d4", 41, 2), ("convnet-d1-w8", 3, 1)])
def test_convnet_takes_odd_sizes(arch, size, shape):
    net = build_model(arch, 7, size)
    assert net.classifier.in_features % shape**2 == 0
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_images_smaller_than_the_poolings_are_refused():
    with pytest.raises(InputError, match="must be 16 pixels or larger, not 15"):
        build_model("convnet-d4", 10, 15)


@pytest.mark.parametrize(("arch", "near"), [("resnet81", "resnet18"), ("convnt-d3", "convnet-d3")])
def test_unknown_names_list_near_ones(arch, near):
    with pytest.raises(InputError, match=f"unknown model.*{near}"):
        build_model(arch, 10, 32)


@pytest.mark.parametrize("arch", ["resnet18", "torchvision:resnet18", "squeezenet1_1"])
def test_torchvision_classifiers_get_the_number_of_classes(arch):
    assert Classifier(ModelSpec(arch, 7, 32))(images(2, 32)).shape == (2, 7)


def test_googlenet_gives_plain_logits_while_training():
    model = Classifier(ModelSpec("googlenet", 7, 64)).train()
    assert model(images(2, 64)).shape == (2, 7)


def test_images_that_a_torchvision_network_cannot_take_are_refused():
    with pytest.raises(InputError, match="alexnet cannot take images of 16 pixels"):
        build_model("alexnet", 10, 16)


def test_classifier_normalises_colours_and_takes_channels_last_pixels():
    model = Classifier(TINY)
    seen = []
    model.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images())
    mean, std = torch.tensor(TINY.mean).view(3, 1, 1), torch.tensor(TINY.std).view(3, 1, 1)
    torch.testing.assert_close(seen[0], (images().float() / 255 - mean) / std)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_spec_round_trips():
    assert ModelSpec.from_dict(TINY.to_dict()) == TINY
    assert ModelSpec.from_dict({"arch": "resnet18", "num_classes": 3, "size": 9}).size == 9


@pytest.mark.parametrize("change", [{"num_classes": 1}, {"size": 0}, {"std": (1, 1, 0)}, {"mean": (1,)}])
def test_bad_specs_are_refused(change):
    with pytest.raises(InputError):
        ModelSpec(**{"arch": "resnet18", "num_classes": 3, "size": 9, **change})


@pytest.mark.fault("11.4 mean and std on a scale of 0 to 255")
@pytest.mark.parametrize("change", [{"mean": (123.7, 116.3, 103.5)}, {"std": (58.4,) * 3}, {"mean": (-0.5,) * 3}])
def test_normalisation_on_another_scale_is_refused(change):
    with pytest.raises(InputError, match=r"of colours from 0 to 1, not .*: divide what is meant"):
        ModelSpec(**{"arch": "resnet18", "num_classes": 3, "size": 9, **change})
    ModelSpec("resnet18", 3, 9, (0.0,) * 3, (1 / 255,) * 3)  # a network that takes colours from 0 to 255


def changed(path, **values):
    content = torch.load(path, weights_only=True)
    torch.save({**content, **{key: value(content[key]) for key, value in values.items()}}, path)


@pytest.mark.fault("11.4 what a teacher is")
@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (
            "spec",
            lambda spec: {**spec, "mean": [0.5] * 3},
            r"weights have the mean \[0.48.*, its spec \[0.5",
        ),
        ("state", lambda state: {**state, "std": torch.ones(3, 1, 1)}, r"its weights have the std \[1.0"),
        (
            "state",
            lambda state: {name: value.char() if "classifier" in name else value for name, value in state.items()},
            r"2 of another type \(net.classifier.weight int8 for float32, net.classifier.bias",
        ),
        ("state", lambda state: {**state, "more": torch.zeros(1)}, r"of its keys 1 unexpected \(more\)"),
        (
            "spec",
            lambda spec: {**spec, "arch": "vit_h_14", "size": 224},
            r"of 224 pixels: of its keys \d+ missing",
        ),
        ("spec", lambda spec: {**spec, "size": 10**6}, "an image size must be 1 to 8192 pixels, not 1000000"),
        ("spec", lambda spec: {**spec, "num_classes": "5"}, "needs 2 classes or more, not 5"),
        ("spec", lambda spec: {**spec, "std": ["a", "b", "c"]}, "does not hold the model that it describes"),
        ("spec", lambda spec: [1, 2], "is damaged: its spec or its epoch is none"),
        ("epoch", lambda epoch: "three", "is damaged: its spec or its epoch is none"),
        ("state", lambda state: {"a": 1}, "its state is no dictionary of names and tensors"),
    ],
)
def test_a_checkpoint_that_contradicts_itself(checkpoint, key, change, message):
    path, _ = checkpoint
    changed(path, **{key: change})
    with pytest.raises(TeacherError, match=message):
        load_teacher(path)


def test_teacher_gives_the_logits_of_the_model_saved(checkpoint):
    path, model = checkpoint
    before = torch.get_rng_state()
    teacher = load_teacher(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert (teacher.name, teacher.epoch, teacher.model.spec) == ("run-epoch-003", 3, TINY)
    assert teacher.sha256 == weights_sha256(model.state_dict())
    assert not teacher.model.training
    assert torch.equal(teacher.model(images()), model.eval()(images()))


def test_the_digest_is_of_the_values_not_of_their_layout():
    weights = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    digest = weights_sha256({"a": weights, "b": torch.tensor(7)})
    assert digest == "945689a3c3a0d5432de87b1a386b16229e7695e45d623169da531bb71f36eff7"
    assert weights_sha256({"b": torch.tensor(7), "a": weights.to(memory_format=torch.channels_last)}) == digest
    assert weights_sha256({"a": weights.view(3, 2, 4, 4), "b": torch.tensor(7)}) != digest
    assert weights_sha256({"a": weights + 1, "b": torch.tensor(7)}) != digest
    assert weights_sha256({"c": weights, "b": torch.tensor(7)}) != digest


def test_other_normalisation_is_another_teacher():
    torch.manual_seed(0)
    one = Classifier(TINY)
    other = Classifier(ModelSpec(**{**TINY.to_dict(), "mean": (0.5, 0.5, 0.5)}))
    other.net.load_state_dict(one.net.state_dict())
    assert weights_sha256(one.state_dict()) != weights_sha256(other.state_dict())


def test_the_same_model_gives_the_same_bytes(tmp_path, checkpoint):
    path, model = checkpoint
    save_checkpoint(tmp_path / "other.pt", model, epoch=3, metrics={"val_loss": 1.5})
    assert (tmp_path / "other.pt").read_bytes() == path.read_bytes()


def test_missing_folder_foreign_and_damaged_files_are_refused(tmp_path, checkpoint):
    path, _ = checkpoint
    whole = path.read_bytes()
    cases = {
        "cut.pt": (whole[: len(whole) // 2], "cut short"),
        "text.pt": (b"hello", "not a PyTorch checkpoint"),
        "empty.pt": (b"", "not a PyTorch checkpoint"),
        "plain.pt": (saved({"weight": torch.zeros(2)}), "not a fastlabel checkpoint"),
        "later.pt": (saved({"format": 2}), "format 2, this version reads 1"),
        "part.pt": (saved({"format": 1, "spec": {}}), "lacks state, epoch"),
        "code.pt": (saved({"format": 1, "net": nn.Linear(2, 2)}), "refused"),
    }
    for name, (data, expected) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TeacherError, match=expected):
            read_checkpoint(tmp_path / name)
    with pytest.raises(TeacherError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(TeacherError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_a_flipped_bit_is_found(tmp_path, checkpoint):
    path, model = checkpoint
    data = bytearray(path.read_bytes())
    data[data.index(model.net.classifier.weight.detach().numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(TeacherError, match="damaged"):
        read_checkpoint(path)


def test_weights_that_do_not_fit_the_description_are_refused(tmp_path):
    content = {"format": 1, "spec": TINY.to_dict(), "epoch": 1}
    other = Classifier(ModelSpec("convnet-d1-w9", 5, 8)).state_dict()
    (tmp_path / "a.pt").write_bytes(saved({**content, "state": dict(other)}))
    with pytest.raises(TeacherError, match="does not hold the model that it describes"):
        load_teacher(tmp_path / "a.pt")


def saved(content):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer)
    return buffer.getvalue()
