"""Shard files read byte by byte, without zarr: every byte of one is under a checksum, or it is damaged.

Laid out as docs/format.md and the Zarr codec `sharding_indexed` say: the inner chunks, one for each view, then an index
of their places, uint64 (offset, length) each, then the index's crc32c. Each chunk is Blosc bytes and their crc32c.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray

from fastlabel.errors import StoreError

CRC_BYTES, BLOSC_HEADER_BYTES = 4, 16
EMPTY = 2**64 - 1  # offset and length of a chunk that is not there


class DamagedChunkError(StoreError):
    """Bytes of a shard or a chunk are not what was written; the message says how, without naming the file."""


class Shard:
    """One shard file, its index checked and its bytes in memory; chunks are decoded one at a time.

    Args:
        views: how many views it holds, the first of its ``places`` for chunks.
        shape, dtype: of a chunk without its axis of views: (samples, width).

    Raises:
        OSError: the file cannot be read.
        DamagedChunkError: the index is damaged, or it and the chunks do not fill the file.
    """

    def __init__(self, path: Path, views: int, places: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._data = np.frombuffer(path.read_bytes(), np.uint8)
        self._shape, self._dtype = shape, dtype
        self._chunks = _read_index(self._data, views, places)

    def view(self, view: int) -> NDArray[Any]:
        """Labels [samples, width] of a view, counted within the shard. DamagedChunkError where its chunk is damaged."""
        start, stop = self._chunks[view]
        return decode_chunk(self._data[start:stop], self._shape, self._dtype)


def _read_index(data: NDArray[np.uint8], views: int, places: int) -> list[tuple[int, int]]:
    """(start, stop) of the chunk of each view."""
    size = 16 * places + CRC_BYTES
    if len(data) < size:
        raise DamagedChunkError(f"has {len(data)} bytes, fewer than the {size} of its index")
    end = len(data) - size
    index = _checked(data[end:], "the index of its chunks").view("<u8").reshape(places, 2)
    if not (index[views:] == EMPTY).all():
        raise DamagedChunkError(f"its index has more than the {views} views of its unit")
    if (index[:views] == EMPTY).any():
        missing = int((index[:views] == EMPTY).any(axis=1).argmax())
        raise DamagedChunkError(f"its index lacks chunk {missing} of {views}")
    chunks = [(int(offset), int(offset) + int(length)) for offset, length in index[:views]]
    # No byte outside of a chunk, where damage would go unseen.
    edges = [0, *(edge for chunk in sorted(chunks) for edge in chunk), end]
    if any(stop != start for stop, start in zip(edges[::2], edges[1::2], strict=True)):
        raise DamagedChunkError(f"its {views} chunks do not fill the {end} bytes before the index")
    return chunks


def decode_chunk(data: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of one encoded chunk. DamagedChunkError unless it is whole and of that shape."""
    encoded = _checked(data, "a chunk")
    wanted = int(np.prod(shape)) * dtype.itemsize
    found = int(encoded[4:8].view("<u4")[0]) if len(encoded) >= BLOSC_HEADER_BYTES else -1
    if found != wanted:
        raise DamagedChunkError(f"a chunk holds {found} bytes of values, expected {wanted}")
    values = np.empty(shape, dtype)
    try:
        blosc.decompress(encoded, values)
    except (RuntimeError, ValueError) as error:
        raise DamagedChunkError(f"a chunk cannot be decompressed ({error})") from error
    return values


def _checked(data: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """The bytes before their crc32c, which is the last four."""
    payload, stored = data[:-CRC_BYTES], data[-CRC_BYTES:].tobytes()
    if len(data) < CRC_BYTES or CRC32C.checksum(payload).to_bytes(CRC_BYTES, "little") != stored:
        raise DamagedChunkError(f"{what} does not have its crc32c")
    return payload
