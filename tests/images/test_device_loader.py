"""Whole images for a device that crops them: the same bytes as the CPU's path, here on the CPU itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.errors import DatasetError, ImageDecodeError, InputError
from fastlabel.images import device_loader as device_module
from fastlabel.images.device_loader import DeviceBatch, DeviceImageLoader, _parts, make_image_loader, own_device
from fastlabel.images.loader import ImageLoader
from fastlabel.images.resident import room_bytes
from fastlabel.images.staging import BUFFERS, Staging
from fastlabel.integrity.repair import repair_store
from fastlabel.labelling.cache import cache_labels, decode_batch_size
from fastlabel.loading.loader import SoftLabelLoader
from fastlabel.store.store import LabelStore
from fastlabel.system.ranks import Ranks
from fastlabel.train.common import make_evaluator
from fastlabel.views import ViewPolicy
from tests.betons import WriteBeton
from tests.conftest import photo_like
from tests.stores import digests, make_teacher

POLICIES = [ViewPolicy.random_resized_crop(24, seed=3), ViewPolicy.pad_crop(32, 1), ViewPolicy.center(17)]
POLICIES += [ViewPolicy.identity(40)]


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every device takes whole images, also the CPU; the loaders that were made so."""
    made: list[Any] = []
    original = DeviceImageLoader.__init__

    def remember(self: DeviceImageLoader, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(device_module, "crops_on_device", lambda device: True)
    monkeypatch.setattr(DeviceImageLoader, "__init__", remember)
    yield made


@pytest.fixture(params=["jpg", "raw", "smart"])
def beton(write_beton: WriteBeton, request: pytest.FixtureRequest) -> Beton:
    """17 images of 32 to 90 pixels."""
    sides = np.random.default_rng(1).integers(32, 91, (17, 2))
    images = [photo_like(int(h), int(w), n % 3, n) for n, (h, w) in enumerate(sides)]
    return Beton.open(write_beton(images, request.param))


def crops(loader: ImageLoader, ids: NDArray[np.int64], views: list[int]) -> torch.Tensor:
    with loader.epoch(ids, views) as batches:
        found = list(batches)
    assert np.concatenate([batch.ids for batch in found]).tolist() == ids.tolist()
    return torch.cat([batch.images for batch in found])


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("part", [1, 20_000, 1 << 30])  # bytes: every image alone, a few, the whole batch
def test_the_same_bytes_as_the_cpu(
    beton: Beton, policy: ViewPolicy, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "PART_BYTES", part)
    ids = np.random.default_rng(0).permutation(17).astype(np.int64)
    for views in ([0], [5, 2, 3]):
        wanted = crops(ImageLoader(beton, policy, 5), ids, views)
        for workers in (1, 2):
            loader = DeviceImageLoader(beton, policy, 5, workers, "cpu")
            assert torch.equal(crops(loader, ids, views), wanted)
            assert torch.equal(loader.decode(ids[:3], views).images, wanted[:3])
            assert loader.decode(ids[:0], views).images.shape == (0, *wanted.shape[1:])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The samples that are decoded, in their order."""
    found: list[int] = []
    original = device_module.decode_whole

    def remember(ids: NDArray[np.int64], *arguments: Any) -> None:
        found.extend(ids.tolist())
        original(ids, *arguments)

    monkeypatch.setattr(device_module, "decode_whole", remember)
    return found


@pytest.mark.parametrize("part", [1, 20_000, 1 << 30])
def test_images_that_stay_on_the_device_are_decoded_once(
    beton: Beton, decoded: list[int], part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "PART_BYTES", part)
    loader = DeviceImageLoader(beton, POLICIES[0], 5, device="cpu", resident_bytes=1 << 30)
    ids, random = np.array([3, 16, 0, 7, 8, 9, 12]), np.random.default_rng(0)
    for views in ([0], [1, 2], [3]):
        order = random.permutation(np.tile(ids, 2))
        wanted = crops(ImageLoader(beton, POLICIES[0], 5), order, views)
        assert torch.equal(crops(loader, order, views), wanted)
        assert torch.equal(loader.decode(order[:4], views).images, wanted[:4])
    assert sorted(decoded) == sorted(ids)  # once each, in three epochs of all of them twice
    assert torch.equal(crops(loader, ids[2:4], [0]), crops(ImageLoader(beton, POLICIES[0], 5), ids[2:4], [0]))
    assert sorted(decoded) == sorted(ids)
    # There is no room for others: they are decoded as they come, or stay when an epoch asks for them.
    assert torch.equal(loader.decode([1, 3], [0]).images, ImageLoader(beton, POLICIES[0], 5).decode([1, 3], [0]).images)
    del decoded[:]
    for _ in range(2):
        assert torch.equal(
            crops(loader, np.arange(17), [4]), crops(ImageLoader(beton, POLICIES[0], 5), np.arange(17), [4])
        )
    assert sorted(decoded) == list(range(17))


def test_images_that_need_too_much_memory_do_not_stay(beton: Beton, decoded: list[int]) -> None:
    nbytes = int(3 * beton.heights.astype(np.int64) @ beton.widths)
    for most, times in ((None, 2), (0, 2), (nbytes - 1, 2), (nbytes, 1)):
        del decoded[:]
        loader = DeviceImageLoader(beton, POLICIES[1], 5, device="cpu", resident_bytes=most)
        for _ in range(2):
            crops(loader, np.arange(17), [0])
        assert len(decoded) == 17 * times


def test_images_stay_for_epochs_that_show_others_each_time(beton: Beton, decoded: list[int]) -> None:
    nbytes = 3 * beton.heights.astype(np.int64) * beton.widths
    drawn = np.array([9, 3, 16, 0, 7, 8, 12])
    loader = DeviceImageLoader(
        beton, POLICIES[0], 5, device="cpu", resident_bytes=int(nbytes[drawn].sum()), resident_ids=drawn
    )
    for ids in ([3, 9], [16, 3], [0, 7, 8, 12], [9, 16, 0]):
        wanted = crops(ImageLoader(beton, POLICIES[0], 5), np.array(ids), [1])
        assert torch.equal(crops(loader, np.array(ids), [1]), wanted)
    assert sorted(decoded) == sorted(drawn)
    # Others are decoded as they come, and those that are there stay.
    for _ in range(2):
        wanted = crops(ImageLoader(beton, POLICIES[0], 5), np.arange(17), [1])
        assert torch.equal(crops(loader, np.arange(17), [1]), wanted)
    del decoded[:]
    crops(loader, drawn, [2])
    assert decoded == []


def test_no_image_stays_where_not_all_would_fit(beton: Beton, decoded: list[int]) -> None:
    most = int(3 * beton.heights.astype(np.int64) @ beton.widths) - 1
    loader = DeviceImageLoader(beton, POLICIES[1], 5, device="cpu", resident_bytes=most, resident_ids=np.arange(17))
    for _ in range(2):
        crops(loader, np.array([4, 2]), [0])
    assert decoded == [4, 2, 4, 2] and loader._resident is None


def test_older_images_count_as_free(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8_000, 100_000))
    assert room_bytes(torch.device("cuda:0"), 0) == 1_000
    assert room_bytes(torch.device("cuda:0"), 800) == 1_100
    assert room_bytes(torch.device("cpu"), 800) == 0
    asked: list[int] = []

    def room(device: torch.device, held: int) -> int:
        asked.append(held)
        return 1 << 30

    monkeypatch.setattr(device_module, "room_bytes", room)
    loader = DeviceImageLoader(beton, POLICIES[1], 5, device="cpu")
    for ids in ([0, 1], [2, 3]):
        crops(loader, np.array(ids), [0])
    assert asked == [0, int(3 * beton.heights[:2].astype(np.int64) @ beton.widths[:2])]


def test_bytes_that_cannot_be(photos: Path) -> None:
    for bad, message in ((-1, "resident_bytes -1 must be at least 0"), (0.5, "resident_bytes 0.5 must be an integer")):
        with pytest.raises(InputError, match=message):
            DeviceImageLoader(photos, POLICIES[0], 3, device="cpu", resident_bytes=bad)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            SoftLabelLoader(photos, None, 3, policy=POLICIES[0], resident_bytes=bad)  # type: ignore[arg-type]


def test_a_device_that_refuses_the_memory_is_no_error(
    beton: Beton, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fastlabel.images.resident.torch.empty", refuse)
    loader = DeviceImageLoader(beton, POLICIES[1], 5, device="cpu", resident_bytes=1 << 30)
    monkeypatch.undo()
    room = loader.epoch(np.arange(17), [0])
    assert len(list(room)) == 4


def test_a_broken_image_does_not_stay(write_beton: WriteBeton) -> None:
    beton = Beton.open(write_beton([photo_like(50, 60, 0, n) for n in range(6)]))
    damage(beton, 4)
    loader = DeviceImageLoader(beton.path, POLICIES[0], 3, device="cpu", resident_bytes=1 << 30)
    for _ in range(2):
        with (
            loader.epoch(np.arange(6), [0]) as batches,
            pytest.raises(ImageDecodeError, match=r"sample 4 of .*data.beton cannot be decoded: libjpeg says"),
        ):
            list(batches)
    good = np.array([0, 1, 2, 3, 5])
    assert torch.equal(crops(loader, good, [0]), crops(ImageLoader(beton.path, POLICIES[0], 3), good, [0]))


@pytest.mark.fault("11.1 rewritten while open")
def test_images_that_stay_are_still_of_the_file(write_beton: WriteBeton) -> None:
    path = write_beton([photo_like(50, 60, 0, n) for n in range(6)])
    loader = DeviceImageLoader(path, POLICIES[0], 3, device="cpu", resident_bytes=1 << 30)
    crops(loader, np.arange(6), [0])
    damage(Beton.open(path), 4)
    with pytest.raises(DatasetError, match="was changed while it was open"):
        crops(loader, np.arange(6), [0])


def test_batches_stay_valid(beton: Beton) -> None:
    loader = DeviceImageLoader(beton, POLICIES[0], 2, device="cpu")
    with loader.epoch(np.arange(17), [0, 1]) as batches:
        held = [(batch, batch.images.clone()) for batch in batches]
    assert len(held) == 9 and all(torch.equal(batch.images, copy) for batch, copy in held)


@pytest.mark.parametrize(
    ("sizes", "most", "wanted"),
    [
        ([], 9, [(0, 0)]),
        ([5], 4, [(0, 1)]),
        ([5, 4, 1], 9, [(0, 2), (2, 3)]),
        ([5, 5, 5], 9, [(0, 1), (1, 2), (2, 3)]),
        ([1, 20, 1, 1], 9, [(0, 1), (1, 2), (2, 4)]),
    ],
)
def test_parts_fit_into_a_buffer(sizes: list[int], most: int, wanted: list[tuple[int, int]]) -> None:
    assert [(part.start, part.stop) for part in _parts(np.array(sizes, np.int64), most)] == wanted


def test_a_device_decides_who_crops(beton: Beton) -> None:
    assert type(make_image_loader(beton, POLICIES[0], 4, 0, "cpu")) is ImageLoader
    assert device_module.crops_on_device(torch.device("cuda:1"))
    sizes = {
        device: decode_batch_size(ViewPolicy.random_resized_crop(224), torch.device(device))
        for device in ("cpu", "cuda")
    }
    assert sizes == {"cpu": 13, "cuda": 64}


def test_a_device_has_a_number_or_is_not_there(photos: Path) -> None:
    assert own_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert own_device("cuda") == torch.device("cuda", torch.cuda.current_device())
        assert own_device("cuda:0") == torch.device("cuda:0")
    else:
        with pytest.raises(InputError, match="there is no CUDA device here: give the device cpu"):
            SoftLabelLoader(photos, None, 4, "cuda", policy=POLICIES[0])


def damage(beton: Beton, sample: int) -> None:
    with open(beton.path, "r+b") as file:
        file.seek(int(beton.offsets[sample]))
        file.write(bytes(int(beton.nbytes[sample])))


def test_a_broken_jpeg_is_named_and_the_others_still_load(write_beton: WriteBeton) -> None:
    images = [photo_like(50, 60, 0, n) for n in range(6)]
    beton = Beton.open(write_beton(images))
    for sample in (4, 1):
        damage(beton, sample)
    loader = DeviceImageLoader(beton.path, POLICIES[0], 3, device="cpu")
    with loader.epoch(np.array([0, 2, 3, 5, 4, 1]), [0]) as batches:
        assert next(batches).ids.tolist() == [0, 2, 3]
        with pytest.raises(ImageDecodeError, match=r"sample 4 of .*data.beton cannot be decoded: libjpeg says"):
            next(batches)
    assert len(crops(loader, np.array([5, 0]), [0])) == 2


def test_a_box_that_leaves_its_image_is_named(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ViewPolicy.boxes

    def shifted(self: ViewPolicy, view: int, ids: Any, *sizes: Any) -> NDArray[np.int32]:
        boxes = original(self, view, ids, *sizes)
        boxes[np.asarray(ids) == 7, 0] += 200
        return boxes

    monkeypatch.setattr(ViewPolicy, "boxes", shifted)
    messages = []
    for loader in (ImageLoader(beton, POLICIES[0], 9), DeviceImageLoader(beton, POLICIES[0], 9, device="cpu")):
        with pytest.raises(ImageDecodeError, match=r"sample 7 .* its crop box leaves the image of") as raised:
            loader.decode([3, 7, 8], [0, 1])
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_an_index_that_lies_about_a_size_is_an_error(write_beton: WriteBeton) -> None:
    for mode, message in (("jpg", "the JPEG is 50x60 pixels, the file's index says 51x60"), ("raw", "raw bytes")):
        beton = Beton.open(write_beton([photo_like(50, 60, 0, 0)], mode))
        beton.index["height"], beton.heights[:] = 51, 51
        with pytest.raises(ImageDecodeError, match=message):
            DeviceImageLoader(beton, POLICIES[0], 1, device="cpu").decode([0], [0])


@pytest.mark.parametrize("policy", ["random-resized-crop", "pad-crop"])
def test_stores_are_the_same_bytes(make_store: Callable[..., Path], whole: list[Any], policy: str) -> None:
    """Whole images, cropped, regrouped, labelled: the files of the path that decodes to crops."""
    options: dict[str, Any] = {"views": 9, "k": 3, "policy": policy, "device": "cpu"}
    found = make_store("whole", **options, decode_batch=5)
    assert len(whole) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "crops_on_device", lambda device: False)
        wanted = make_store("crops", **options)
    assert len(whole) == 1
    assert digests(found) == digests(wanted)


def test_a_repair_takes_the_same_path(photos: Path, make_store: Callable[..., Path], whole: list[Any]) -> None:
    teacher = make_teacher()
    store = make_store(teachers=[teacher], device="cpu")
    before = digests(store)
    (shard,) = (path for path in (store / "0" / "codes" / "c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-1])
    repair_store(store, photos, [teacher], device="cpu")
    assert digests(store) == before and len(whole) == 2


@pytest.mark.parametrize("M", [1, 2])
def test_a_students_batches_are_the_same(
    photos: Path, make_store: Callable[..., Path], whole: list[Any], monkeypatch: pytest.MonkeyPatch, M: int
) -> None:
    store = make_store(device="cpu")
    loader = SoftLabelLoader(photos, store, batch_size=5 * M, seed=2, views_per_image=M)
    assert isinstance(loader._images, DeviceImageLoader)
    monkeypatch.setattr(device_module, "crops_on_device", lambda device: False)
    other = SoftLabelLoader(photos, store, batch_size=5 * M, seed=2, views_per_image=M)
    for _ in range(2):
        for found, wanted in zip(loader, other, strict=True):
            assert torch.equal(found.images, wanted.images) and found.ids.tolist() == wanted.ids.tolist()
            assert found.images.is_contiguous(memory_format=torch.channels_last)
            assert found.labels is not None and wanted.labels is not None
            assert torch.equal(found.labels.dense(), wanted.labels.dense())


@pytest.mark.parametrize("options", [{"rank": 1, "world_size": 2}, {"drop_last": True}, {"indices": [5, 3, 8, 1, 0]}])
def test_a_students_images_stay_though_epochs_take_others(
    photos: Path, whole: list[Any], decoded: list[int], options: dict[str, Any]
) -> None:
    for resident_bytes in (1 << 30, 0):
        loader = SoftLabelLoader(photos, None, 5, policy=POLICIES[0], resident_bytes=resident_bytes, **options)
        del decoded[:]
        shown = [sorted(n for batch in loader for n in batch.ids.tolist()) for _ in range(5)]
        once = sorted({n for ids in shown for n in ids})
        assert sorted(decoded) == (once if resident_bytes else sorted(n for ids in shown for n in ids))
        assert ("indices" in options) == (shown == [once] * 5)


def test_images_to_evaluate_on_do_not_stay(photos: Path, whole: list[Any]) -> None:
    make_evaluator(Beton.open(photos), POLICIES[0], 1, Ranks(), torch.device("cpu"))
    assert [loader._resident_bytes for loader in whole] == [0]


class Copy:
    """Stands for the event of a copy that somebody has to wait for."""

    def __init__(self) -> None:
        self.waited = 0

    def synchronize(self) -> None:
        self.waited += 1


def test_a_buffer_is_used_again_after_its_copy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Copy] = []
    monkeypatch.setattr(Staging, "event", lambda self: copies.append(Copy()) or copies[-1])
    staging, addresses = Staging(torch.device("cpu"), 100), []
    for number in range(3 * BUFFERS):
        buffer = staging.take()
        assert [copy.waited for copy in copies] == [int(at <= number - BUFFERS) for at in range(number)]
        buffer[:] = number
        addresses.append(buffer.data_ptr())
        assert staging.send(7).tolist() == [number] * 7
    assert len(set(addresses)) == BUFFERS and addresses[:BUFFERS] * 3 == addresses


@pytest.mark.fault("17.B11 a thread that waited for a copy spun on a core of the decoders")
def test_who_waits_for_a_copy_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, bool]] = []

    class Event:
        def __init__(self, **options: bool) -> None:
            made.append(options)

        def record(self, stream: object) -> None:
            assert stream == "the copies"

    monkeypatch.setattr(torch.cuda, "Event", Event)
    staging = Staging(torch.device("cpu"), 100)
    staging._stream = "the copies"
    assert isinstance(staging.event(), Event) and made == [{"blocking": True}]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bytes(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).permutation(17).astype(np.int64)
    for policy in POLICIES:
        wanted = crops(ImageLoader(beton, policy, 5), ids, [5, 2, 3])
        for part in (1, 20_000, 1 << 30):
            monkeypatch.setattr(device_module, "PART_BYTES", part)
            loader = make_image_loader(beton, policy, 5, 2, "cuda")
            for _ in range(3):
                with loader.epoch(ids, [5, 2, 3]) as batches:
                    found = [batch.images for batch in batches]
                assert all(images.is_cuda for images in found) and torch.equal(torch.cat(found).cpu(), wanted)


@pytest.mark.gpu
def test_memory_let_go_of_is_not_overwritten_while_it_is_read(beton: Beton) -> None:
    """Sums of many batches, on a stream that is far behind: a batch's memory must wait for them."""
    ids = np.tile(np.arange(17), 40)
    wanted = crops(ImageLoader(beton, POLICIES[0], 16), ids, [0, 1]).long().sum().item()
    loader = make_image_loader(beton, POLICIES[0], 16, 0, "cuda")
    with torch.cuda.stream(torch.cuda.Stream()), loader.epoch(ids, [0, 1]) as batches:
        total = torch.zeros((), dtype=torch.int64, device="cuda")
        work = torch.randn(4096, 4096, device="cuda")
        for batch in batches:
            assert isinstance(batch, DeviceBatch)
            for _ in range(20):
                work = (work @ work).clamp(-1, 1)
            total += batch.images.long().sum()
            del batch
        assert total.item() == wanted


@pytest.mark.gpu
def test_staging_memory_is_pinned() -> None:
    staging = Staging(torch.device("cuda", torch.cuda.current_device()), 1000)
    assert staging.take().is_pinned()


@pytest.mark.gpu
def test_labelling_on_a_gpu_is_the_same_from_whole_images_and_from_crops(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"views": 8, "k": 3, "size": 16, "forward_batch": 4, "device": "cuda"}
    cache_labels(photos, tmp_path / "whole.zarr", [make_teacher()], **options)
    monkeypatch.setattr(device_module, "crops_on_device", lambda device: False)
    cache_labels(photos, tmp_path / "crops.zarr", [make_teacher()], **options)
    assert digests(tmp_path / "whole.zarr") == digests(tmp_path / "crops.zarr")
    assert LabelStore.open(tmp_path / "whole.zarr").plane(7) is not None
