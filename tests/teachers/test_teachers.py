"""Teachers as people name them, from the command line to the manifest, and back to the student that runs one along."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn
from torchvision import models

from fastlabel import TopKCodec, label_ops
from fastlabel.dataset.beton import Beton
from fastlabel.errors import InputError, ManifestMismatchError, StoreError, TeacherError
from fastlabel.labelling.cache import cache_labels
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.models.classifier import Classifier, ModelSpec
from fastlabel.store.manifest import Manifest, TeacherInfo
from fastlabel.store.store import LabelStore
from fastlabel.teachers.ensemble import Ensemble, combine
from fastlabel.teachers.labelling_network import LabellingNetwork
from fastlabel.teachers.load import load_teachers
from fastlabel.teachers.recorded import recorded_teacher
from fastlabel.teachers.spec import TeacherSpec
from fastlabel.teachers.teacher import Teacher
from fastlabel.train import Recipe, StudentConfig, train_student
from fastlabel.train.checkpoint import save_checkpoint
from fastlabel.train.objectives import online_loss
from tests.stores import digests, make_teacher

CPU = torch.device("cpu")
ARCH, CLASSES = "squeezenet1_1", 5
Cli = Callable[..., Result]


def load(*specs: TeacherSpec | Teacher | str | Path, **options: Any) -> list[Teacher]:
    return load_teachers(specs, CPU, **options)


def load_one(source: str | Path, **options: Any) -> Teacher:
    (teacher,) = load(TeacherSpec(source, **options), size=32)
    return teacher


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(6)
    net = models.squeezenet1_1(num_classes=CLASSES).eval()
    net.get_submodule("classifier.1").weight.data.normal_(0, 0.2)  # labels that are not flat
    return net


@pytest.fixture(scope="module")
def state_file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeeze.pth"
    torch.save({"model": nn.DataParallel(network).state_dict()}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "expert" / "epoch-003.pt"
    path.parent.mkdir()
    save_checkpoint(path, make_teacher().model, epoch=3, metrics={})
    return path


@pytest.fixture
def program(network: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "squeeze.pt2"
    torch.export.save(torch.export.export(network, (torch.zeros(4, 3, 32, 32),)), path)
    return path


def images(size: int = 32) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8, generator=random)


# Sources


def test_a_state_dict_with_its_arch(network: nn.Module, state_file: Path) -> None:
    teacher = load_one(state_file, arch=ARCH)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        wanted = network((images() / 255 - mean) / std)
        torch.testing.assert_close(LabellingNetwork(teacher)(images()), wanted, atol=1e-5, rtol=1e-5)
    assert (teacher.name, teacher.epoch, teacher.num_classes, teacher.model.spec.size) == ("squeeze", None, CLASSES, 32)
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())


def test_every_way_to_name_the_same_weights_is_the_same_teacher(state_file: Path) -> None:
    ways = [
        load_one(state_file, arch=ARCH),
        load_one(state_file, arch=f"torchvision:{ARCH}"),
        load_one(f"torchvision:{ARCH}@{state_file}"),
    ]
    assert len({teacher.sha256 for teacher in ways}) == 1
    assert len({teacher.model.spec for teacher in ways}) == 1


def test_what_the_caller_says_wins_over_the_file_beside(state_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(state_file.read_bytes())
    names = list("abcde")
    beside = {"arch": ARCH, "mean": [0.5, 0.5, 0.5], "std": 0.25, "size": 40, "categories": names}
    (tmp_path / "w.pth.json").write_text(json.dumps(beside))
    teacher = load_one(path)
    assert teacher.model.spec == ModelSpec(ARCH, CLASSES, 40, (0.5,) * 3, (0.25,) * 3)
    assert teacher.categories == tuple(names)
    other = load_one(path, mean=(0.1, 0.2, 0.3), size=48)
    assert other.model.spec == ModelSpec(ARCH, CLASSES, 48, (0.1, 0.2, 0.3), (0.25,) * 3)
    assert other.sha256 != teacher.sha256


def test_a_program(network: nn.Module, program: Path) -> None:
    teacher = load_one(program, mean=(0.5,), std=(0.25,), trust_program=True)
    assert (teacher.fixed_batch, teacher.model.spec.size, teacher.num_classes) == (4, 32, CLASSES)
    with torch.inference_mode():
        wanted = network(((images() / 255 - 0.5) / 0.25).contiguous())
        torch.testing.assert_close(LabellingNetwork(teacher)(images()), wanted, atol=1e-5, rtol=1e-5)
        assert LabellingNetwork(teacher)(images(48)).shape == (4, CLASSES)
    half = LabellingNetwork(replace(teacher, precision="bf16"))(images())
    assert not torch.equal(half, wanted) and (half - wanted).abs().max() < 0.1


def test_a_checkpoint_of_train_teacher(checkpoint: Path) -> None:
    teacher = load_one(checkpoint)
    assert (teacher.name, teacher.epoch, teacher.model.spec.size) == ("expert-epoch-003", 3, 16)
    assert teacher.sha256 == make_teacher().sha256
    assert load_one(checkpoint, arch="convnet-d2-w8", precision="bf16").precision == "bf16"


@pytest.mark.fault("11.3 class order")
def test_a_checkpoint_brings_the_class_names_that_it_was_trained_on(tmp_path: Path) -> None:
    model = Classifier(make_teacher().model.spec, categories=("bird", "cat", "dog"))
    save_checkpoint(tmp_path / "named.pt", model, epoch=1, metrics={})
    assert load_one(tmp_path / "named.pt").categories == ("bird", "cat", "dog")


def test_timm_files(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_classes=CLASSES).eval()
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    ways = [
        load_one(tmp_path / "vit.pth", arch="timm:test_vit", size=160),
        load_one(f"timm:test_vit@{tmp_path}/vit.pth", size=160),
    ]
    assert {teacher.sha256 for teacher in ways} == {ways[0].sha256}
    assert ways[0].model.spec.arch == "timm:test_vit" and ways[0].model.spec.mean == (0.5, 0.5, 0.5)
    with torch.inference_mode():
        torch.testing.assert_close(ways[0].model(images(160)), net(images(160) / 127.5 - 1), atol=1e-5, rtol=1e-4)


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    for source, options in (("timm:resnet18", {}), ("timm:resnet18@x.pth", {})):
        with pytest.raises((InputError, TeacherError)) as raised:
            load_one(source, **options)
        if isinstance(raised.value, InputError):
            assert "pip install 'fastlabel[timm]'" in str(raised.value)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("state", {}, "is a bare state dict: say its network with --arch"),
        ("state", {"arch": "resnet18"}, "does not fit resnet18"),
        ("state", {"arch": "sqeezenet1_1"}, "unknown model 'sqeezenet1_1': did you mean squeezenet1_1"),
        ("state", {"arch": ARCH, "mean": (0.5, 0.5)}, "mean must be 3 numbers"),
        ("state", {"arch": ARCH, "mean": (0.5, 0.5, float("nan"))}, "mean must be 3 numbers"),
        ("state", {"arch": ARCH, "std": (0.5, 0.5, 0.0)}, "std above 0"),
        ("state", {"arch": ARCH, "precision": "int8"}, "unknown precision 'int8'"),
        ("state", {"arch": ARCH, "tf32": True}, "TF32 is a mode of CUDA"),
        ("state", {"arch": ARCH, "forward": "fast"}, "unknown forward 'fast': known are eager, compiled"),
        ("checkpoint", {"arch": "resnet18"}, "is convnet-d2-w8 by itself, not resnet18"),
        ("checkpoint", {"mean": (0.5, 0.5, 0.5)}, "says its mean and std itself"),
        ("checkpoint", {"size": 32}, "does not hold the model that it describes"),
        ("program", {"trust_program": False, "mean": 0.5, "std": 0.5}, "give --trust-program"),
        ("program", {}, "does not say how its images are normalised: give --mean and --std .*squeeze.pt2.json"),
        ("program", {"mean": 0.5, "std": 0.5, "size": 64}, "was exported for images of 32 pixels, not 64"),
        ("program", {"mean": 0.5, "std": 0.5, "arch": "resnet18"}, "is export:.* by itself, not resnet18"),
        ("torchvision:resnet18", {}, "does not say which weights: give torchvision:resnet18@DEFAULT"),
        ("torchvision:resnet18@nowhere.pth", {}, "nowhere.pth does not exist"),
        ("torchvision:resnet18@/no/where.pth", {"arch": "resnet50"}, "is resnet18 by itself, not resnet50"),
        ("nowhere.pt", {}, "nowhere.pt does not exist"),
        ("nowhere.pt2", {"mean": 0.5, "std": 0.5}, "nowhere.pt2 does not exist"),
    ],
)
def test_what_cannot_be_loaded(
    source: str, options: dict[str, Any], message: str, state_file: Path, checkpoint: Path, program: Path
) -> None:
    files: dict[str, str | Path] = {"state": state_file, "checkpoint": checkpoint, "program": program}
    with pytest.raises((InputError, TeacherError), match=message):
        load_one(files.get(source, source), **{"trust_program": True} | options)


def test_a_size_that_nobody_says(state_file: Path) -> None:
    with pytest.raises(InputError, match="does not say what size of images it takes: give --teacher-size, or --size"):
        load(TeacherSpec(state_file, arch=ARCH))


# Classes


@pytest.fixture
def five(state_file: Path) -> Callable[..., TeacherSpec]:
    """A teacher of 5 classes, for the 3 classes of the photos."""
    return lambda **options: TeacherSpec(state_file, arch=ARCH, **options)


def cached(photos: Path, name: str, teachers: list[Any], **options: Any) -> LabelStore:
    path = photos.parent / f"{name}.zarr"
    usual: dict[str, Any] = {"views": 2, "k": 3, "size": 32, "forward_batch": 4, "device": "cpu"}
    cache_labels(photos, path, teachers, **usual | options)
    return LabelStore.open(path)


def test_other_classes_are_refused_with_the_remedies(photos: Path, five: Callable[..., TeacherSpec]) -> None:
    with pytest.raises(TeacherError, match=r"has 5 classes, .* has 3; .*--class-map FILE .*--keep-teacher-classes"):
        cached(photos, "a", [five()])
    assert not (photos.parent / "a.zarr").exists()


def test_a_class_map_labels_over_the_classes_of_the_dataset(photos: Path, five: Callable[..., TeacherSpec]) -> None:
    (photos.parent / "map").write_text("bird: 4\ncat: 0\n2: 1\n")
    store = cached(photos, "mapped", [five(class_map=photos.parent / "map")])
    (info,) = store.manifest.teachers
    assert (info.class_map, info.keeps_classes, info.codec.num_classes) == ((4, 0, 1), False, 3)
    whole = cached(photos, "whole", [five(keep_classes=True)], k=5)
    assert whole.manifest.teachers[0].codec.num_classes == 5 and whole.manifest.teachers[0].class_map is None
    mapped, full = (one.plane(1)[np.arange(12)].dense() for one in (store, whole))
    assert mapped.shape == (12, 3) and full.shape == (12, 5)
    chosen = full[:, [4, 0, 1]]
    torch.testing.assert_close(mapped, chosen / chosen.sum(1, keepdim=True), atol=0.05, rtol=0)


def test_a_class_map_by_the_teachers_own_names(photos: Path, state_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "named.pth"
    path.write_bytes(state_file.read_bytes())
    beside = {"arch": ARCH, "categories": ["tench", "finch", "tabby", "pug", "crane"]}
    (tmp_path / "named.pth.json").write_text(json.dumps(beside))
    class_map = {"bird": "finch", "cat": "tabby", "dog": "pug"}
    (teacher,) = load(TeacherSpec(path, class_map=class_map), beton=Beton.open(photos), size=32)
    assert teacher.class_map == (1, 2, 3)
    with pytest.raises(InputError, match=r"teacher named has no class 'pugg': did you mean pug"):
        load(TeacherSpec(path, class_map=class_map | {"dog": "pugg"}), beton=Beton.open(photos), size=32)
    beside["categories"] = ["tench"]
    (tmp_path / "named.pth.json").write_text(json.dumps(beside))
    with pytest.raises(TeacherError, match="has 5 classes and 1 categories"):
        load(TeacherSpec(path), size=32)


def test_another_class_map_is_another_teacher(photos: Path, five: Callable[..., TeacherSpec]) -> None:
    one = cached(photos, "one", [five(class_map=[4, 0, 1])]).manifest.teachers[0]
    other = cached(photos, "other", [five(class_map=[4, 0, 2])]).manifest.teachers[0]
    assert one.sha256 == other.sha256 and one.identity() != other.identity()


def test_students_on_the_teachers_own_classes(photos: Path, five: Callable[..., TeacherSpec], state_file: Path) -> None:
    """Its head has the teacher's classes, and the hard labels that it is judged by are the mapped ones."""
    store = cached(photos, "kept", [five(class_map=[4, 0, 1], keep_classes=True)], k=5)
    (info,) = store.manifest.teachers
    assert (info.codec.num_classes, info.class_map, store.num_classes) == (5, (4, 0, 1), 3)
    loader = SoftLabelLoader(photos, store, 12, shuffle=False, class_map=info.class_map)
    assert loader.num_classes == 5
    (batch,) = loader
    assert batch.targets.tolist() == [4] * 4 + [0] * 4 + [1] * 4 and batch.labels is not None
    assert batch.labels.dense().shape == (12, 5)
    recipe = Recipe(epochs=1, batch_size=12)
    common = {"data": photos, "val": photos, "store": store.path, "arch": "convnet-d1-w8", "recipe": recipe}
    for labels, classes in (("cache", 5), ("online", 5), ("hard", 3)):
        teacher = state_file if labels == "online" else None
        out = photos.parent / labels
        result = train_student(StudentConfig(**common, labels=labels, teacher=teacher, out=out, device="cpu"))
        state = torch.load(result.checkpoint, weights_only=True)["state"]
        assert state["net.classifier.weight"].shape[0] == classes
    unmapped = cached(photos, "unmapped", [five(keep_classes=True)], k=5)
    config = StudentConfig(**common | {"store": unmapped.path}, out=photos.parent / "none", device="cpu")
    with pytest.raises(InputError, match="over the 5 classes of its teacher, and nothing says which"):
        train_student(config)


# Ensembles


def test_an_ensemble_is_stored_as_one_teacher(photos: Path, state_file: Path, checkpoint: Path) -> None:
    specs = [TeacherSpec(state_file, arch=ARCH, class_map=[4, 0, 1], size=40), TeacherSpec(checkpoint)]
    store = cached(photos, "both", specs, ensemble="mean-probs", size=24)
    (info,) = store.manifest.teachers
    assert (info.arch, info.ensemble, info.size, info.codec.num_classes) == ("ensemble", "mean-probs", 24, 3)
    assert info.name == "squeeze+expert-epoch-003" and info.mean == (0.0,) * 3 and info.std == (1.0,) * 3
    assert [(member.arch, member.size, member.class_map) for member in info.members] == [
        (ARCH, 40, (4, 0, 1)),
        ("convnet-d2-w8", 16, None),
    ]
    assert info.members[1].sha256 == make_teacher().sha256 and info.members[1].epoch == 3
    loader = SoftLabelLoader(photos, store, 12, shuffle=False)
    loader.set_epoch(0)
    (batch,) = loader
    with torch.inference_mode():
        members = [LabellingNetwork(teacher)(batch.images) for teacher in load(*specs, beton=Beton.open(photos))]
    wanted = torch.stack(members).softmax(2).mean(0)
    assert batch.labels is not None
    torch.testing.assert_close(batch.labels.dense(), wanted, atol=0.03, rtol=0)
    logits = cached(photos, "logits", specs, ensemble="mean-logits", size=24)
    assert logits.manifest.teachers[0].identity() != info.identity()
    assert digests(logits.path) != digests(store.path)


def test_scaled_logits_are_those_of_the_edit_of_their_labels() -> None:
    """At the step of the codes; a teacher four times as loud has the same weight."""
    logits = [torch.randint(-40, 40, (6, 5), generator=torch.Generator().manual_seed(seed)) / 8 for seed in (1, 2)]
    codec, images = TopKCodec(5, 5), torch.zeros(6, 3, 16, 16)

    def combined(*outputs: torch.Tensor) -> torch.Tensor:
        members = [_Says(output) for output in outputs]
        found: torch.Tensor = Ensemble("scaled-logits", members, 5, 16)(images)
        return found

    edited = label_ops.average_scaled_logits([codec.encode(each) for each in logits])
    torch.testing.assert_close(combined(*logits).softmax(1), edited.dense(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(combined(logits[0] + 7, logits[1]), combined(*logits))
    quiet, loud = combined(*logits), combined(4 * logits[0], logits[1])
    torch.testing.assert_close(quiet / quiet.norm(dim=1, keepdim=True), loud / loud.norm(dim=1, keepdim=True))
    assert not bool(combined(torch.zeros(6, 5), torch.zeros(6, 5)).any())


class _Says(nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_ensembles_that_do_not_go_together(checkpoint: Path, five: Callable[..., TeacherSpec]) -> None:
    three, other = make_teacher(), load(five(), size=32)[0]
    for members, message in (
        ([three], "needs two teachers or more"),
        ([three, other], "different numbers of classes: 3, 5"),
        ([three, replace(three, precision="bf16")], "different precisions"),
        ([three, replace(three, keeps_classes=True)], "different choices of classes"),
    ):
        with pytest.raises(InputError, match=message):
            combine(members, "mean-logits", 16)
    with pytest.raises(InputError, match="unknown ensemble 'vote'"):
        load(checkpoint, checkpoint, ensemble="vote")


# Manifests


def test_a_program_of_one_batch_needs_that_forward_batch(photos: Path, program: Path) -> None:
    spec = TeacherSpec(program, mean=(0.5,) * 3, std=(0.25,) * 3, class_map=[0, 1, 2], trust_program=True)
    with pytest.raises(TeacherError, match="exported for batches of exactly 4: give --forward-batch 4, or export"):
        cached(photos, "a", [spec], forward_batch=8)
    info = cached(photos, "b", [spec]).manifest.teachers[0]
    assert info.arch.startswith("export:") and info.mean == (0.5,) * 3 and info.forward_batch == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_map": (0, 1)}, "class map do not fit the 3 classes"),
        ({"keeps_classes": True, "class_map": (0, 1, 3)}, "class map do not fit"),
    ],
)
def test_manifests_whose_classes_do_not_fit(photos: Path, change: dict[str, Any], message: str) -> None:
    manifest = cached(photos, "a", [make_teacher()]).manifest
    with pytest.raises(StoreError, match=message):
        replace(manifest, teachers=(replace(manifest.teachers[0], **change),)).validate()


def test_teachers_round_trip_through_json(photos: Path, five: Callable[..., TeacherSpec]) -> None:
    specs = [five(class_map=[4, 0, 1]), make_teacher()]
    manifest = cached(photos, "a", specs, ensemble="mean-logits").manifest
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest
    data = manifest.teachers[0].to_dict()
    assert TeacherInfo.from_dict(json.loads(json.dumps(data))) == manifest.teachers[0]
    data["members"][0]["colour"] = "green"
    with pytest.raises(ValueError, match="a member of an ensemble has the keys"):
        TeacherInfo.from_dict(data)


# The same teacher again


def sources_of(kind: str, state_file: Path, checkpoint: Path, program: Path) -> tuple[list[TeacherSpec], str | None]:
    squeeze = TeacherSpec(state_file, arch=ARCH, class_map=[4, 0, 1], mean=(0.5,) * 3, precision="bf16", size=40)
    exported = TeacherSpec(program, mean=(0.4,) * 3, std=(0.2,) * 3, class_map=[2, 1, 0], trust_program=True)
    return {
        "state dict": ([squeeze], None),
        "program": ([exported], None),
        "checkpoint": ([TeacherSpec(checkpoint)], None),
        "ensemble": ([exported, TeacherSpec(checkpoint)], "mean-probs"),
    }[kind]


@pytest.mark.parametrize("kind", ["state dict", "program", "checkpoint", "ensemble"])
def test_a_recorded_teacher_runs_as_it_did(
    kind: str, photos: Path, state_file: Path, checkpoint: Path, program: Path
) -> None:
    """With all but the weights out of the manifest: its online loss is that of the stored labels."""
    specs, ensemble = sources_of(kind, state_file, checkpoint, program)
    store = cached(photos, "a", specs, ensemble=ensemble, size=32)
    (info,) = store.manifest.teachers
    named = [TeacherSpec(spec.source, trust_program=True) for spec in specs]
    teacher = recorded_teacher(info, named, CPU, "teacher 0 of a")
    assert (teacher.sha256, teacher.precision, teacher.num_classes) == (info.sha256, info.precision, 3)
    (batch,) = SoftLabelLoader(photos, store, 12)
    network = LabellingNetwork(teacher)
    assert batch.labels is not None
    with torch.inference_mode():
        # Batches of 12 instead of 4: the last bits differ, and with them a code at most.
        torch.testing.assert_close(network(batch.images).softmax(1), batch.labels.dense(), atol=0.03, rtol=0)
    loss = online_loss(network)(torch.zeros(12, 3), batch)
    torch.testing.assert_close(loss, torch.full((12,), float(np.log(3))))


def test_other_weights_or_another_number_of_them(
    photos: Path, state_file: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (info,) = cached(photos, "a", [checkpoint]).manifest.teachers
    save_checkpoint(tmp_path / "other.pt", make_teacher(seed=9).model, epoch=3, metrics={})
    owner = "teacher 0 of a"
    with pytest.raises(ManifestMismatchError, match=r"other.pt \(weights .*\) is not teacher 0 of a \(weights"):
        recorded_teacher(info, [tmp_path / "other.pt"], CPU, owner)
    with pytest.raises(TeacherError, match="does not fit convnet-d2-w8"):
        recorded_teacher(info, [state_file], CPU, owner)
    with pytest.raises(ManifestMismatchError, match="is made of 1 networks; 2 were given"):
        recorded_teacher(info, [checkpoint, checkpoint], CPU, owner)
    wide = tmp_path / "wide.pt"
    save_checkpoint(wide, make_teacher(size=32).model, epoch=3, metrics={})
    with pytest.raises(TeacherError, match="does not hold the model that it describes"):
        recorded_teacher(info, [wide], CPU, owner)
    with pytest.raises(ManifestMismatchError, match=r"is not teacher 0 of a: .* does not say which weights"):
        recorded_teacher(info, ["torchvision:resnet18"], CPU, owner)


def test_a_program_of_a_store_must_be_trusted_too(photos: Path, program: Path, cli: Cli) -> None:
    exported = TeacherSpec(program, mean=(0.4,) * 3, std=(0.2,) * 3, class_map=[2, 1, 0], trust_program=True)
    store = cached(photos, "a", [exported], size=32)
    with pytest.raises(InputError, match="give --trust-program"):
        recorded_teacher(store.manifest.teachers[0], [program], CPU, "teacher 0 of a")
    verify = ["verify", store.path, photos, "--teacher", program, "--device", "cpu"]
    refused, sound = cli(*verify), cli(*verify, "--trust-program")
    assert refused.exit_code == 2 and "give --trust-program" in refused.stderr
    assert sound.exit_code == 0 and "labels recomputed" in sound.stdout, sound.stderr


# The command line


def test_the_command_line(cli: Cli, photos: Path, state_file: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("[4, 0, 1]")
    store = tmp_path / "both.zarr"
    label = ["cache-labels", photos, store, "--teacher", state_file, "--teacher", checkpoint, "--views", 1, "--k", 3]
    label += ["--arch", ARCH, "--arch", "-", "--class-map", tmp_path / "map.json", "--class-map", "-", "--size", 24]
    label += [
        "--precision",
        "bf16",
        "--mean",
        "0.5,0.5,0.5",
        "--mean",
        "-",
        "--teacher-size",
        40,
        "--teacher-size",
        "-",
    ]
    label += ["--forward-batch", 4, "--ensemble", "mean-logits", "--device", "cpu"]
    done = cli(*label)
    assert done.exit_code == 0 and "by squeeze+expert-epoch-003, top 3 of 3 classes" in done.stdout, done.stderr
    (info,) = LabelStore.open(store).manifest.teachers
    first, second = info.members
    assert (info.precision, info.ensemble, info.tf32) == ("bf16", "mean-logits", False)
    assert (first.size, first.mean, first.class_map) == (40, (0.5,) * 3, (4, 0, 1))
    assert (second.size, second.mean, second.class_map) == (16, (0.485, 0.456, 0.406), None)
    assert "is complete" in cli(*label).stdout
    train = [
        "train-student",
        photos,
        store,
        "--val",
        photos,
        "--arch",
        "convnet-d1-w8",
        "--epochs",
        1,
        "--device",
        "cpu",
    ]
    online = ["--labels", "online", "--teacher", state_file, "--teacher", checkpoint, "--out", tmp_path / "s"]
    result = cli(*train, *online)
    assert result.exit_code == 0, result.stderr
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["arguments"]["teacher"] == [str(state_file), str(checkpoint)]


def test_the_command_line_keeps_the_teachers_classes(cli: Cli, photos: Path, state_file: Path, tmp_path: Path) -> None:
    label = [
        "cache-labels",
        photos,
        tmp_path / "a.zarr",
        "--teacher",
        state_file,
        "--arch",
        ARCH,
        "--views",
        1,
        "--k",
        4,
    ]
    refused = cli(*label, "--size", 32)
    assert refused.exit_code == 1 and "--keep-teacher-classes" in refused.stderr
    kept = cli(*label, "--size", 32, "--keep-teacher-classes")
    assert kept.exit_code == 0 and "top 4 of 5 classes" in kept.stdout, kept.stderr


def test_the_first_teacher_settles_the_size_of_the_rest(state_file: Path) -> None:
    teachers = load(TeacherSpec(state_file, arch=ARCH, size=40), TeacherSpec(state_file, arch=ARCH))
    assert [teacher.model.spec.size for teacher in teachers] == [40, 40]
