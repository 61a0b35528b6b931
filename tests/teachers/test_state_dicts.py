"""State dicts as others write them: wrappers, prefixes, layouts, and weights that do not fit."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from fastlabel.errors import InputError, TeacherError
from fastlabel.models.classifier import build_model
from fastlabel.models.weights import hash_in_name, is_checkpoint, read_sidecar, read_weights
from fastlabel.teachers.state_dicts import fit_network, state_dict_of, vit_size

ARCH, CLASSES, SIZE = "squeezenet1_1", 7, 32


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(4)
    return models.squeezenet1_1(num_classes=CLASSES).eval()


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)  # type: ignore[arg-type]
    return path


def fitted(path: Path, arch: str = ARCH) -> nn.Module:
    net, num_classes = fit_network(path, arch, state_dict_of(path, read_weights(path)), SIZE)
    assert num_classes == CLASSES
    return net.eval()


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return one.state_dict().keys() == state.keys() and all(
        torch.equal(value, state[name]) for name, value in one.state_dict().items()
    )


LAYOUTS = {
    "bare": lambda net: net.state_dict(),
    "plain dict": lambda net: dict(net.state_dict()),
    "ddp": lambda net: nn.DataParallel(net).state_dict(),
    "compiled": lambda net: {f"_orig_mod.{name}": value for name, value in net.state_dict().items()},
    "ddp of compiled": lambda net: {f"module._orig_mod.{name}": value for name, value in net.state_dict().items()},
    "a compiled part": lambda net: {
        name.replace("features.", "features._orig_mod."): value for name, value in net.state_dict().items()
    },
    "averaged": lambda net: AveragedModel(net).state_dict(),
    "lightning": lambda net: {
        "state_dict": {f"model.{name}": value for name, value in net.state_dict().items()},
        "epoch": 3,
    },
    "timm": lambda net: {"state_dict": net.state_dict(), "arch": ARCH, "epoch": 1, "metric": 0.5},
    "torchvision": lambda net: {"model": net.state_dict(), "optimizer": {"state": {}}, "epoch": 1},
    "lightning with its loss": lambda net: {
        "state_dict": {
            **{f"model.{name}": value for name, value in net.state_dict().items()},
            "criterion.weight": torch.ones(CLASSES),
            "val_metrics.accuracy.correct": torch.tensor(3),
        }
    },
    "fsdp": lambda net: {
        "_fsdp_wrapped_module."
        + name.replace("features.", "features._fsdp_wrapped_module._checkpoint_wrapped_module."): value
        for name, value in net.state_dict().items()
    },
    "half": lambda net: {name: value.half() for name, value in net.state_dict().items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(network: nn.Module, tmp_path: Path, layout: str) -> None:
    before = torch.get_rng_state()
    net = fitted(saved(tmp_path / "weights.pth", LAYOUTS[layout](network)))
    assert torch.equal(torch.get_rng_state(), before)
    wanted = models.squeezenet1_1(num_classes=CLASSES)
    wanted.load_state_dict({name: value.half().float() for name, value in network.state_dict().items()})
    assert same(net, wanted if layout == "half" else network)


def test_files_of_old_pytorch(network: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path / "old.pth", network.state_dict(), _use_new_zipfile_serialization=False)
    assert same(fitted(path), network)


def test_safetensors(network: nn.Module, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save_file
    path = tmp_path / "model.safetensors"
    save_file(dict(network.state_dict()), path)
    assert same(fitted(path), network)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TeacherError, match="is damaged"):
        read_weights(path)


def test_timm_layouts(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = timm.create_model("test_vit", num_classes=CLASSES)
    path = saved(tmp_path / "vit.pth", {"state_dict": net.state_dict()})
    found, num_classes = fit_network(path, "timm:test_vit", state_dict_of(path, read_weights(path)), 160)
    assert num_classes == CLASSES and same(found, net)
    with pytest.raises(InputError, match="unknown model 'timm:resent18': did you mean resnet18"):
        build_model("timm:resent18", 5, 32)


def test_densenets_of_the_old_naming(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = models.densenet121(num_classes=CLASSES)
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for name, v in net.state_dict().items()}
    assert set(old) != set(net.state_dict())
    assert same(fitted(saved(tmp_path / "densenet.pth", old), "densenet121"), net)


def test_auxiliary_heads_are_left_out() -> None:
    torch.manual_seed(0)
    whole = models.googlenet(num_classes=CLASSES, aux_logits=True, init_weights=False)
    net, num_classes = fit_network("googlenet.pth", "googlenet", whole.state_dict(), 64)
    assert num_classes == CLASSES and not any(name.startswith("aux") for name in net.state_dict())


def test_the_positions_of_a_vision_transformer_tell_its_size() -> None:
    state = models.VisionTransformer(48, 16, 1, 2, 32, 64, num_classes=CLASSES).state_dict()
    assert vit_size("vit_b_16", state) == 48
    assert vit_size("resnet18", state) is None


def test_weights_that_do_not_fit_say_which(network: nn.Module) -> None:
    state: OrderedDict[str, Tensor] = network.state_dict()
    missing = OrderedDict(list(state.items())[2:])
    with pytest.raises(TeacherError, match=r"w.pth does not fit squeezenet1_1: of its keys 2 missing \(features.0"):
        fit_network("w.pth", ARCH, missing, SIZE)
    more = OrderedDict([*state.items(), ("neck.weight", torch.zeros(2))])
    with pytest.raises(TeacherError, match=r"1 unexpected \(neck.weight\); is --arch right"):
        fit_network("w.pth", ARCH, more, SIZE)
    with pytest.raises(
        TeacherError, match=r"of another shape \(features.0.weight .*\[64, 3, 3, 3\] for \[96, 3, 7, 7\]"
    ):
        fit_network("w.pth", "squeezenet1_0", state, SIZE)
    with pytest.raises(TeacherError, match=r"does not fit resnet18: it lacks the last layer \(fc.weight, fc.bias\)"):
        fit_network("w.pth", "resnet18", state, SIZE)


@pytest.mark.fault("11.4 int8 weights for float parameters")
def test_weights_of_another_type_are_refused(network: nn.Module) -> None:
    state = network.state_dict()
    state["features.0.weight"] = state["features.0.weight"].to(torch.int8)
    with pytest.raises(TeacherError, match=r"of its keys 1 of another type \(features.0.weight int8 for float32\)"):
        fit_network("w.pth", ARCH, state, SIZE)


@pytest.mark.fault("11.9 a small file with a head of 10^7 classes")
def test_a_small_file_of_large_tensors_takes_no_memory(network: nn.Module, tmp_path: Path) -> None:
    state = dict(network.state_dict())
    state["classifier.1.weight"] = torch.zeros(1, 512, 1, 1).expand(10**7, 512, 1, 1)
    state["classifier.1.bias"] = torch.zeros(1).expand(10**7)
    path = saved(tmp_path / "w.pth", state)
    assert path.stat().st_size < 10**7
    with pytest.raises(TeacherError, match=r"refused: a tensor of shape \[10000000.*\] has no values, or fewer"):
        read_weights(path)
    saved(path, {"a": torch.zeros(3, device="meta")})
    with pytest.raises(TeacherError, match=r"shape \[3\] has no values, or fewer than it says"):
        read_weights(path)


@pytest.mark.fault("11.9 a chunk that inflates")
def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"a": torch.zeros(1 << 20)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(TeacherError, match=r"small.pth is compressed, which torch.save never does"):
        read_weights(tmp_path / "small.pth")


def test_a_large_network_is_not_built_for_a_small_state(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {**network.state_dict(), "heads.head.weight": torch.zeros(3, 1280)}
    monkeypatch.setattr("fastlabel.teachers.state_dicts.build_model", None)  # would take 2.5 GB
    with pytest.raises(TeacherError, match=r"does not fit vit_h_14: of its keys \d+ missing"):
        fit_network("w.pth", "vit_h_14", state, 224)


class Anything:
    pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: {"model": {"a": torch.zeros(2)}, "args": argparse.Namespace(lr=1)}, "GLOBAL argparse.Namespace"),
        (lambda: nn.Linear(2, 2), "GLOBAL torch.nn.modules.linear.Linear"),
        (lambda: {"a": Anything()}, "Anything"),
    ],
)
def test_a_pickle_that_needs_more_is_refused_with_the_reason(tmp_path: Path, content, reason: str) -> None:
    for zipped in (True, False):
        path = saved(tmp_path / "w.pth", content(), _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            TeacherError, match=f"can run code when loaded: refused .*{reason}.*save its state_dict"
        ) as e:
            read_weights(path)
        assert "add_safe_globals" not in str(e.value) and "\n" not in str(e.value)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    for name, write in (
        ("zip.pth", torch.save),
        ("bare.pth", lambda value, path: path.write_bytes(pickle.dumps(value, 2))),
    ):
        write({"a": Evil()}, tmp_path / name)
        with pytest.raises(TeacherError, match="refused"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": {"lr": 1.0}, "epoch": 2}, "holds no state dict: it is a dictionary of optimizer, epoch"),
        ({}, "it is a dictionary of nothing"),
        ([torch.zeros(2)], "it is list"),
        (torch.zeros(2), "it is Tensor"),
    ],
)
def test_files_without_a_state_dict(content: object, message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        state_dict_of("w.pth", content)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_says_what_to_do(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(TeacherError, match=r"is a TorchScript program.*torch\.export\.save"):
        read_weights(tmp_path / "script.pt")


def test_hashes_in_names() -> None:
    assert hash_in_name("resnet18-f37072fd.pth") == "f37072fd"
    assert hash_in_name("vit_b_16-86567ae1b0.pth") == "86567ae1b0"
    assert hash_in_name("epoch-003.pt") is None
    assert hash_in_name("resnet18.pth") is None


def test_what_lies_beside_a_file(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / "w.pth") == {}
    beside = tmp_path / "w.pth.json"
    beside.write_text('{"arch": "resnet18", "mean": [0.5, 0.5, 0.5]}')
    assert read_sidecar(tmp_path / "w.pth")["arch"] == "resnet18"
    for text, message in (("{", "is not JSON"), ("[1]", "must be a JSON object"), ('{"meen": 1}', "keys arch, mean")):
        beside.write_text(text)
        with pytest.raises(InputError, match=message):
            read_sidecar(tmp_path / "w.pth")


@pytest.mark.parametrize("text", ['{"size": "32"}', '{"size": 32.5}', '{"arch": 5}', '{"categories": "cat"}'])
def test_values_of_a_wrong_kind_beside_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.pth.json").write_text(text)
    with pytest.raises(InputError, match="must be "):
        read_sidecar(tmp_path / "w.pth")


def test_integer_keys_and_foreign_formats() -> None:
    with pytest.raises(TeacherError, match="holds no state dict"):
        state_dict_of("w.pth", {0: torch.zeros(2)})
    assert not is_checkpoint({"format": "pt", "state_dict": {}})
