"""Programs of torch.export: run as the network that they were; refused where they could run code or are no teacher."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from fastlabel.errors import TeacherError
from fastlabel.models.weights import weights_sha256
from fastlabel.teachers import program_text
from fastlabel.teachers.exported import load_program
from fastlabel.teachers.pretrained import Network

MEAN, STD, CPU = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3), torch.device("cpu")
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


def load(path: Path) -> Network:
    return load_program(path, MEAN, STD, CPU)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(5)
    return Small().eval()


def test_a_program_gives_what_its_network_gave(tmp_path: Path, small: nn.Module) -> None:
    found = load(export(tmp_path / "net.pt2", small, dims={0: BATCH, 2: SIDE, 3: SIDE}))
    assert (found.spec.num_classes, found.any_size, found.fixed_batch) == (5, True, None)
    assert (found.spec.mean, found.spec.std) == (MEAN, STD)
    for images in (torch.randn(1, 3, 32, 32), torch.randn(9, 3, 41, 41)):
        channels_last = images.to(memory_format=torch.channels_last)
        assert torch.equal(found.net.eval()(channels_last), small(images))
    assert weights_sha256(found.extra_state) == weights_sha256(small.state_dict())


def test_a_fixed_batch_and_size_are_known(tmp_path: Path, small: nn.Module) -> None:
    found = load(export(tmp_path / "net.pt2", small))
    assert (found.spec.size, found.any_size, found.fixed_batch) == (32, False, 4)


def test_the_same_weights_in_another_program_are_another_arch(tmp_path: Path, small: nn.Module) -> None:
    one, other = (
        load(export(tmp_path / f"{size}.pt2", small, torch.zeros(2, 3, size, size))).spec.arch for size in (32, 40)
    )
    assert one.startswith("export:") and one != other


def test_a_real_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = models.squeezenet1_1(num_classes=6).eval()
    found = load(export(tmp_path / "net.pt2", net, dims={0: BATCH}))
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(found.net(images), net(images))


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
        torch.testing.assert_close(found.net(images), net(images), atol=1e-5, rtol=1e-5)


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None) -> Path:
    """The archive with other contents; a part for which `change` gives None is left out."""
    out = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in (more or {}).items():
            new.writestr(f"net/{name}", content)
    return out


class Touch:
    """An object whose unpickling leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))


def test_what_could_run_code_is_refused_and_does_not(tmp_path: Path, small: nn.Module) -> None:
    path, trap = export(tmp_path / "net.pt2", small), tmp_path / "ran"
    torch.save(Touch(trap), tmp_path / "evil")
    evil = (tmp_path / "evil").read_bytes()

    def pickled_weight(name: str, content: bytes) -> bytes:
        if name == "data/weights/weight_0":
            return evil
        if name == "data/weights/model_weights_config.json":
            config = json.loads(content)
            next(iter(config["config"].values()))["use_pickle"] = True
            return json.dumps(config).encode()
        return content

    def constant(name: str, content: bytes) -> bytes:
        payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
        wanted = name == "data/constants/model_constants_config.json"
        return json.dumps({"config": {"thing": payload}}).encode() if wanted else content

    def expression(name: str, content: bytes) -> bytes:
        if not name.startswith("models/"):
            return content
        graph = json.loads(content)
        text = f"__import__('pathlib').Path('{trap}').touch()"
        graph["graph_module"]["graph"]["odd"] = {"as_expr": {"expr_str": text, "hint": None}}
        return json.dumps(graph).encode()

    def keep(name: str, content: bytes) -> bytes:
        return content

    cases: list[tuple[Callable[[str, bytes], bytes], dict[str, bytes], str]] = [
        (pickled_weight, {}, "its conv.weight is a pickled object"),
        (constant, {"data/constants/opaque_obj_0": pickle.dumps(Touch(trap))}, "its thing is a pickled object"),
        (
            lambda n, c: evil if n == "data/sample_inputs/model.pt" else c,
            {},
            "sample_inputs/model.pt is a pickle of more",
        ),
        (keep, {"data/weights/model.pt": evil}, "data/weights/model.pt is a pickle of more than tensors"),
        (expression, {}, "size expression .* is more than arithmetic"),
        (keep, {"data/aotinductor/model/a.so": b"\x7fELF"}, "it holds compiled code"),
    ]
    for change, more, reason in cases:
        with pytest.raises(TeacherError, match=f"changed.pt2 is refused: .*{reason}"):
            load(rewrite(path, change, more))
        assert not trap.exists()
    load(rewrite(path, keep))  # the rewriting itself does no harm


def test_damaged_and_foreign_files(tmp_path: Path, small: nn.Module) -> None:
    path = export(tmp_path / "net.pt2", small)
    data = path.read_bytes()
    cases = {
        "cut.pt2": (data[: len(data) // 2], "no program that torch.export.save wrote, or is damaged"),
        "text.pt2": (b"hello", "no program that torch.export.save wrote"),
        "flip.pt2": (flipped(data, small), "the checksum of its part .*weight_0 is wrong"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TeacherError, match=message):
            load(tmp_path / name)
    torch.save(small.state_dict(), tmp_path / "state.pt2")
    with pytest.raises(TeacherError, match=r"it is not of the format of torch\.export\.save"):
        load(tmp_path / "state.pt2")
    with pytest.raises(TeacherError, match="does not exist"):
        load(tmp_path / "none.pt2")
    with pytest.raises(TeacherError, match=r"cannot be loaded by this PyTorch|is refused"):
        load(rewrite(path, lambda name, content: b"{}" if name.startswith("models/") else content))


@pytest.mark.parametrize(
    "text", ["s77", "Symbol('s77', positive=True, integer=True)", "2*s0 + 1", "Max(1, Add(s0, -2))"]
)
def test_size_expressions_that_are_arithmetic(text: str) -> None:
    assert program_text.is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "open('x', 'w')",
        "exec('x')",
        "Symbol('a').free",
        "__name__",
        "[1]",
        'S("1")',
        "lambda: 0",
        "S('a b')",
        "f (1)",
        "(eval)((chr)(111))",
        "1" * 40 + "$",
    ],
)
def test_size_expressions_that_are_more(text: str) -> None:
    assert not program_text.is_arithmetic(text)


def flipped(data: bytes, net: nn.Module) -> bytes:
    conv = net.get_parameter("conv.weight").detach().numpy().tobytes()
    at = data.index(conv) + 20
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_the_names_in_quotes_of_guards_and_operators() -> None:
    assert program_text.is_guard("2*(L['x'].size()[2] // 2) >= torch.sym_max(1, math.trunc(1.5))")
    for text in ("open('x')", "L['x'].size()[eval]()", "math.os", "(eval)(1)", "1\\nimport os"):
        assert not program_text.is_guard(text)
    assert not list(program_text.text_faults({"target": "torch.ops.aten.relu.default"}))
    for target in ("torch.os.system", "torch.ops.load_library", "torch.load", "_operator.methodcaller"):
        assert list(program_text.text_faults({"nodes": [{"target": target}]}))


@pytest.mark.parametrize("trick", ["expression", "guard", "operator", "suffix", "twice", "folder"])
def test_ways_around_the_check_are_refused(tmp_path: Path, small: nn.Module, trick: str) -> None:
    path, trap = export(tmp_path / "net.pt2", small, dims={0: BATCH, 2: SIDE, 3: SIDE}), tmp_path / "ran"
    payload = "(eval)(" + "+".join(f"(chr)({ord(letter)})" for letter in f"open({str(trap)!r},'w')") + ")"

    def change(name: str, content: bytes) -> bytes:
        graph = json.loads(content) if name == "models/model.json" else {}
        if not graph or trick not in ("expression", "guard", "operator"):
            return content
        if trick == "guard":
            graph["guards_code"].append(payload)
        elif trick == "operator":
            graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"
        else:
            return content.replace(b"Symbol(", payload.encode() + b"+Symbol(")
        return json.dumps(graph).encode()

    out = rewrite(path, change)
    more = {"suffix": "net/models/model.jsom", "twice": "net/Models/model.json", "folder": "other/byteorder"}
    if trick in more:
        with zipfile.ZipFile(out, "a") as archive:
            archive.writestr(more[trick], b"{}")
    with pytest.raises(TeacherError, match=r"changed\.pt2 is refused: it"):
        load(out)
    assert not trap.exists()


class Inside(Small):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.dropout(self.conv(images).relu().mean((2, 3)))
        return self.head(hidden)


def test_random_numbers_in_a_graph_within(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="in training mode"):
        load(export(tmp_path / "net.pt2", Inside().train()))
