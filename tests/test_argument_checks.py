"""Arguments that cannot be used, through the whole API: each one clear error, none accepted, nothing raw."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastlabel
from fastlabel.dataset.beton import Beton
from fastlabel.errors import FastlabelError
from fastlabel.sampling import images_per_class, random_order, view_of_epoch
from fastlabel.system.devices import pick_device
from tests.conftest import make_photo_folder
from tests.stores import make_teacher, store_maker, write_photos

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class World:
    """What the cases are tried on: 12 photos of three classes, a store of 3 views with K = 2, a folder to write to."""

    photos: Path
    path: Path
    folder: Path
    store: Any
    plane: Any
    labels: Any
    logits: torch.Tensor
    teacher: Any
    codec: Any
    policy: Any

    def loader(self, store: Any = ..., beton: Any = ..., **options: Any) -> Any:
        chosen = self.path if store is ... else store
        options = {"batch_size": 4} | options
        return fastlabel.SoftLabelLoader(self.photos if beton is ... else beton, chosen, **options)

    def loss(self, labels: Any = ..., logits: Any = ..., **options: Any) -> Any:
        chosen = self.labels if labels is ... else labels
        return fastlabel.soft_cross_entropy(self.logits if logits is ... else logits, chosen, **options)

    def cache(self, beton: Any = ..., store: Any = ..., **options: Any) -> Any:
        target = self.folder / "never.zarr"
        options = {"teachers": [self.teacher], "views": 2, "k": 2} | options
        try:
            return fastlabel.cache_labels(
                self.photos if beton is ... else beton, target if store is ... else store, **options
            )
        finally:
            assert not target.exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    photos = write_photos(make_photo_folder(folder / "photos"), folder / "photos.beton")
    path = store_maker(photos, folder)()
    store = fastlabel.LabelStore.open(path)
    plane = store.plane(0)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    return World(
        photos,
        path,
        folder,
        store,
        plane,
        plane[range(4)],
        logits,
        make_teacher(),
        fastlabel.TopKCodec(2, 3),
        fastlabel.ViewPolicy.random_resized_crop(16),
    )


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


P = fastlabel.ViewPolicy
CASES: list[Callable[[World], Any]] = [
    # Stores and planes.
    lambda w: fastlabel.LabelStore.open(None),
    lambda w: fastlabel.LabelStore.open(3),
    lambda w: fastlabel.LabelStore.open(w.folder / "no.zarr"),
    lambda w: fastlabel.LabelStore.open(w.photos),
    lambda w: fastlabel.LabelStore.open(b"labels.zarr"),
    lambda w: w.store.plane("0"),
    lambda w: w.store.plane(1.5),
    lambda w: w.store.plane(None),
    lambda w: w.store.plane(True),
    lambda w: w.store.plane(3),
    lambda w: w.store.plane(-1),
    lambda w: w.store.plane(0, teacher="0"),
    lambda w: w.store.plane(0, teacher=0.5),
    lambda w: w.store.plane(0, teacher=1),
    lambda w: w.store.plane(0, device="tpu"),
    lambda w: w.store.plane(0, device="meta"),
    lambda w: w.store.plane(0, device=None),
    lambda w: w.plane[[0.5]],
    lambda w: w.plane[[12]],
    lambda w: w.plane[[-1]],
    lambda w: w.plane[[True, False]],
    lambda w: w.plane["3"],
    lambda w: w.plane[["a"]],
    lambda w: w.plane[None],
    lambda w: w.plane[[[0, 1]]],
    lambda w: w.plane[torch.tensor([2**40])],
    lambda w: w.plane[[2**64]],
    lambda w: w.plane.to("tpu"),
    # Labels.
    lambda w: w.labels["0"],
    lambda w: w.labels[1.5],
    lambda w: w.labels[None],
    lambda w: w.labels[[9]],
    lambda w: w.labels[[-9]],
    lambda w: w.labels[[True, False]],
    lambda w: w.labels.dense(0),
    lambda w: w.labels.dense(-1.0),
    lambda w: w.labels.dense(NAN),
    lambda w: w.labels.dense(INF),
    lambda w: w.labels.dense("1"),
    lambda w: w.labels.dense(None),
    lambda w: w.labels.dense(1e-320),
    lambda w: w.labels.dense(tail="none"),
    lambda w: w.labels.dense(tail=None),
    lambda w: w.labels.sparse("1"),
    lambda w: w.labels.to("tpu"),
    lambda w: fastlabel.TopKLabels(None, w.labels.codes, w.labels.tail, 3),
    lambda w: fastlabel.TopKLabels(w.labels.classes, w.labels.codes, w.labels.tail, "3"),
    lambda w: fastlabel.TopKLabels(w.labels.classes, w.labels.codes[:2], w.labels.tail, 3),
    lambda w: fastlabel.TopKLabels(w.labels.classes.numpy(), w.labels.codes, w.labels.tail, 3),
    # The codec.
    lambda w: fastlabel.TopKCodec(0, 3),
    lambda w: fastlabel.TopKCodec(4, 3),
    lambda w: fastlabel.TopKCodec(2.0, 3),
    lambda w: fastlabel.TopKCodec("2", 3),
    lambda w: fastlabel.TopKCodec(True, 3),
    lambda w: fastlabel.TopKCodec(2, 2**40),
    lambda w: w.codec.encode(w.logits.numpy()),
    lambda w: w.codec.encode([[1.0, 2.0, 3.0]]),
    lambda w: w.codec.encode(None),
    lambda w: w.codec.encode(w.logits.long()),
    lambda w: w.codec.encode(w.logits[0]),
    lambda w: w.codec.encode(w.logits * NAN),
    lambda w: fastlabel.TopKCodec.from_dict(None),
    lambda w: fastlabel.TopKCodec.from_dict({"k": 2}),
    # The loss.
    lambda w: w.loss(logits=None),
    lambda w: w.loss(logits=w.logits.numpy()),
    lambda w: w.loss(logits=w.logits.long()),
    lambda w: w.loss(logits=w.logits[:, :2]),
    lambda w: w.loss(logits=w.logits[0]),
    lambda w: w.loss(labels=None),
    lambda w: w.loss(labels=w.labels.codes),
    lambda w: w.loss(labels=torch.tensor([0, 1, 2, 0])),
    lambda w: w.loss(labels="labels"),
    lambda w: w.loss(label_temperature=0),
    lambda w: w.loss(label_temperature="2"),
    lambda w: w.loss(label_temperature=None),
    lambda w: w.loss(label_temperature=1e-320),
    lambda w: w.loss(student_temperature=-1),
    lambda w: w.loss(student_temperature=NAN),
    lambda w: w.loss(student_temperature="1"),
    lambda w: w.loss(student_temperature=1e-320),
    lambda w: w.loss(reduction="average"),
    lambda w: w.loss(reduction=None),
    lambda w: w.loss(divergence="js"),
    lambda w: w.loss(targets=ones(4)),
    lambda w: w.loss(targets=ones(4, dtype=torch.int64)),
    lambda w: w.loss(targets=[0, 1, 2, 0], target_weight=0.5),
    lambda w: w.loss(targets=ones(3, dtype=torch.int64), target_weight=0.5),
    lambda w: w.loss(targets=9 * ones(4, dtype=torch.int64), target_weight=0.5),
    lambda w: w.loss(target_weight=0.5),
    lambda w: w.loss(targets=ones(4, dtype=torch.int64), target_weight="0.5"),
    lambda w: w.loss(targets=ones(4, dtype=torch.int64), target_weight=1.5),
    lambda w: w.loss(targets=ones(4, dtype=torch.int64), target_weight=ones(3)),
    lambda w: w.loss(second=w.labels),
    lambda w: w.loss(mix=0.5),
    lambda w: w.loss(second=w.labels, mix=NAN),
    lambda w: w.loss(second=w.labels, mix="half"),
    lambda w: w.loss(second=w.logits, mix=0.5),
    lambda w: w.loss(temperature_squared="yes"),
    # The loader.
    lambda w: w.loader(beton=None),
    lambda w: w.loader(beton=3),
    lambda w: w.loader(beton=w.folder / "no.beton"),
    lambda w: w.loader(beton=w.folder),
    lambda w: w.loader(store=None),
    lambda w: w.loader(store=3),
    lambda w: w.loader(policy=w.policy),
    lambda w: w.loader(store=None, policy="center"),
    lambda w: w.loader(batch_size=0),
    lambda w: w.loader(batch_size=-4),
    lambda w: w.loader(batch_size=4.0),
    lambda w: w.loader(batch_size="4"),
    lambda w: w.loader(batch_size=None),
    lambda w: w.loader(batch_size=True),
    lambda w: w.loader(batch_size=2**70),
    lambda w: w.loader(device="tpu"),
    lambda w: w.loader(device=None),
    lambda w: w.loader(device="cuda" if not torch.cuda.is_available() else "cuda:99"),
    lambda w: w.loader(seed=-1),
    lambda w: w.loader(seed=0.5),
    lambda w: w.loader(seed=2**64),
    lambda w: w.loader(seed="0"),
    lambda w: w.loader(indices=[]),
    lambda w: w.loader(indices=[0.5]),
    lambda w: w.loader(indices=[[0, 1]]),
    lambda w: w.loader(indices="0, 1"),
    lambda w: w.loader(indices=[12]),
    lambda w: w.loader(indices=[-1]),
    lambda w: w.loader(indices=5),
    lambda w: w.loader(indices=[2**64]),
    lambda w: w.loader(indices=[0, [1]]),
    lambda w: w.loader(teacher=1),
    lambda w: w.loader(teacher=-1),
    lambda w: w.loader(teacher="0"),
    lambda w: w.loader(teacher=None),
    lambda w: w.loader(num_workers=-1),
    lambda w: w.loader(num_workers=1.5),
    lambda w: w.loader(num_workers="2"),
    lambda w: w.loader(shuffle="no"),
    lambda w: w.loader(shuffle=None),
    lambda w: w.loader(drop_last=1),
    lambda w: w.loader(drop_last=True, batch_size=13),
    lambda w: w.loader(class_map=[0, 1]),
    lambda w: w.loader(class_map=[0.5, 1, 2]),
    lambda w: w.loader(class_map="012"),
    lambda w: w.loader(rank=1),
    lambda w: w.loader(world_size=2),
    lambda w: w.loader(rank=2, world_size=2),
    lambda w: w.loader(rank=-1, world_size=2),
    lambda w: w.loader(rank="0", world_size=2),
    lambda w: w.loader(rank=0, world_size=0),
    lambda w: w.loader(rank=0, world_size=5),
    lambda w: w.loader(views_per_image=0),
    lambda w: w.loader(views_per_image=3),
    lambda w: w.loader(views_per_image=4),
    lambda w: w.loader(views_per_image=1.0),
    lambda w: w.loader().set_epoch(-1),
    lambda w: w.loader().set_epoch(1.5),
    lambda w: w.loader().set_epoch("1"),
    lambda w: w.loader().set_epoch(None),
    lambda w: w.loader().views("1"),
    lambda w: w.loader().load_state_dict(None),
    lambda w: w.loader().load_state_dict({"version": 1}),
    # Labelling.
    lambda w: w.cache(beton=None),
    lambda w: w.cache(beton=w.folder / "no.beton"),
    lambda w: w.cache(store=None),
    lambda w: w.cache(store=3),
    lambda w: w.cache(teachers=[]),
    lambda w: w.cache(teachers=None),
    lambda w: w.cache(teachers=w.teacher),
    lambda w: w.cache(teachers="expert.pt"),
    lambda w: w.cache(teachers=[3]),
    lambda w: w.cache(teachers=["no-such-file.pt"]),
    lambda w: w.cache(views=0),
    lambda w: w.cache(views=2.0),
    lambda w: w.cache(views="2"),
    lambda w: w.cache(views=2**40),
    lambda w: w.cache(k=0),
    lambda w: w.cache(k=4),
    lambda w: w.cache(k=2.0),
    lambda w: w.cache(k="2"),
    lambda w: w.cache(size=0),
    lambda w: w.cache(size=16.0),
    lambda w: w.cache(size="16"),
    lambda w: w.cache(seed=-1),
    lambda w: w.cache(seed=0.5),
    lambda w: w.cache(policy="crop"),
    lambda w: w.cache(policy=None),
    lambda w: w.cache(policy=3),
    lambda w: w.cache(flip="no"),
    lambda w: w.cache(ipc=0),
    lambda w: w.cache(ipc=5),
    lambda w: w.cache(ipc=1.5),
    lambda w: w.cache(ipc="1"),
    lambda w: w.cache(ipc=1, subset=[0]),
    lambda w: w.cache(subset=[]),
    lambda w: w.cache(subset=[0.5]),
    lambda w: w.cache(subset=[12]),
    lambda w: w.cache(subset="0"),
    lambda w: w.cache(num_workers=-1),
    lambda w: w.cache(num_workers="2"),
    lambda w: w.cache(decode_batch=0),
    lambda w: w.cache(decode_batch=1.5),
    lambda w: w.cache(forward_batch=0),
    lambda w: w.cache(forward_batch=2.5),
    lambda w: w.cache(forward_batch="64"),
    lambda w: w.cache(ensemble="mean"),
    lambda w: w.cache(device="tpu"),
    lambda w: w.cache(device=3.5),
    lambda w: w.cache(dry_run="yes"),
    # Views.
    lambda w: P("crop", 16),
    lambda w: P(None, 16),
    lambda w: P.center(0),
    lambda w: P.center(16.0),
    lambda w: P.center("16"),
    lambda w: P.center(2**20),
    lambda w: P.center(16, seed=-1),
    lambda w: P.center(16, seed=0.5),
    lambda w: P.center(16, fraction=(3, 2)),
    lambda w: P.center(16, fraction=(0, 2)),
    lambda w: P.center(16, fraction=0.5),
    lambda w: P.center(16, fraction=(0.5, 1)),
    lambda w: P.center(16, fraction=(1, 2, 3)),
    lambda w: P.pad_crop(16, padding=-1),
    lambda w: P.pad_crop(16, padding=1.5),
    lambda w: P.pad_crop(16, flip="no"),
    lambda w: P.random_resized_crop(16, scale=(0, 1)),
    lambda w: P.random_resized_crop(16, scale=(1, 0.5)),
    lambda w: P.random_resized_crop(16, scale=0.5),
    lambda w: P.random_resized_crop(16, scale=("a", 1)),
    lambda w: P.random_resized_crop(16, scale=(NAN, 1)),
    lambda w: P.random_resized_crop(16, scale=(0.1, 0.5, 1)),
    lambda w: P.random_resized_crop(16, ratio=(0, 1)),
    lambda w: P.random_resized_crop(16, ratio=(1, INF)),
    lambda w: P.random_resized_crop(16, ratio=1),
    lambda w: P.random_resized_crop(16, ratio=None),
    lambda w: P.random_resized_crop(16, ratio=(1e-9, 1)),
    lambda w: P.random_resized_crop(16, flip=None),
    lambda w: P.from_name("crop", 16),
    lambda w: P.from_name(None, 16),
    lambda w: P.from_name("pad-crop", 16, flip="no"),
    lambda w: P.from_dict({}),
    lambda w: P.from_dict(None),
    lambda w: P.from_dict({"name": "center", "size": 16}),
    lambda w: P.from_dict({"name": "center", "size": 16, "seed": 0, "fraction": 3}),
    lambda w: w.policy.boxes(-1, [0], [9], [9]),
    lambda w: w.policy.boxes("0", [0], [9], [9]),
    lambda w: w.policy.boxes(0, [-1], [9], [9]),
    lambda w: w.policy.boxes(0, [0.5], [9], [9]),
    lambda w: w.policy.boxes(0, [0], [0], [9]),
    lambda w: w.policy.boxes(0, [0], [9], [2**20]),
    lambda w: w.policy.boxes(0, [0, 1], [9], [9, 9]),
    lambda w: w.policy.boxes(0, None, [9], [9]),
    lambda w: w.policy.boxes(0, [[0]], [[9]], [[9]]),
    # Samples, orders and devices.
    lambda w: images_per_class([0, 0, 1], 0, 0),
    lambda w: images_per_class([0, 0, 1], 1.5, 0),
    lambda w: images_per_class([0, 0, 1], "1", 0),
    lambda w: images_per_class([0, 0, 1], 2, 0),
    lambda w: images_per_class([0, 0, 1], 1, -1),
    lambda w: images_per_class([0, 0, 1], 1, "0"),
    lambda w: images_per_class([0.5, 1.5], 1, 0),
    lambda w: images_per_class([-1, 0], 1, 0),
    lambda w: images_per_class([0, 1], 1, 0, among=[5]),
    lambda w: images_per_class([0, 1], 1, 0, num_classes=3),
    lambda w: random_order(np.arange(3), -1, 0),
    lambda w: random_order(np.arange(3), 0, -1),
    lambda w: random_order(np.arange(3), 0, "0"),
    lambda w: view_of_epoch(-1, 3, 0),
    lambda w: view_of_epoch(0, 0, 0),
    lambda w: view_of_epoch(0, 3, -1),
    lambda w: view_of_epoch(0.5, 3, 0),
    lambda w: pick_device("tpu"),
    lambda w: pick_device("mps"),
    lambda w: pick_device(None),
    lambda w: pick_device(""),
    lambda w: Beton.open(None),
    lambda w: Beton.open(3),
    # Operations on labels.
    lambda w: fastlabel.SparseLabels.hard(torch.tensor([0.5]), 3),
    lambda w: fastlabel.SparseLabels.hard([0, 1], 3),
    lambda w: fastlabel.SparseLabels.hard(torch.tensor([3]), 3),
    lambda w: fastlabel.SparseLabels.uniform(-1, 3),
    lambda w: fastlabel.SparseLabels.uniform(2, 0),
    lambda w: fastlabel.SparseLabels.uniform("2", 3),
    lambda w: fastlabel.SparseLabels.from_dense(w.logits),
    lambda w: fastlabel.SparseLabels.from_dense(w.logits.softmax(1), 0),
    lambda w: fastlabel.SparseLabels.from_dense(w.logits.softmax(1), "2"),
    lambda w: fastlabel.SparseLabels.from_dense(None),
]


def source(case: Callable[[World], Any]) -> str:
    """The text of a case, its number before it."""
    line = inspect.getsource(case).strip().removeprefix("lambda w: ").rstrip(",")
    return f"{CASES.index(case)} {line}"


@pytest.mark.fault("11.11 arguments through the API")
@pytest.mark.parametrize("case", CASES, ids=source)
def test_one_clear_error(case: Callable[[World], Any], world: World) -> None:
    with pytest.raises(FastlabelError) as raised:
        case(world)
    text = str(raised.value)
    assert len(text) > 15 and "\n" not in text and text.count("Traceback") == 0
    assert not set(text.split()) & {"NoneType", "__index__", "__fspath__"}, text


def test_there_are_many() -> None:
    assert len(CASES) > 250


@pytest.mark.fault("11.11 a batch_size that is not cut to the dataset")
def test_a_batch_larger_than_the_dataset_takes_no_memory_for_the_rest(world: World) -> None:
    loader = world.loader(batch_size=2**40)
    (batch,) = loader
    assert len(batch) == 12 == loader.samples_in(0) and loader._images.batch_size == 12
