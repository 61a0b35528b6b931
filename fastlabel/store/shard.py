"""Chunks and shards as docs/format.md and Zarr's codec `sharding_indexed` say: every byte is under a checksum.

A shard file holds the inner chunks, one for each view, then an index of their places, uint64 (offset, length) each,
then the index's crc32c. Each chunk is Blosc bytes and their crc32c. Nothing is read or decoded that is larger than it
must be.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numcodecs import blosc
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray

from fastlabel.errors import StoreError
from fastlabel.system.regular_files import open_regular

HARD = 9  # a tenth smaller than 5 for coefficients, in a second for 65,536 labels
CRC_BYTES, BLOSC_HEADER_BYTES = 4, 16
BY_COLUMN = frozenset({"coefficients"})  # arrays whose chunks hold one column after another, compressed harder
EMPTY = 2**64 - 1  # offset and length of a chunk that is not there


class DamagedFileError(StoreError):
    """A file is not what was written; the message says how, without naming the file."""


class Shard:
    """One shard file, open, its index checked; chunks are read and decoded one at a time. Closed by `with`.

    Args:
        views: how many views it holds, the first of its ``places`` for chunks.
        shape, dtype: of a chunk without its axis of views: (samples, width).
        by_column: whether its chunks hold one column after another.
        spare: whether it may hold more views, as a run leaves it that was cut short while it added some.

    Raises:
        OSError: the file cannot be read, or is no regular one.
        DamagedFileError: the index is damaged, or it and the chunks do not fill the file.
    """

    def __init__(
        self,
        path: Path,
        views: int,
        places: int,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        spare: bool = False,
        by_column: bool = False,
    ) -> None:
        self._shape, self._dtype, self._by_column = shape, dtype, by_column
        self._file = open(open_regular(path), "rb")  # noqa: SIM115 -- closed by `close`
        try:
            self._chunks = self._read_index(views, places, spare)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def view(self, view: int) -> NDArray[Any]:
        """Labels [samples, width] of a view, counted within the shard. DamagedFileError where its chunk is damaged."""
        start, stop = self._chunks[view]
        shape = self._shape[::-1] if self._by_column else self._shape
        values = decode_chunk(self._read(start, stop), shape, self._dtype)
        return values.T if self._by_column else values

    def _read(self, start: int, stop: int) -> NDArray[np.uint8]:
        self._file.seek(start)
        return np.frombuffer(self._file.read(stop - start), np.uint8)

    def _read_index(self, views: int, places: int, spare: bool) -> list[tuple[int, int]]:
        """(start, stop) of the chunk of each view."""
        length, size = os.fstat(self._file.fileno()).st_size, 16 * places + CRC_BYTES
        if length < size:
            raise DamagedFileError(f"has {length} bytes, fewer than the {size} of its index")
        end = length - size
        index = _checked(self._read(end, length), "the index of its chunks").view("<u8").reshape(places, 2)
        if spare:
            views = max(views, int((index != EMPTY).any(axis=1).sum()))
        if not (index[views:] == EMPTY).all():
            raise DamagedFileError(f"its index has more than the {views} views of its unit")
        if (index[:views] == EMPTY).any():
            missing = int((index[:views] == EMPTY).any(axis=1).argmax())
            raise DamagedFileError(f"its index lacks chunk {missing} of {views}")
        chunks = [(int(offset), int(offset) + int(length)) for offset, length in index[:views]]
        # No byte outside of a chunk, where damage would go unseen.
        edges = [0, *(edge for chunk in sorted(chunks) for edge in chunk), end]
        if any(stop != start for stop, start in zip(edges[::2], edges[1::2], strict=True)):
            raise DamagedFileError(f"its {views} chunks do not fill the {end} bytes before the index")
        most = most_chunk_bytes(self._shape, self._dtype)
        if any(stop - start > most for start, stop in chunks):
            raise DamagedFileError(f"has a chunk of more than {most} bytes, the most that its labels can take")
        return chunks


def encode_shard(labels: NDArray[Any], places: int, samples: int, by_column: bool = False) -> bytes:
    """The bytes of a shard of labels [views, n, width], with room for that many views of that many samples.

    With `by_column` a chunk holds one column after another (Zarr's codec `transpose`): each compresses on its own.
    """
    views, rows, width = labels.shape
    chunk = np.zeros((samples, width), labels.dtype)
    index, chunks, offset = np.full((places, 2), EMPTY, "<u8"), [], 0
    for view in range(views):
        chunk[:rows] = labels[view]
        chunks.append(encode_chunk(chunk.T, HARD) if by_column else encode_chunk(chunk))
        index[view] = offset, len(chunks[-1])
        offset += len(chunks[-1])
    return b"".join([*chunks, _with_crc(index.tobytes())])


def encode_chunk(values: NDArray[Any], level: int = 5) -> bytes:
    """The bytes of one chunk. Its dtype is one of the format's, little-endian."""
    encoded: bytes = blosc.compress(np.ascontiguousarray(values), b"zstd", level, blosc.BITSHUFFLE)
    return _with_crc(encoded)


def most_chunk_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """The most bytes that a chunk of these values can take, whatever they are."""
    return _value_bytes(shape, dtype) + blosc.MAX_OVERHEAD + CRC_BYTES


def decode_chunk(data: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of one encoded chunk. DamagedFileError unless it is whole and of that shape."""
    encoded = _checked(data, "a chunk")
    wanted = _value_bytes(shape, dtype)
    found = int(encoded[4:8].view("<u4")[0]) if len(encoded) >= BLOSC_HEADER_BYTES else -1
    if found != wanted:
        raise DamagedFileError(f"a chunk holds {found} bytes of values, expected {wanted}")
    values = np.empty(shape, dtype)
    try:
        blosc.decompress(encoded, values)
    except (RuntimeError, ValueError) as error:
        raise DamagedFileError(f"a chunk cannot be decompressed ({error})") from error
    return values


def _value_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _with_crc(data: bytes) -> bytes:
    return data + CRC32C.checksum(data).to_bytes(CRC_BYTES, "little")


def _checked(data: NDArray[np.uint8], what: str) -> NDArray[np.uint8]:
    """The bytes before their crc32c, which is the last four."""
    payload, stored = data[:-CRC_BYTES], data[-CRC_BYTES:].tobytes()
    if len(data) < CRC_BYTES or CRC32C.checksum(payload).to_bytes(CRC_BYTES, "little") != stored:
        raise DamagedFileError(f"{what} does not have its crc32c")
    return payload
