"""The high-water mark: the newest (epoch, seq) ever acted upon, durable before its effect, so that no replay is obeyed.

Two fixed slots of one file take turns, each with its checksum: an update is one small write and one fdatasync, and a
torn write leaves the other slot, whose command was the last to be obeyed.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

from agents.capper.durable import replace, sync_data
from agents.capper.errors import CapperError

_SLOT_BYTES: Final = 128
FILE_NAME: Final = "mark.json"
Mark = tuple[int, int]


class _Slot(msgspec.Struct, frozen=True):
    epoch: int
    seq: int
    crc32: int


def _crc(epoch: int, seq: int) -> int:
    return zlib.crc32(f"{epoch}/{seq}".encode())


def _encode(mark: Mark) -> bytes:
    text = msgspec.json.encode(_Slot(mark[0], mark[1], _crc(*mark)))
    return text.ljust(_SLOT_BYTES - 1) + b"\n"


def _decode(raw: bytes) -> Mark | None:
    try:
        slot = msgspec.json.decode(raw, type=_Slot)
    except msgspec.MsgspecError:
        return None
    return (slot.epoch, slot.seq) if slot.crc32 == _crc(slot.epoch, slot.seq) else None


class HighWaterMark:
    """The mark of one node. `value` is (-1, -1) before the first command."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._fd = -1
        self._next_slot = 0
        self.value: Mark = (-1, -1)

    def open(self) -> None:
        """Reads the mark, or starts one. Raises CapperError when the file is neither absent nor a mark."""
        try:
            self._open()
        except OSError as error:
            raise CapperError(
                f"{self._path} cannot be opened ({error.strerror}); nothing was set: give it back to this user"
            ) from error

    def _open(self) -> None:
        if not self._path.exists():
            replace(self._path, _encode(self.value) * 2)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        slots = [_decode(os.pread(self._fd, _SLOT_BYTES, i * _SLOT_BYTES)) for i in (0, 1)]
        known = [slot for slot in slots if slot is not None]
        if not known:
            self.close()
            raise CapperError(
                f"{self._path} holds no valid mark, so replayed commands could not be told from new ones; nothing was "
                "set: run `eo restore`, delete the file, start again"
            )
        self.value = max(known)
        self._next_slot = 1 - slots.index(self.value)

    def advance(self, mark: Mark) -> None:
        """Raises the mark; durable on return. Raises OSError: then the command must not be obeyed."""
        if mark <= self.value:
            raise ValueError(f"mark {mark} is not above {self.value}")
        os.pwrite(self._fd, _encode(mark), self._next_slot * _SLOT_BYTES)
        sync_data(self._fd)
        self._next_slot = 1 - self._next_slot
        self.value = mark

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
