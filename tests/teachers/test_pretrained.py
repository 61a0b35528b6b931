"""Pretrained weights: found in PyTorch's checkpoint folder, checked, and errors that say where to put the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision import models

from fastlabel.errors import InputError, TeacherError
from fastlabel.teachers.pretrained import checkpoint_file, torchvision_colours
from fastlabel.teachers.sources import load_source
from fastlabel.teachers.spec import TeacherSpec
from fastlabel.teachers.teacher import Teacher


def load(source: str, size: int | None = None) -> Teacher:
    return load_source(TeacherSpec(source, size=size), torch.device("cpu"), None)


WEIGHTS = models.SqueezeNet1_1_Weights.IMAGENET1K_V1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkpoint folder, and no network: a proxy that nobody listens on."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture
def squeezenet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> models.SqueezeNet:
    """Random weights in the folder, under a name that carries their hash, as that of torchvision's would."""
    torch.manual_seed(1)
    net = models.squeezenet1_1().eval()
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "weights")
    digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()[:8]
    (folder / "weights").rename(folder / f"squeezenet1_1-{digest}.pth")
    monkeypatch.setattr(WEIGHTS.value, "url", f"https://download.pytorch.org/models/squeezenet1_1-{digest}.pth")
    return net


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT"])
def test_weights_in_the_folder_are_used(squeezenet: models.SqueezeNet, name: str) -> None:
    found = load(f"torchvision:squeezenet1_1@{name}")
    assert (found.model.spec.arch, found.model.spec.num_classes, found.model.spec.size) == ("squeezenet1_1", 1000, 224)
    assert found.model.spec.mean == (0.485, 0.456, 0.406) and found.categories[:2] == ("tench", "goldfish")
    assert len(found.categories) == 1000
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(found.model.net(images), squeezenet.to(memory_format=torch.channels_last)(images))


def test_another_size_is_taken(squeezenet: models.SqueezeNet) -> None:
    assert load("torchvision:squeezenet1_1@DEFAULT", 96).model.spec.size == 96


def test_a_file_of_another_hash_is_refused(squeezenet: models.SqueezeNet, folder: Path) -> None:
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(TeacherError, match=r"its SHA-256 begins [0-9a-f]{8}, its name says [0-9a-f]{8}; remove it"):
        load("torchvision:squeezenet1_1@DEFAULT")


def test_without_a_network_the_error_says_where_to_put_the_file(folder: Path) -> None:
    with pytest.raises(TeacherError) as raised:
        load("torchvision:resnet18@IMAGENET1K_V1")
    message = str(raised.value)
    assert message.startswith("torchvision:resnet18@IMAGENET1K_V1: its weights are not here and cannot be fetched")
    assert "fetch https://download.pytorch.org/models/resnet18-f37072fd.pth elsewhere" in message
    assert message.endswith(f"put it at {folder / 'resnet18-f37072fd.pth'}")
    assert list(folder.iterdir()) == []


def test_a_folder_set_by_a_program_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "net.pth").write_bytes(b"x")
    assert checkpoint_file("https://example.org/net.pth", "net") == tmp_path / "checkpoints" / "net.pth"


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet81", "DEFAULT", "unknown model torchvision:resnet81: did you mean resnet18"),
        ("fcn_resnet50", "DEFAULT", "unknown model torchvision:fcn_resnet50"),
        ("resnet50", "IMAGENET1K_V3", "no weights 'IMAGENET1K_V3': give one of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
    ],
)
def test_unknown_names(name: str, weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"torchvision:{name}@{weights}")


def test_timm_names_and_weights_out_of_reach(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="unknown model timm:resnet81: did you mean resnet1"):
        load("timm:resnet81")
    with pytest.raises(
        InputError, match=r"timm:resnet18\.a1_in2k has no such pretrained weights: did you mean resnet18"
    ):
        load("timm:resnet18.a1_in2k")
    with pytest.raises(TeacherError, match=r"fetch model.safetensors of https://huggingface.co/timm/resnet18.a1_in1k"):
        load("timm:resnet18.a1_in1k")


def test_timm_weights_in_the_cache_are_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(2)
    net = timm.create_model("test_resnet").eval()
    repository = tmp_path / "cache" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(net.state_dict(), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    found = load("timm:test_resnet.r160_in1k")
    assert (found.model.spec.arch, found.model.spec.num_classes, found.model.spec.size) == (
        "timm:test_resnet",
        1000,
        160,
    )
    assert found.categories[0] == "n01440764" and len(found.categories) == 1000
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(found.model.net(images), net.to(memory_format=torch.channels_last)(images))


def test_what_all_weights_of_a_network_are_normalised_with() -> None:
    for name in ("googlenet", "inception_v3", "efficientnet_v2_l"):
        assert torchvision_colours(name) == {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert torchvision_colours("vgg16") == {}
