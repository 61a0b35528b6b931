"""How a teacher's forward pass runs its network: weights cast once, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from fastlabel.errors import TeacherError
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.store.manifest import Manifest
from fastlabel.store.store import LabelStore
from fastlabel.teachers.forward_network import with_cast_weights
from fastlabel.teachers.labelling_network import LabellingNetwork
from fastlabel.teachers.precision import PRECISIONS, teacher_precision
from fastlabel.teachers.teacher import Teacher
from tests.stores import digests, make_teacher

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: models.resnet18(num_classes=5),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=5),
    "vit": lambda: models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=5),
    "swin": lambda: models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [2, 2], num_classes=5),
}


def images(count: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(8)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)


def teacher_of(net: nn.Module, **options: Any) -> Teacher:
    model = Classifier(ModelSpec("some", 5, 32), net)
    model.train()(images(8))  # batch norm's statistics are not those of its initialisation
    model.eval().requires_grad_(False)
    return Teacher(model, "some", **options)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_cast_once_give_the_logits_of_autocast(name: str, precision: str) -> None:
    torch.manual_seed(3)
    teacher = teacher_of(NETWORKS[name](), precision=precision)
    digest = teacher.sha256
    with torch.inference_mode(), teacher_precision("cpu", precision):
        wanted = teacher.model(images()).float()
    with torch.inference_mode():
        network = LabellingNetwork(teacher)
        assert torch.equal(network(images()), wanted)
    types = {module.weight.dtype for module in network.modules() if type(module) in (nn.Conv2d, nn.Linear)}
    assert types == {PRECISIONS[precision]}
    assert teacher.sha256 == digest


@pytest.mark.gpu
@pytest.mark.parametrize("forward", ["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_gives_the_same_logits_each_time(precision: str, forward: str) -> None:
    """Eager ones are those of autocast, bit by bit; compiled ones are near, and the same of two compilations."""
    torch.manual_seed(3)
    teacher = teacher_of(NETWORKS["resnet18"](), precision=precision, forward=forward)
    teacher.model.to("cuda")
    pixels = images().cuda()
    with torch.inference_mode(), teacher_precision("cuda", precision):
        wanted = teacher.model(pixels).float()
    found = []
    for _ in range(2):
        with torch.inference_mode():
            found.append(LabellingNetwork(teacher).to("cuda")(pixels))
        torch.compiler.reset()
    assert torch.equal(*found)
    if forward == "eager":
        assert torch.equal(found[0], wanted)
    torch.testing.assert_close(found[0], wanted, atol=0.05, rtol=0.05)


def test_layers_that_compute_with_their_weights_stay_as_they_are() -> None:
    class Standardised(nn.Conv2d):
        pass

    normed, hooked = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4)
    hooked.register_forward_pre_hook(lambda module, inputs: None)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Standardised(3, 4, 1), normed, hooked, nn.BatchNorm2d(4))
    found = with_cast_weights(net, torch.bfloat16)
    types = [next(iter(module.parameters())).dtype for module in found]  # type: ignore[attr-defined]
    assert types == [torch.bfloat16, *4 * [torch.float32]]
    assert with_cast_weights(net, None) is net and net[0].weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_teacher_repeats_itself(make_store: Callable[..., Path], precision: str) -> None:
    eager = replace(make_teacher(), precision=precision)
    compiled = replace(eager, forward="compiled")
    paths = [make_store(str(number), k=3, teachers=[compiled]) for number in range(2)]
    assert digests(paths[0]) == digests(paths[1])
    stores = [LabelStore.open(path) for path in (paths[0], make_store("eager", k=3, teachers=[eager]))]
    infos = [store.manifest.teachers[0] for store in stores]
    assert [info.forward for info in infos] == ["compiled", "eager"] and infos[0].identity() != infos[1].identity()
    assert "forward" not in infos[1].to_dict()
    assert Manifest.from_dict(stores[0].manifest.to_dict()) == stores[0].manifest
    found, wanted = (store.plane(0)[np.arange(12)].dense() for store in stores)
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)


@pytest.mark.slow
def test_batch_norm_is_folded_when_compiled() -> None:
    torch.manual_seed(3)
    eager = teacher_of(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 5))
    )
    with torch.inference_mode():
        logits = [LabellingNetwork(one)(images()) for one in (eager, replace(eager, forward="compiled"))]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_network_that_is_no_single_graph_is_refused() -> None:
    class Asks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return images.mean((2, 3)).repeat(1, 2)[:, :5]

    with pytest.raises(TeacherError, match=r"teacher some cannot be compiled as one graph: .*give --forward eager"):
        LabellingNetwork(teacher_of(Asks(), forward="compiled"))(images())
