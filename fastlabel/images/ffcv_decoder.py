"""Our decoder as an operation of FFCV's pipelines: the crops that a store's labels belong to, out of `ffcv.Loader`.

    decoder = ViewsDecoder(store.views, view=0)
    loader = ffcv.Loader("train.beton", batch_size=256, pipelines={"image": [decoder, ToTensor(), ToTorchImage()], ...})
    for epoch in range(epochs):
        decoder.show(epoch % store.num_views)
        for images, labels in loader:
            ...
        decoder.check()

Importing this module imports ffcv, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numba
import numpy as np
from numba import carray, get_thread_id, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastlabel.dataset.turbojpeg import BROKEN_JPEG, WRONG_SIZE
from fastlabel.errors import ImageDecodeError, InputError
from fastlabel.images import ffcv_api as ffcv
from fastlabel.images.decode import BAD_BOX, BAD_MODE, BAD_RAW_SIZE, crop_payload
from fastlabel.images.workspace import Workspace
from fastlabel.views import ViewPolicy

REASONS = {
    BROKEN_JPEG: "its JPEG is broken",
    WRONG_SIZE: "its JPEG has another size than the file's index says",
    BAD_RAW_SIZE: "its raw bytes have another size than the file's index says",
    BAD_BOX: "its crop box leaves the image",
    BAD_MODE: "it is stored in a mode that is neither jpg nor raw",
}


class ViewsDecoder(ffcv.SimpleRGBImageDecoder):
    """Decodes images and crops them as views say: the pixels that `ImageLoader` gives, in any `ffcv.Loader`.

    Args:
        policy: gives the crop boxes, and the size S of the crops.
        view: one view, for images [B, S, S, 3] as FFCV's own decoders give them; or several, for [B, V, S, S, 3].

    An operation belongs to one Loader. An exception would end the thread of FFCV's loader and leave its reader waiting
    for ever: an image that cannot be decoded comes out black, and `check` raises.
    """

    def __init__(self, policy: ViewPolicy, view: int | Sequence[int] = 0) -> None:
        super().__init__()
        if policy.mixes or policy.pixels is not None:
            raise InputError("FFCV's pipelines only crop: take SoftLabelLoader for views of mixed or changed crops")
        self.policy, self._one = policy, isinstance(view, int | np.integer)
        self._views = [int(one) for one in np.atleast_1d(view)]
        self._boxes: NDArray[np.int32] | None = None

    def show(self, view: int | Sequence[int]) -> None:
        """Go on with another view, or as many others as before. Not while an epoch runs: FFCV decodes ahead."""
        views = [int(one) for one in np.atleast_1d(view)]
        if len(views) != len(self._views):
            raise InputError(f"{len(views)} views instead of {len(self._views)}: make another ViewsDecoder for them")
        self._views = views
        self._place_boxes()

    def check(self) -> None:
        """ImageDecodeError when an image of the epochs so far could not be decoded; names the first such sample."""
        if self._boxes is None or not self._status.any():
            return
        broken = np.flatnonzero(self._status)
        reason = REASONS[int(self._status[broken[0]])]
        self._status[:] = 0
        raise ImageDecodeError(f"sample {broken[0]} ({len(broken)} in all) cannot be decoded: {reason}")

    def accept_globals(self, metadata: NDArray[Any], memory_read: Callable[..., Any]) -> None:
        """Called by FFCV, before each epoch too. What compiled code has the address of stays where it is."""
        super().accept_globals(metadata, memory_read)
        heights, widths = metadata["height"].astype(np.int32), metadata["width"].astype(np.int32)
        if self._boxes is None:
            self._heights, self._widths = heights, widths
            self._boxes = np.empty((len(heights), len(self._views), 5), np.int32)
            self._status = np.zeros(len(heights), np.int64)
            self._workspace = Workspace(numba.config.NUMBA_NUM_THREADS, heights, widths, 0, self.policy.size)
            self._place_boxes()
        elif not (np.array_equal(self._heights, heights) and np.array_equal(self._widths, widths)):
            raise InputError("a ViewsDecoder belongs to one file: make another one for another Loader")

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, Any]:
        """Called by FFCV: the shape of an output, and the memory for it."""
        size, dtype = self.policy.size, np.dtype(np.uint8)
        shape = (size, size, 3) if self._one else (len(self._views), size, size, 3)
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), ffcv.AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        """Called by FFCV: the function that it compiles and calls for each batch."""
        assert self._boxes is not None
        size, parallel = self.policy.size, ffcv.Compiler.num_threads > 1
        _, pixels, scratch = self._workspace.arrays()
        # An array that is closed over is frozen; one that is found by its address is not.
        arrays = (self._boxes, self._status, pixels, scratch)
        boxes_at, status_at, pixels_at, scratch_at = (array.ctypes.data for array in arrays)
        boxes_NV5, status_N, pixels_TP, scratch_TQ = (array.shape for array in arrays)
        crops_VSS3 = (len(self._views), size, size, 3)
        read, iterate = self.memory_read, ffcv.Compiler.get_iterator()

        def decode(ids, out, metadata, storage):  # type: ignore[no-untyped-def]
            boxes = carray(_pointer(boxes_at), boxes_NV5, np.int32)
            status = carray(_pointer(status_at), status_N, np.int64)
            pixels = carray(_pointer(pixels_at), pixels_TP, np.uint8)
            scratch = carray(_pointer(scratch_at), scratch_TQ, np.uint8)
            for b in iterate(len(ids)):
                thread = get_thread_id() if parallel else 0
                sample, image = ids[b], metadata[ids[b]]
                height, width = np.int64(image["height"]), np.int64(image["width"])
                payload, crops = read(image["data_ptr"], storage), out[b].reshape(crops_VSS3)
                found = crop_payload(
                    image["mode"], payload, height, width, boxes[sample], crops, pixels[thread], scratch[thread]
                )
                if found != 0:
                    status[sample] = found
                    crops[:] = 0
            return out[: len(ids)]

        decode.is_parallel = True  # type: ignore[attr-defined]  # FFCV looks for it
        return decode

    def _place_boxes(self) -> None:
        if self._boxes is not None:
            ids = np.arange(len(self._boxes))
            for place, view in enumerate(self._views):
                self._boxes[:, place] = self.policy.boxes(view, ids, self._heights, self._widths)


@intrinsic
def _pointer(typing_context, address):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uintp), generate
