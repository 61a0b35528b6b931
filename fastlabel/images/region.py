"""The part of a JPEG that some boxes need, as a small JPEG of its own: whole restart segments, copied as they are.

Between two restart markers nothing refers to what is before (ITU-T T.81, E.1.4 and F.1.1.5.1). Where the interval
divides the blocks of a row, the segments of some rows and columns are an image. libjpeg's upsampling of colours looks
one pixel further, so that a region has a margin of one; its pixels are then those of the whole image.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from fastlabel.kernels.numba_cache import cached_njit

MARGIN = 1
_SOF0, _SOF1, _DHT, _RST0, _SOI, _EOI, _SOS, _DRI = 0xC0, 0xC1, 0xC4, 0xD0, 0xD8, 0xD9, 0xDA, 0xDD
# Reading is worth more than copying: a region above this share of the image is decoded as a whole image.
_WORTH, _OF = 7, 8

_find_byte = types.ExternalFunction("memchr", types.uintp(types.uintp, types.int32, types.uint64))


@njit(nogil=True, boundscheck=False)
def _word(jpeg, at):
    return (np.int64(jpeg[at]) << 8) | np.int64(jpeg[at + 1])


@njit(nogil=True, boundscheck=False)
def _read_header(jpeg, height, width):
    """Where the frame header and the scan's data begin, the restart interval and an MCU's height and width in pixels.

    The second is 0 for a JPEG whose segments cannot be taken: progressive, arithmetic, several scans, no markers, odd.
    """
    frame, interval, components, mcu_height, mcu_width = 0, 0, 0, 0, 0
    at, none = 2, (0, 0, 0, 0, 0)
    if jpeg.size < 4 or jpeg[0] != 0xFF or jpeg[1] != _SOI:
        return none
    while at + 4 <= jpeg.size:
        marker, length = np.int64(jpeg[at + 1]), _word(jpeg, at + 2)
        if jpeg[at] != 0xFF or marker < _SOF0 or marker == 0xFF or _RST0 <= marker <= _EOI:
            return none
        if length < 2 or at + 2 + length > jpeg.size:
            return none
        if marker in (_SOF0, _SOF1):
            if (
                frame
                or length < 8
                or jpeg[at + 4] != 8
                or _word(jpeg, at + 5) != height
                or _word(jpeg, at + 7) != width
            ):
                return none
            frame, components = at, np.int64(jpeg[at + 9])
            if (components != 1 and components != 3) or length != 8 + 3 * components:
                return none
            rows = columns = 1
            for c in range(components if components > 1 else 0):  # a scan of one component has single blocks
                factors = np.int64(jpeg[at + 11 + 3 * c])
                columns, rows = max(columns, factors >> 4), max(rows, factors & 15)
            if columns > 4 or rows > 4:
                return none
            mcu_height, mcu_width = 8 * rows, 8 * columns
        elif marker <= 0xCF and marker != _DHT:
            return none
        elif marker == _DRI:
            if length != 4:
                return none
            interval = _word(jpeg, at + 4)
        elif marker == _SOS:
            if not frame or not interval or length != 6 + 2 * components or jpeg[at + 4] != components:
                return none
            return frame, at + 2 + length, interval, mcu_height, mcu_width
        at += 2 + length
    return none


@njit(nogil=True, boundscheck=False)
def _segment_end(jpeg, at):
    """Where the next marker begins in the data of a scan; the JPEG's size if there is none."""
    while at + 1 < jpeg.size:
        found = _find_byte(jpeg.ctypes.data + at, np.int32(0xFF), np.uint64(jpeg.size - 1 - at))
        if found == 0:
            break
        at = np.int64(found - jpeg.ctypes.data)
        if jpeg[at + 1] != 0:
            return at
        at += 2
    return jpeg.size


@cached_njit(nogil=True, boundscheck=False)
def take_region(jpeg, height, width, top, left, bottom, right, room):
    """Copy what pixels [top, bottom) x [left, right) need into `room` as a JPEG: its bytes, and its place in the image.

    Args:
        jpeg: uint8 vector. height, width: of its image, which is larger than nothing.
        room: uint8 vector, at least as long as the JPEG.

    Returns (bytes, y, x, height, width) of the small JPEG; 0 bytes where the whole one is to be decoded.
    """
    none = (0, 0, 0, 0, 0)
    frame, data, interval, mcu_height, mcu_width = _read_header(jpeg, height, width)
    top, left = max(0, top - MARGIN), max(0, left - MARGIN)
    bottom, right = min(height, bottom + MARGIN), min(width, right + MARGIN)
    if not data or top >= bottom or left >= right or room.size < jpeg.size:
        return none
    across, down = -(-width // mcu_width), -(-height // mcu_height)
    if across % interval:
        return none
    step, a_row = interval * mcu_width, across // interval
    first_row, last_row = top // mcu_height, (bottom - 1) // mcu_height
    first, last = left // step, (right - 1) // step
    if first and width - first * step < mcu_width:
        first -= 1  # libjpeg upsamples the narrowest images otherwise
    y, x = first_row * mcu_height, first * step
    region_height, region_width = min(height, (last_row + 1) * mcu_height) - y, min(width, (last + 1) * step) - x
    if _OF * region_height * region_width > _WORTH * height * width:
        return none
    out = _copy_segments(jpeg, data, a_row, a_row * down, first_row, last_row, first, last, room)
    if out:
        room[:data] = jpeg[:data]
        room[frame + 5], room[frame + 6] = region_height >> 8, region_height & 255
        room[frame + 7], room[frame + 8] = region_width >> 8, region_width & 255
    return out, y, x, region_height, region_width


@njit(nogil=True, boundscheck=False)
def _copy_segments(jpeg, data, a_row, total, first_row, last_row, first, last, room):
    """The end of what was copied to `room`, from `data` on; 0 for markers out of order."""
    at, out, copied = data, data, 0
    for segment in range(last_row * a_row + last + 1):
        end = _segment_end(jpeg, at)
        if end >= jpeg.size:
            return 0
        if jpeg[end + 1] != (_RST0 + (segment & 7) if segment < total - 1 else _EOI):
            return 0
        if segment // a_row >= first_row and first <= segment % a_row <= last:
            room[out : out + end - at] = jpeg[at:end]
            out += end - at
            room[out], room[out + 1] = 0xFF, _RST0 + (copied & 7)
            out += 2
            copied += 1
        at = end + 2
    room[out - 1] = _EOI
    return out
