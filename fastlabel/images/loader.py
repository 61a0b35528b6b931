"""Images as batches of crops, made by a thread that can fail, stop and be left."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fastlabel.dataset.beton import Beton
from fastlabel.errors import FastlabelError, ImageDecodeError, InputError
from fastlabel.images.buffers import BufferPool
from fastlabel.images.changed_crops import change_pixels, mixed_batch
from fastlabel.images.decode import decode_views, explain
from fastlabel.images.workspace import Workspace
from fastlabel.kernels.mix_crops import mix_crops_
from fastlabel.system.forks import renew_after_fork
from fastlabel.views import Partners, ViewPolicy

BATCHES_AHEAD = 2


@dataclass(frozen=True)
class ImageBatch:
    """Crops of some samples. Valid as long as it, or any tensor made from it, is held.

    Attributes:
        ids: int64 [B], indices of the samples in their file.
        images: uint8 [B, V, S, S, 3], in the order of ``ids`` and of the views asked for, on the loader's device.
    """

    ids: NDArray[np.int64]
    images: torch.Tensor

    def received(self) -> ImageBatch:
        """This batch as the thread that reads it may use it at once: see device.py."""
        return self


class ImageLoader:
    """Decodes samples of a .beton file and crops them by a view policy.

    Args:
        beton: the file.
        policy: gives the crop boxes, and the size of the crops.
        batch_size: samples per batch; the last batch of an epoch may be smaller.
        num_workers: threads that decode; 0 takes all cores.
        size: side of the crops that come out, of the boxes that the policy gives for its own size; default that.

    Attributes:
        partners: who is mixed with whom, for a policy that mixes; to be set before the first epoch. A partner that is
            not in the batch of a sample is decoded for it.

    One loader serves any number of epochs, one at a time, with any views, without compiling again.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        beton: Beton | str | os.PathLike[str],
        policy: ViewPolicy,
        batch_size: int,
        num_workers: int = 0,
        size: int | None = None,
    ) -> None:
        self.size = policy.size if size is None else size
        check_other_size(policy, self.size)
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size} must be at least 1")
        most = int(numba.config.NUMBA_NUM_THREADS)
        if num_workers < 0:
            raise InputError(f"num_workers {num_workers} must be 0 (all {most} cores) or more")
        self.beton, self.policy, self.batch_size = Beton.open(beton), policy, batch_size
        self.partners: Partners | None = None
        self.num_workers = min(num_workers or most, most)
        file = self.beton
        self._workspace = Workspace(most, file.heights, file.widths, int(file.nbytes.max()), self.size)
        # The workspace serves one batch at a time; an epoch that was abandoned may still be at its last one.
        self.busy = threading.Lock()
        self._pools: dict[int, BufferPool] = {}
        self._epoch: weakref.ref[Epoch] | None = None
        renew_after_fork(self)

    def after_fork(self) -> None:
        """The lock may have been held, and the epoch's thread is in the other process."""
        self.busy, self._epoch = threading.Lock(), None

    def epoch(self, ids: ArrayLike, views: Sequence[int]) -> Epoch:
        """Start to decode: an iterator over ``ImageBatch``, in the order of ``ids``, all ``views`` of each sample.

        There is one epoch at a time: one of this loader that still runs is closed, and says so when it is read.
        """
        checked = self._check(ids)
        running = self._epoch() if self._epoch else None
        if running is not None:
            running.supersede()
        epoch = Epoch(self, checked, tuple(views))
        self._epoch = weakref.ref(epoch)
        return epoch

    def _check(self, ids: ArrayLike) -> NDArray[np.int64]:
        """A copy of sample ids: the caller may shuffle its own array while the thread reads this one."""
        given = np.asarray(ids)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise InputError(f"sample ids must be a vector of integers; got {given.dtype} {given.shape}")
        if given.size and not 0 <= given.min() <= given.max() < self.beton.num_samples:
            raise InputError(
                f"sample ids {given.min()} to {given.max()} leave the file's {self.beton.num_samples} samples"
            )
        return given.astype(np.int64)

    def _pool(self, num_views: int) -> BufferPool:
        if num_views not in self._pools:
            shape = (self.batch_size, num_views, self.size, self.size, 3)
            self._pools[num_views] = BufferPool(shape, keep=BATCHES_AHEAD + 2)
        return self._pools[num_views]

    def decode(self, ids: ArrayLike, views: Sequence[int]) -> ImageBatch:
        """One batch, in the calling thread, as an epoch makes it.

        Raises:
            InputError: more samples than ``batch_size``, or not in the file.
            ImageDecodeError: names the first sample that is broken, and the reason.
            DatasetError: the file is not what it was when it was opened.
        """
        return self.decode_ahead(ids, views).received()

    def decode_ahead(self, ids: ArrayLike, views: Sequence[int]) -> ImageBatch:
        """As :meth:`decode`, for another thread to receive."""
        checked = self._check(ids)
        if len(checked) > self.batch_size:
            raise InputError(f"{len(checked)} samples are more than a batch of {self.batch_size}")
        distinct, rows = np.unique(checked, return_inverse=True)
        with self.busy:
            if not self.policy.mixes or len(distinct) == len(checked):
                return self._decode(checked, views)
            # A pair is mixed once.
            batch = self._decode(distinct, views)
            return replace(batch, ids=checked, images=batch.received().images[torch.from_numpy(rows)])

    def _boxes(self, ids: NDArray[np.int64], views: Sequence[int]) -> NDArray[np.int32]:
        boxes = np.empty((len(ids), len(views), 5), np.int32)
        for v, view in enumerate(views):
            boxes[:, v] = self.policy.boxes(view, ids, self.beton.heights[ids], self.beton.widths[ids])
        return boxes

    def _check_status(self, ids: NDArray[np.int64], status: NDArray[np.int64]) -> None:
        self.beton.check_unchanged()  # after reading: what was read is what was opened
        if status.any():
            first = int(np.flatnonzero(status)[0])
            reason = explain(int(status[first]), self.beton, int(ids[first]))
            raise ImageDecodeError(f"sample {ids[first]} of {self.beton.path} cannot be decoded: {reason}")

    def _mix(self, ids: NDArray[np.int64], views: Sequence[int]) -> tuple[NDArray[np.int64], torch.Tensor | None]:
        """The samples to decode for those that are asked for, which come first; and how their crops are mixed."""
        if not self.policy.mixes:
            return ids, None
        if self.partners is None:
            raise InputError("views are mixed: set the loader's partners, which know the samples that may meet")
        return mixed_batch(self.partners, ids, views, self.policy.size, self.size)

    def _decode(self, ids: NDArray[np.int64], views: Sequence[int]) -> ImageBatch:
        beton, (wanted, mixes) = self.beton, self._mix(ids, views)
        boxes, status = self._boxes(wanted, views), np.zeros(len(wanted), np.int64)
        out, images = self._room(len(wanted), len(views))
        where = (beton.file.descriptor, beton.index, beton.nbytes)
        decode_views(wanted, *where, boxes, out, status, *self._workspace.arrays())
        self._check_status(wanted, status)
        change_pixels(self.policy, wanted, views, images)
        if mixes is not None:
            mix_crops_(images, mixes, pairs=not self.policy.mixed)
        return ImageBatch(ids, images[: len(ids)])

    def _room(self, count: int, num_views: int) -> tuple[NDArray[np.uint8], torch.Tensor]:
        """Memory for the crops of so many samples, as an array and a tensor."""
        if count <= self.batch_size:
            return self._pool(num_views).take(count)
        out = np.empty((count, num_views, self.size, self.size, 3), np.uint8)
        return out, torch.from_numpy(out)


def check_other_size(policy: ViewPolicy, size: int) -> None:
    """InputError where a policy's crops cannot come out at another size than its own."""
    if size == policy.size:
        return
    if policy.name == "pad-crop":
        raise InputError(f"crops of pad-crop are copied, not resized: they are {policy.size} pixels, not {size}")
    if policy.pixels is not None and policy.pixels.patches and size % policy.pixels.patches:
        raise InputError(f"a crop of {size} pixels has no {policy.pixels.patches} equal patches in a row")


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _DecodeThread(threading.Thread):
    def __init__(self, stop: threading.Event, *arguments: Any) -> None:
        super().__init__(target=_decode_ahead, args=(*arguments, stop), daemon=True, name="fastlabel-images")
        self.stop = stop


@atexit.register
def _stop_threads() -> None:
    """A thread that still decodes while Python takes its libraries apart would crash the process."""
    for thread in threading.enumerate():
        if isinstance(thread, _DecodeThread):
            thread.stop.set()
            thread.join()


class Epoch(Iterator[ImageBatch]):
    """One pass over some samples; decodes ahead in a thread. Also a context manager.

    ffcv's own EpochIterator is not used: an exception kills its thread and its reader waits for ever, an epoch that
    is left half-way leaks its thread, and its batches are overwritten a few batches later.
    """

    def __init__(self, loader: ImageLoader, ids: NDArray[np.int64], views: tuple[int, ...]) -> None:
        self.num_batches = -(-len(ids) // loader.batch_size)
        self._queue: Queue[ImageBatch | _Failure | None] = Queue(BATCHES_AHEAD)
        self._stop = threading.Event()
        self._left, self._done, self._superseded = self.num_batches, False, False
        # The thread must not hold the epoch itself, or an abandoned one would never be collected.
        self._thread = _DecodeThread(self._stop, loader, ids, views, self._queue)
        weakref.finalize(self, self._stop.set)
        renew_after_fork(self)
        self._thread.start()

    def after_fork(self) -> None:
        """Its thread is in the other process: whoever reads it here gets an error instead of waiting for ever."""
        self._queue = Queue()
        self._queue.put(
            _Failure(FastlabelError("this epoch was begun before the process was forked: begin it anew in this one"))
        )

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Epoch:
        return self

    def __next__(self) -> ImageBatch:
        self._check_superseded()
        if self._done:
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, ImageBatch):
            self._left -= 1
            return item.received()
        self._check_superseded()
        self.close()
        if isinstance(item, _Failure):
            raise item.error
        raise StopIteration

    def _check_superseded(self) -> None:
        if self._superseded:
            raise FastlabelError(
                f"another epoch of this loader was started with {self._left} batches of this one to come; "
                "use a loader for each"
            )

    def close(self) -> None:
        """Stop decoding and wait for the thread; safe to call twice."""
        self._done = True
        self._stop.set()
        with contextlib.suppress(Empty):
            while True:
                self._queue.get_nowait()
        # The garbage collector may close an epoch in the very thread that decodes for it.
        if self._thread is not threading.current_thread():
            self._thread.join()
        with contextlib.suppress(Full):
            self._queue.put_nowait(None)  # wakes a reader in another thread

    def supersede(self) -> None:
        """Close it for another epoch. Whoever still reads it gets an error, not an early end."""
        self._superseded = not self._done and self._left > 0
        self.close()

    def __enter__(self) -> Epoch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _decode_ahead(
    loader: ImageLoader,
    ids: NDArray[np.int64],
    views: tuple[int, ...],
    queue: Queue[ImageBatch | _Failure | None],
    stop: threading.Event,
) -> None:
    last: _Failure | None = None
    try:
        numba.set_num_threads(loader.num_workers)
        # Images differ in size: small pieces keep the threads evenly busy.
        with numba.parallel_chunksize(1):
            for start in range(0, len(ids), loader.batch_size):
                batch = loader.decode_ahead(ids[start : start + loader.batch_size], views)
                if not _put(queue, batch, stop):
                    return
    except BaseException as error:  # whatever it is, the reader must hear of it instead of waiting
        last = _Failure(error)
    _put(queue, last, stop)


def _put(queue: Queue[Any], item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        with contextlib.suppress(Full):
            queue.put(item, timeout=0.1)
            return True
    return False
