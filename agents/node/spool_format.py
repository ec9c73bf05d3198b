"""Bytes of a spool segment: frames with length, checksum and number. Pure functions over bytes; no files, no clock.

A frame is [u32 length][u32 crc32][u64 number][u16 key length][key][value], big-endian; the length counts what follows
the checksum, and the checksum covers the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HEAD: Final = struct.Struct(">II")
_BODY: Final = struct.Struct(">QH")
OVERHEAD: Final = _HEAD.size + _BODY.size
MAX_FRAME_BYTES: Final = 16 << 20  # above any record of the contract: a longer length is damage, not data
_ZEROS: Final = bytes(4096)


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """One spooled message: its number (monotone over the folder's life), its key and its value."""

    number: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a whole frame lies in a segment."""

    number: int
    start: int
    end: int


def frame(number: int, key: bytes, value: bytes) -> bytes:
    """The bytes of one record."""
    body = _BODY.pack(number, len(key)) + key + value
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def frame_at(data: bytes, start: int) -> Frame | None:
    """The frame that begins at `start`, or None when the bytes there are not a whole and undamaged one."""
    body = start + _HEAD.size
    if body + _BODY.size > len(data):
        return None
    length, crc = _HEAD.unpack_from(data, start)
    end = body + length
    if not _BODY.size <= length <= MAX_FRAME_BYTES or end > len(data):
        return None
    number, key_length = _BODY.unpack_from(data, body)
    if _BODY.size + key_length > length or zlib.crc32(memoryview(data)[body:end]) != crc:
        return None
    return Frame(number, start, end)


def record_of(data: bytes, found: Frame) -> SpoolRecord:
    """The record inside a frame that `frame_at` found."""
    key_start = found.start + OVERHEAD
    (key_length,) = struct.unpack_from(">H", data, key_start - 2)
    key_end = key_start + key_length
    return SpoolRecord(found.number, data[key_start:key_end], data[key_end : found.end])


def scan(data: bytes) -> Iterator[Frame]:
    """All undamaged frames in order of rising number; damaged stretches are stepped over."""
    position, last = 0, 0
    while position < len(data):
        found = frame_at(data, position) or _resync(data, position + 1, last)
        if found is None:
            return
        if found.number > last:
            last = found.number
            yield found
        position = found.end


def _resync(data: bytes, start: int, last: int) -> Frame | None:
    """The next frame after damage: sought by the high bytes of the numbers that may follow `last`."""
    offset = _HEAD.size
    prefixes = {struct.pack(">Q", last + step)[:6] for step in (1, 1 << 16)}
    best: Frame | None = None
    for prefix in prefixes:
        at = start
        while (hit := data.find(prefix, at + offset)) >= 0:
            at = hit - offset
            if best is not None and at >= best.start:
                break
            found = frame_at(data, at)
            if found is not None and found.number > last:
                best = found
                break
            # A zeroed page would be searched byte by byte otherwise.
            at += len(_ZEROS) - OVERHEAD if data.startswith(_ZEROS, hit) else 1
    return best
