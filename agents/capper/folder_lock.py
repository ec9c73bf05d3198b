"""One writer per node folder: an flock that the kernel drops when the process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from agents.capper.errors import CapperError

FILE_NAME: Final = "lock"


class FolderHeld(CapperError):
    """Another live process holds the folder."""


class FolderLock:
    """Held from `acquire` to `release` or to the end of the process, kill -9 included."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._fd = -1

    def acquire(self) -> None:
        """Takes the lock at once or raises FolderHeld with the holder's pid."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise FolderHeld(
                f"another capper (pid {holder}) holds {self._path.parent}; stop it first, it puts back what it set"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
