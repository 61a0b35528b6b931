"""Programs of torch.export: loaded only where trusted, run as the network that they were, refused as no teacher."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from fastlabel.errors import InputError, TeacherError
from fastlabel.models.weights import weights_sha256
from fastlabel.teachers.exported import Program, load_program
from fastlabel.teachers.spec import TeacherSpec

CPU = torch.device("cpu")
IMAGES = torch.zeros(4, 3, 32, 32)
BATCH = torch.export.Dim("batch", min=1, max=512)
SIDE = torch.export.Dim("side", min=16, max=512)


class Small(nn.Module):
    """A few layers of each kind that has a mode or a layout of its own."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.conv(images)).relu()
        hidden = hidden.view(images.shape[0], 8, -1).mean(dim=2)
        return self.head(self.dropout(hidden))


def export(path: Path, net: nn.Module, example: Tensor = IMAGES, dims: dict[int, object] | None = None) -> Path:
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=(dims,) if dims else None), path)
    return path


def load(path: Path) -> Program:
    return load_program(TeacherSpec(path, trust_program=True), CPU)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(5)
    return Small().eval()


def test_a_program_gives_what_its_network_gave(tmp_path: Path, small: nn.Module) -> None:
    found = load(export(tmp_path / "net.pt2", small, dims={0: BATCH, 2: SIDE, 3: SIDE}))
    assert (found.num_classes, found.size, found.batch) == (5, None, None)
    for images in (torch.randn(1, 3, 32, 32), torch.randn(9, 3, 41, 41)):
        channels_last = images.to(memory_format=torch.channels_last)
        assert torch.equal(found.eval()(channels_last), small(images))
    assert weights_sha256(found.tensors) == weights_sha256(small.state_dict())


def test_a_fixed_batch_and_size_are_known(tmp_path: Path, small: nn.Module) -> None:
    found = load(export(tmp_path / "net.pt2", small))
    assert (found.size, found.batch) == (32, 4)


def test_the_same_weights_in_another_program_are_another_arch(tmp_path: Path, small: nn.Module) -> None:
    one, other = (
        load(export(tmp_path / f"{size}.pt2", small, torch.zeros(2, 3, size, size))).arch for size in (32, 40)
    )
    assert one.startswith("export:") and one != other


def test_a_real_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = models.squeezenet1_1(num_classes=6).eval()
    found = load(export(tmp_path / "net.pt2", net, dims={0: BATCH}))
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(found(images), net(images))


class Wrap(nn.Module):
    def __init__(self, net: nn.Module, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, images: Tensor) -> object:
        return self.change(self.net(images))


@pytest.mark.parametrize(
    ("make", "example", "message"),
    [
        (lambda: Wrap(Small().eval(), lambda y: (y, y)), IMAGES, r"gives float32 \[4, 5\], float32 \[4, 5\]"),
        (lambda: Wrap(Small().eval(), lambda y: y[:, :, None]), IMAGES, r"gives float32 \[4, 5, 1\]"),
        (lambda: Wrap(nn.Identity(), lambda x: x.float().mean((2, 3))), IMAGES.to(torch.uint8), r"takes uint8 \[4, 3"),
        (lambda: nn.Flatten(), torch.zeros(4, 1, 8, 8), r"takes float32 \[4, 1, 8, 8\]"),
        (
            lambda: Wrap(Small().eval(), lambda y: y.round().int()),
            IMAGES,
            r"gives int32 \[4, 5\]; .*logits .* of floats",
        ),
        (lambda: Small().train(), IMAGES, r"was exported in training mode \(aten::batch_norm\): call model.eval\(\)"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Dropout()).train(), IMAGES, r"in training mode \(aten::dropout\)"),
        (lambda: Wrap(Small().eval(), lambda y: y + torch.rand(5)), IMAGES, r"draws random numbers \(aten::rand\)"),
    ],
)
def test_programs_that_are_no_teacher(
    tmp_path: Path, make: Callable[[], nn.Module], example: Tensor, message: str
) -> None:
    with pytest.raises(TeacherError, match=message):
        load(export(tmp_path / "net.pt2", make(), example))


def test_attention_without_dropout_is_repeatable(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = models.VisionTransformer(32, 16, 1, 2, 32, 64, num_classes=5).eval()
    found = load(export(tmp_path / "vit.pt2", net, dims={0: BATCH}))
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(found(images), net(images), atol=1e-5, rtol=1e-5)


class Touch:
    """An object whose unpickling leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("trust", [False, True])
def test_code_in_a_program_runs_only_where_it_is_trusted(tmp_path: Path, small: nn.Module, trust: bool) -> None:
    path, trap = export(tmp_path / "net.pt2", small), tmp_path / "ran"
    torch.save(Touch(trap), tmp_path / "evil")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new:
        for name in old.namelist():
            hidden = name.endswith("sample_inputs/model.pt")
            new.writestr(name, (tmp_path / "evil").read_bytes() if hidden else old.read(name))
    with pytest.raises(TeacherError if trust else InputError) as raised:
        load_program(TeacherSpec(tmp_path / "evil.pt2", trust_program=trust), CPU)
    assert trap.exists() == trust
    if not trust:
        assert "can run any code that its maker put there: where you trust it, give --trust-program" in str(
            raised.value
        )


def test_damaged_and_foreign_files(tmp_path: Path, small: nn.Module) -> None:
    path = export(tmp_path / "net.pt2", small)
    data = path.read_bytes()
    cases = {
        "cut.pt2": (data[: len(data) // 2], "is damaged, or no program that torch.export.save"),
        "text.pt2": (b"hello", "is damaged, or no program that torch.export.save"),
        "flip.pt2": (flipped(data, small), "the checksum of its part .*weight_0 is wrong"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TeacherError, match=message):
            load(tmp_path / name)
    torch.save(small.state_dict(), tmp_path / "state.pt2")
    with pytest.raises(TeacherError, match="is damaged, or no program that"):
        load(tmp_path / "state.pt2")
    with pytest.raises(TeacherError, match="does not exist"):
        load(tmp_path / "none.pt2")


def flipped(data: bytes, net: nn.Module) -> bytes:
    conv = net.get_parameter("conv.weight").detach().numpy().tobytes()
    at = data.index(conv) + 20
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class Inside(Small):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.dropout(self.conv(images).relu().mean((2, 3)))
        return self.head(hidden)


def test_random_numbers_in_a_graph_within(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="in training mode"):
        load(export(tmp_path / "net.pt2", Inside().train()))
