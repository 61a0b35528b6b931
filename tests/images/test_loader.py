"""ImageLoader: what a batch holds and for how long, many epochs in one process, and every way to fail or leave."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.errors import DatasetError, FastlabelError, ImageDecodeError, InputError
from fastlabel.images import loader as load_module
from fastlabel.images.buffers import BufferPool
from fastlabel.images.decode import decode_views
from fastlabel.images.loader import BATCHES_AHEAD, Epoch, ImageLoader
from fastlabel.kernels.view_boxes.numba import view_boxes
from fastlabel.views import ViewPolicy
from tests.betons import WriteBeton, beton_writer
from tests.conftest import photo_like

pytestmark = pytest.mark.timeout(120)

COUNT = 23
POLICY = ViewPolicy.random_resized_crop(24, seed=5)
IDS = np.arange(COUNT)


def photos(count: int = COUNT) -> list[NDArray[np.uint8]]:
    return [photo_like(40 + 7 * (index % 5), 70 - 5 * (index % 7), index % 3, index) for index in range(count)]


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Beton:
    """23 JPEGs of several sizes."""
    return Beton.open(beton_writer(tmp_path_factory.mktemp("load"))(photos()))


def crops(loader: ImageLoader, ids: NDArray[np.int64], views: list[int]) -> NDArray[np.uint8]:
    """uint8 [N, V, S, S, 3] of one epoch."""
    return np.concatenate([batch.images.numpy() for batch in loader.epoch(ids, views)])


def image_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fastlabel-images")]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    wait_until(lambda: not image_threads())


# --- What a batch holds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_every_sample_once_in_the_order_asked_for(beton: Beton, batch_size: int) -> None:
    loader = ImageLoader(beton, POLICY, batch_size)
    whole = crops(ImageLoader(beton, POLICY, 4, num_workers=1), IDS, [2])
    order = np.random.default_rng(1).permutation(COUNT)
    epoch = loader.epoch(order, [2])
    batches = list(epoch)
    assert len(epoch) == len(batches) == -(-COUNT // batch_size)
    assert np.concatenate([batch.ids for batch in batches]).tolist() == order.tolist()
    sizes = [len(batch.ids) for batch in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and sum(sizes) == COUNT
    for batch in batches:
        assert batch.images.shape == (len(batch.ids), 1, 24, 24, 3) and batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous()
        assert np.array_equal(batch.images.numpy(), whole[batch.ids])


def test_repeated_ids_a_subset_and_none(beton: Beton) -> None:
    loader = ImageLoader(beton, POLICY, 4)
    whole = crops(loader, IDS, [0])
    some = [3, 3, 22, 0, 3]
    assert np.array_equal(crops(loader, np.array(some), [0]), whole[some])
    for ids in (some, tuple(some), np.array(some, np.uint8), np.array(some, ">i8")):
        assert next(loader.epoch(ids, [0])).ids.tolist() == some[:4]
    assert list(loader.epoch([], [0])) == [] and len(loader.epoch(np.arange(0), [0])) == 0


def test_views_at_once_are_the_views_one_by_one(beton: Beton) -> None:
    loader = ImageLoader(beton, POLICY, 6)
    views = [4, 0, 2**32 - 1, 1, 4]
    together = crops(loader, IDS, views)
    for index, view in enumerate(views):
        assert np.array_equal(together[:, index], crops(loader, IDS, [view])[:, 0])
    assert (together[:, 0] == together[:, 4]).all()
    assert (together[:, 0] != together[:, 1]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 0, 1000])
def test_the_number_of_workers_changes_no_byte(beton: Beton, num_workers: int) -> None:
    expected = crops(ImageLoader(beton, POLICY, 7, num_workers=1), IDS, [0, 1])
    assert np.array_equal(crops(ImageLoader(beton, POLICY, 7, num_workers), IDS, [0, 1]), expected)


def test_one_batch_in_the_calling_thread(beton: Beton) -> None:
    loader = ImageLoader(beton, POLICY, 8)
    whole = crops(loader, IDS, [3, 4])
    batch = loader.decode([5, 1], [3, 4])
    assert batch.ids.tolist() == [5, 1] and np.array_equal(batch.images.numpy(), whole[[5, 1]])
    with pytest.raises(InputError, match="9 samples are more than a batch of 8"):
        loader.decode(np.arange(9), [0])
    # Beside a running epoch of the same loader: one waits for the other.
    for running in loader.epoch(np.tile(IDS, 5), [3, 4]):
        assert np.array_equal(loader.decode([5, 1], [3, 4]).images.numpy(), whole[[5, 1]])
        assert np.array_equal(running.images.numpy(), whole[running.ids])


# --- How long a batch is valid -------------------------------------------------------------------------------------


def test_batches_stay_valid_while_they_are_held(beton: Beton) -> None:
    loader = ImageLoader(beton, POLICY, 3)
    kept, copies = [], []
    for _ in range(3):
        for batch in loader.epoch(np.random.default_rng(2).permutation(COUNT), [0, 1]):
            kept.append(batch)
            copies.append((batch.ids.copy(), batch.images.clone()))
    gc.collect()
    for batch, (ids, images) in zip(kept, copies, strict=True):
        assert np.array_equal(batch.ids, ids) and torch.equal(batch.images, images)
    addresses = {batch.images.data_ptr() for batch in kept}
    assert len(addresses) == len(kept)


@pytest.mark.parametrize(
    "part",
    [
        lambda images: images[1:2, 0, ::2],
        lambda images: images.numpy(),
        lambda images: images.permute(0, 1, 4, 2, 3)[-1],
        lambda images: images.numpy()[0, 1, :3],
        lambda images: memoryview(images.numpy()),
        lambda images: images.untyped_storage(),
        lambda images: torch.utils.dlpack.from_dlpack(images),
    ],
)
def test_any_part_of_a_batch_keeps_it(beton: Beton, part: Callable[[torch.Tensor], Any]) -> None:
    loader = ImageLoader(beton, POLICY, 3)
    held, copies = [], []
    for batch in loader.epoch(np.tile(IDS, 2), [0, 1]):
        held.append(part(batch.images))
        copies.append(content(held[-1]))
        del batch
    gc.collect()
    for one, copy in zip(held, copies, strict=True):
        assert content(one) == copy


def content(part: Any) -> bytes:
    if isinstance(part, torch.UntypedStorage):
        part = torch.tensor([], dtype=torch.uint8).set_(part)  # type: ignore[call-overload]
    return part.contiguous().numpy().tobytes() if isinstance(part, torch.Tensor) else bytes(part)


def test_memory_that_is_let_go_of_comes_back(beton: Beton) -> None:
    loader = ImageLoader(beton, POLICY, 3)
    addresses = {batch.images.data_ptr() for _ in range(5) for batch in loader.epoch(IDS, [0])}
    # In the queue, in the thread's hand, at the consumer, and one in between.
    assert len(addresses) <= BATCHES_AHEAD + 4


def test_the_caller_may_reuse_its_array_of_ids(beton: Beton) -> None:
    loader = ImageLoader(beton, POLICY, 4)
    whole = crops(loader, IDS, [0])
    ids = IDS.copy()
    batches = []
    for batch in loader.epoch(ids, [0]):
        ids[:] = 10**12
        batches.append(batch)
    assert np.concatenate([batch.ids for batch in batches]).tolist() == IDS.tolist()
    assert all(np.array_equal(batch.images.numpy(), whole[batch.ids]) for batch in batches)


def test_pool_never_hands_out_memory_that_is_in_use() -> None:
    pool = BufferPool((4, 8), keep=3)
    failures: list[int] = []

    def work(value: int) -> None:
        held = []
        for step in range(400):
            array, tensor = pool.take(step % 4 + 1)
            array[:] = value
            held.append(tensor)
            if not all((one == value).all() for one in held):
                failures.append(value)
            if len(held) > step % 5:
                del held[: len(held) // 2 + 1]

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(pool._free) <= 3


def test_pool_takes_memory_back_in_the_middle_of_anything() -> None:
    """The garbage collector may run a finalizer while a thread is inside `take`: no lock may be in the way."""
    pool = BufferPool((1 << 10,), keep=2)
    done = threading.Event()

    def collect_all_the_time() -> None:
        for _ in range(300):
            cycle: list[Any] = [pool.take(1)]
            cycle.append(cycle)
            del cycle
        done.set()

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        thread = threading.Thread(target=collect_all_the_time, daemon=True)
        thread.start()
        assert done.wait(30)
    finally:
        gc.set_threshold(*threshold)


# --- Many epochs in one process ------------------------------------------------------------------------------------


def native_threads() -> int:
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "Threads:" in line)[8:])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def assert_as_before(python_threads: int, threads: int, resident: int) -> None:
    assert threading.active_count() == python_threads
    wait_until(lambda: native_threads() <= threads)
    assert resident_bytes() - resident < 16 << 20


def test_many_epochs_leave_threads_and_memory_as_they_were(beton: Beton) -> None:
    """A batch is 0.8 MB: one that leaked in each of 60 epochs, or one 7 of them in each, would be seen."""
    loader = ImageLoader(beton, ViewPolicy.random_resized_crop(128), 8)

    def epochs(views: range) -> None:
        for view in views:
            for batch in loader.epoch(np.tile(IDS, 2), [view, view + 1]):
                assert batch.images[0, 0, 0, 0, 0] >= 0

    epochs(range(15))
    gc.collect()
    before = threading.active_count(), native_threads(), resident_bytes()
    epochs(range(15, 75))
    gc.collect()
    assert_as_before(*before)


def test_many_loaders_leave_threads_and_memory_as_they_were(beton: Beton) -> None:
    def loaders(count: int) -> None:
        for seed in range(count):
            loader = ImageLoader(beton, ViewPolicy.random_resized_crop(64, seed), 8)
            assert sum(len(batch.ids) for batch in loader.epoch(IDS, [0])) == COUNT

    loaders(5)
    gc.collect()
    before = threading.active_count(), native_threads(), resident_bytes()
    loaders(30)
    gc.collect()
    assert_as_before(*before)


def test_a_loader_is_freed_with_its_memory_and_its_file(beton: Beton) -> None:
    loader = ImageLoader(beton.path, POLICY, 4)
    assert len(list(loader.epoch(IDS, [0]))) == 6
    descriptor = loader.beton.file.descriptor
    references = [weakref.ref(part) for part in (loader, loader._workspace, loader.beton)]
    assert os.fstat(descriptor).st_size
    del loader
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_nothing_is_compiled_for_another_view(beton: Beton, ffcv_betons: Path, write_beton: WriteBeton) -> None:
    """Nor for another batch size, number of views, policy, or kind of file."""
    crops(ImageLoader(beton, POLICY, 6), IDS, [0])
    known = [(len(op.signatures), sum(op.stats.cache_misses.values())) for op in (decode_views, view_boxes)]
    loader = ImageLoader(beton, POLICY, 6)
    for views in ([1], [2, 3], list(range(9)), [7]):
        crops(loader, IDS, views)
    read_only = IDS.copy()
    read_only.flags.writeable = False
    crops(loader, read_only[::-1], [0])
    for policy in (ViewPolicy.identity(9), ViewPolicy.pad_crop(16), ViewPolicy.center(50)):
        crops(ImageLoader(beton, policy, 23, num_workers=1), IDS, [0, 1])
    for name in ("raw", "extra", "large"):
        crops(ImageLoader(ffcv_betons / f"{name}.beton", POLICY, 4), np.arange(5), [0])
    crops(ImageLoader(write_beton(photos(1)), POLICY, 4), np.arange(1), [0])
    assert [(len(op.signatures), sum(op.stats.cache_misses.values())) for op in (decode_views, view_boxes)] == known


def test_the_threading_layer_is_safe(beton: Beton) -> None:
    crops(ImageLoader(beton, POLICY, 6), IDS, [0])
    assert numba.threading_layer() in ("tbb", "omp")


def test_the_caller_keeps_its_thread_counts_and_random_numbers(beton: Beton) -> None:
    before = torch.get_num_threads(), numba.get_num_threads()
    np.random.seed(0)
    expected = np.random.random(3).tolist(), torch.get_rng_state().tolist()
    np.random.seed(0)
    crops(ImageLoader(beton, POLICY, 6, num_workers=1), IDS, [0])
    assert (np.random.random(3).tolist(), torch.get_rng_state().tolist()) == expected
    assert (torch.get_num_threads(), numba.get_num_threads()) == before


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["tbb", "omp"])
def test_a_process_of_its_own(beton: Beton, layer: str) -> None:
    """Importing changes no thread count; no layer leaks threads; the end of the process in mid-epoch is no crash."""
    code = f"""
        import atexit, pathlib, threading

        @atexit.register  # first, so that it runs last
        def no_thread_decodes_into_the_end():
            assert threading.active_count() == 1, threading.enumerate()

        import torch
        torch.set_num_threads(3)
        import numpy as np
        from fastlabel.images.loader import ImageLoader
        from fastlabel.views import ViewPolicy
        import numba
        assert torch.get_num_threads() == 3, torch.get_num_threads()
        assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
        loader = ImageLoader({str(beton.path)!r}, ViewPolicy.random_resized_crop(96), 4)
        assert torch.get_num_threads() == 3, torch.get_num_threads()
        ids = np.arange({COUNT})

        def threads():
            status = pathlib.Path("/proc/self/status").read_text()
            return int(status[status.index("Threads:"):].split()[1])

        counts = []
        for view in range(40):
            assert sum(len(batch.ids) for batch in loader.epoch(ids, [view])) == {COUNT}
            counts.append(threads())
        assert numba.threading_layer() == {layer!r}
        assert threading.active_count() == 1
        # OpenMP's threads end a moment after the one that they worked for: some of them may be seen.
        assert max(counts[30:]) <= max(counts[:5]) + 4, counts
        next(loader.epoch(np.tile(ids, 50), range(8)))  # abandoned
        other = ImageLoader(loader.beton, loader.policy, 4)
        epoch = other.epoch(np.tile(ids, 50), range(8))
        next(epoch)
    """
    program = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", textwrap.dedent(code)]
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- Leaving before the end ----------------------------------------------------------------------------------------


def test_an_abandoned_epoch_leaves_no_thread_and_harms_no_other(beton: Beton) -> None:
    """Its thread may still be at a batch while the next epoch begins: they must not share scratch memory."""
    loader = ImageLoader(beton, POLICY, 4)
    whole = crops(loader, IDS, [0, 1])
    for _ in range(40):
        for _batch in loader.epoch(np.tile(IDS[::-1], 20), [0, 1, 2, 3]):
            break
        assert np.array_equal(crops(loader, IDS[:8], [0, 1]), whole[:8])
    del _batch
    wait_until(lambda: not image_threads())


def test_an_epoch_nobody_reads_is_collected_with_its_loader(beton: Beton) -> None:
    loader = ImageLoader(beton, POLICY, 4)
    epoch = loader.epoch(np.tile(IDS, 50), [0])
    reference = weakref.ref(loader)
    del loader, epoch
    wait_until(lambda: not image_threads() and (gc.collect() or reference() is None))


def test_a_with_block_stops_the_thread_at_once(beton: Beton) -> None:
    loader = ImageLoader(beton, POLICY, 4)
    with loader.epoch(np.tile(IDS, 50), [0]) as epoch:
        next(epoch)
        assert image_threads()
    assert not image_threads()
    assert list(epoch) == []
    epoch.close()
    with pytest.raises(ZeroDivisionError), loader.epoch(np.tile(IDS, 50), [0]) as epoch:
        next(epoch)
        raise ZeroDivisionError
    assert not image_threads()


def test_a_second_epoch_of_a_loader_ends_the_first_with_an_error(beton: Beton) -> None:
    """An early end without a word would be an epoch of fewer samples."""
    loader = ImageLoader(beton, POLICY, 4)
    first = loader.epoch(IDS, [0])
    next(first)
    second = loader.epoch(IDS, [1])
    assert len(image_threads()) == 1
    for _ in range(2):
        with pytest.raises(FastlabelError, match="another epoch of this loader was started with 5 batches"):
            next(first)
    assert len(list(second)) == 6
    third = loader.epoch(IDS, [1])
    for _ in range(6):
        next(third)
    assert len(list(loader.epoch(IDS, [0]))) == 6
    assert list(third) == []  # it had given all


# --- Failing -------------------------------------------------------------------------------------------------------


def entropy_coded(jpeg: bytes) -> int:
    """Where the coded pixels begin: after the start-of-scan segment."""
    at = jpeg.index(b"\xff\xda")
    return at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])


def damage(path: Path, sample: int, kind: str) -> None:
    beton = Beton.open(path)
    jpeg, at = beton.payload(sample), int(beton.offsets[sample])
    start = entropy_coded(jpeg)
    middle = (start + len(jpeg)) // 2
    broken = {
        "flipped": jpeg[:middle] + bytes(255 - byte for byte in jpeg[middle : middle + 40]) + jpeg[middle + 40 :],
        "marker": jpeg[:middle] + b"\xff\xd9" + jpeg[middle + 2 :],
        "truncated": jpeg[:middle] + bytes(len(jpeg) - middle),
        "header": bytes(200) + jpeg[200:],
        "noise": jpeg[:start] + np.random.default_rng(0).bytes(len(jpeg) - start),
        "empty": bytes(len(jpeg)),
    }[kind]
    assert len(broken) == len(jpeg) and broken != jpeg
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(broken)


@pytest.mark.parametrize("kind", ["flipped", "marker", "truncated", "header", "noise", "empty"])
def test_a_broken_jpeg_is_named_and_the_others_still_load(write_beton: WriteBeton, kind: str) -> None:
    path = write_beton(photos())
    whole = crops(ImageLoader(path, POLICY, 4), IDS, [0])
    damage(path, 9, kind)
    loader = ImageLoader(path, POLICY, 4)
    good = IDS[IDS != 9]
    for _ in range(3):
        epoch = loader.epoch(np.tile(IDS, 1000), [0])
        assert [next(epoch).ids.tolist(), next(epoch).ids.tolist()] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        with pytest.raises(ImageDecodeError) as caught:
            next(epoch)
        message = str(caught.value)
        assert message.startswith(f"sample 9 of {path} cannot be decoded: libjpeg says: ") and "\n" not in message
        assert list(epoch) == [] and not image_threads()
        assert np.array_equal(crops(loader, good, [0]), whole[good])
    with pytest.raises(ImageDecodeError, match="sample 9 of"):
        loader.decode([1, 9], [0])


def test_the_first_of_several_broken_samples_is_named(write_beton: WriteBeton) -> None:
    path = write_beton(photos())
    for sample in (3, 9, 12):
        damage(path, sample, "header")
    for order, first in (([5, 12, 3, 9], 12), ([9, 3, 12], 9)):
        with pytest.raises(ImageDecodeError, match=f"sample {first} of"):
            list(ImageLoader(path, POLICY, 8).epoch(order, [0, 1]))


def test_an_index_that_lies_about_a_size_is_an_error(write_beton: WriteBeton) -> None:
    for mode, message in (("jpg", "the JPEG is 40x70 pixels"), ("raw", "8400 raw bytes do not make 39x70 RGB pixels")):
        path = write_beton(photos(3), mode)
        content = path.read_bytes()
        record = Beton.open(path).index[0].tobytes()
        lie = record.replace(np.uint16(40).tobytes(), np.uint16(39).tobytes(), 1)
        path.write_bytes(content.replace(record, lie, 1))
        with pytest.raises(ImageDecodeError, match=f"sample 0 of .*{message}"):
            list(ImageLoader(path, POLICY, 2).epoch([2, 0, 1], [0]))


@pytest.mark.fault("11.1 cut short while open")
@pytest.mark.parametrize("mode", ["jpg", "raw"])
def test_a_file_that_is_cut_short_under_a_loader_is_an_error(write_beton: WriteBeton, mode: str) -> None:
    """A mapped file would kill the process."""
    path = write_beton(photos(), mode)
    loader = ImageLoader(path, POLICY, 4)
    with loader.epoch(np.tile(IDS, 1000), [0]) as epoch:
        next(epoch)
        os.truncate(path, 5000)
        with pytest.raises(DatasetError, match=r"data\.beton was changed while it was open: start again"):
            list(epoch)
    with pytest.raises(DatasetError, match="while it was open"):
        loader.decode([0], [0])


@pytest.mark.fault("11.1 rewritten while open")
def test_a_file_that_is_rewritten_under_a_loader_is_an_error(write_beton: WriteBeton) -> None:
    """Another file of the same size, with the modification time put back, as `cp -p` and rsync leave it."""
    path = write_beton(photos())
    loader, before = ImageLoader(path, POLICY, 4), path.stat()
    with loader.epoch(np.tile(IDS, 1000), [0]) as epoch:
        next(epoch)
        path.chmod(0o600)  # what touches it without a change does no harm
        next(epoch)
        content = bytearray(path.read_bytes())
        content[24 + 2 * 1041 + 16] ^= 1  # the label of a sample
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(DatasetError, match=r"data\.beton was changed while it was open: start again"):
            list(epoch)


def test_a_file_that_another_one_replaced_is_still_the_one_that_was_opened(write_beton: WriteBeton) -> None:
    path, other = write_beton(photos()), write_beton(photos()[::-1], name="other")
    loader = ImageLoader(path, POLICY, 4)
    whole = crops(loader, IDS, [0])
    os.replace(other, path)
    assert np.array_equal(crops(loader, IDS, [0]), whole)


@pytest.mark.parametrize("error", [RuntimeError("boxes"), MemoryError(), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_is_raised_in_the_thread_reaches_the_reader(
    beton: Beton, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    loader, calls = ImageLoader(beton, POLICY, 4), []
    original = ViewPolicy.boxes

    def fail(self: ViewPolicy, *arguments: Any) -> NDArray[np.int32]:
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(ViewPolicy, "boxes", fail)
    epoch = loader.epoch(IDS, [0])
    assert len(next(epoch).ids) == len(next(epoch).ids) == 4
    with pytest.raises(type(error)) as caught:
        next(epoch)
    assert caught.value is error and not image_threads()
    monkeypatch.undo()
    assert len(list(loader.epoch(IDS, [0]))) == 6


def test_an_image_too_small_for_the_policy_is_named(beton: Beton) -> None:
    loader = ImageLoader(beton, ViewPolicy.pad_crop(48, padding=1), 4)
    small = int(np.flatnonzero(np.minimum(beton.heights, beton.widths) < 46)[0])
    with pytest.raises(InputError, match=rf"sample {small} is \d+x\d+ pixels: too small for a 48x48 crop"):
        list(loader.epoch(IDS, [0]))
    with pytest.raises(InputError, match="view -1"):
        list(loader.epoch(IDS, [-1]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, COUNT], "sample ids 0 to 23 leave the file's 23 samples"),
        ([-1, 5], "sample ids -1 to 5"),
        ([2**63], "leave the file"),
        ([0.5], "vector of integers; got float64"),
        (np.ones(COUNT, bool), "vector of integers; got bool"),
        ([[0, 1]], r"vector of integers; got int64 \(1, 2\)"),
        (3, r"vector of integers; got int64 \(\)"),
        (["0"], "vector of integers"),
    ],
)
def test_ids_that_are_none_of_the_file_are_refused_before_anything_runs(beton: Beton, ids: Any, message: str) -> None:
    loader = ImageLoader(beton, POLICY, 4)
    with pytest.raises(InputError, match=message):
        loader.epoch(ids, [0])
    with pytest.raises(InputError, match=message):
        loader.decode(ids, [0])
    assert not image_threads()


@pytest.mark.parametrize(("options", "message"), [({"batch_size": 0}, "batch_size 0"), ({"num_workers": -1}, "-1")])
def test_bad_options(beton: Beton, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageLoader(beton, POLICY, **{"batch_size": 4, **options})


# --- Two at a time -------------------------------------------------------------------------------------------------


def test_two_loaders_interleaved(beton: Beton, ffcv_betons: Path) -> None:
    other = ViewPolicy.random_resized_crop(40, seed=9)
    loaders = ImageLoader(beton, POLICY, 5), ImageLoader(ffcv_betons / "smart.beton", other, 3)
    wanted = crops(loaders[0], IDS, [0, 1]), crops(loaders[1], np.arange(16), [2])
    for _ in range(5):
        epochs = loaders[0].epoch(np.tile(IDS, 2), [0, 1]), loaders[1].epoch(np.tile(np.arange(16), 2), [2])
        left = [0, 1]
        while left:
            for index in list(left):
                batch = next(epochs[index], None)
                if batch is None:
                    left.remove(index)
                else:
                    assert np.array_equal(batch.images.numpy(), wanted[index][batch.ids])


def test_loaders_in_threads_beside_other_parallel_kernels(beton: Beton) -> None:
    wanted = crops(ImageLoader(beton, POLICY, 5), IDS, [0, 1])
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        loader = ImageLoader(beton, POLICY, 2 + number, num_workers=1 + number % 2)
        results[number] = all(np.array_equal(crops(loader, IDS, [0, 1]), wanted) for _ in range(5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    sides = np.full(50_000, 300)
    boxes = POLICY.boxes(0, np.arange(50_000), sides, sides)
    while any(thread.is_alive() for thread in threads):
        assert np.array_equal(POLICY.boxes(0, np.arange(50_000), sides, sides), boxes)
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


def test_a_slow_reader_does_not_make_the_thread_run_ahead_without_end(beton: Beton) -> None:
    decoded: list[int] = []
    loader = ImageLoader(beton, POLICY, 1)
    original = loader._decode

    def count(ids: NDArray[np.int64], views: Any) -> load_module.ImageBatch:
        decoded.append(int(ids[0]))
        return original(ids, views)

    loader._decode = count  # type: ignore[method-assign]
    with loader.epoch(IDS, [0]) as epoch:
        next(epoch)
        wait_until(lambda: len(decoded) == BATCHES_AHEAD + 2)
        time.sleep(0.3)
        assert len(decoded) == BATCHES_AHEAD + 2


def test_a_reader_that_waits_is_woken(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that closes or supersedes an epoch must not leave its reader waiting."""
    loader = ImageLoader(beton, ViewPolicy.identity(8), batch_size=2)
    original = ViewPolicy.boxes

    def slow(self: ViewPolicy, *args: object) -> object:
        time.sleep(0.3)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ViewPolicy, "boxes", slow)
    ended: list[str] = []

    def read(epoch: Epoch) -> None:
        try:
            list(epoch)
            ended.append("end")
        except FastlabelError as error:
            ended.append(str(error))

    for close in (lambda epoch: epoch.close(), lambda epoch: loader.epoch(np.arange(2), [0]).close()):
        epoch = loader.epoch(np.arange(beton.num_samples), [0])
        reader = threading.Thread(target=read, args=(epoch,))
        reader.start()
        time.sleep(0.1)
        close(epoch)
        reader.join(timeout=20)
        assert not reader.is_alive()
    assert ended[0] == "end" and "another epoch of this loader was started" in ended[1]
