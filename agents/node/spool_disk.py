"""Files of a spool: segments, the cursor, the lock. Knows bytes and names; the promises are kept in spool.py."""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agents.node.errors import SpoolUnusable
from agents.node.spool_format import Frame, scan
from agents.node.spool_gaps import Range

SUFFIX: Final = ".seg"


@dataclass(slots=True)
class Segment:
    """One file of frames; `first` and `last` are the numbers that it may hold, `last` < `first` when empty."""

    path: Path
    first: int
    last: int
    size: int


@dataclass(slots=True)
class Cursor:
    """What is delivered, which numbers above that are gone for good and counted, and the last number made durable."""

    acked: int = 0
    gaps: list[Range] = field(default_factory=list)
    written: int = 0


def lock(folder: Path) -> int:
    """Makes the folder and takes its one-writer lock; returns the descriptor. Raises SpoolUnusable with the reason."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolUnusable(
            f"spool folder {folder} cannot be written ({error.strerror}); make it writable for uid {os.geteuid()} "
            "or choose another with EO_NODE_SPOOL_DIR"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise SpoolUnusable(
            f"spool folder {folder} is in use by another process; stop that agent or choose another folder "
            "with EO_NODE_SPOOL_DIR"
        ) from error
    return fd


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}{SUFFIX}"


def segments(folder: Path) -> list[Path]:
    """Segment files, oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def recover(path: Path, *, newest: bool) -> tuple[Segment, list[Frame], bool]:
    """Reads a segment after a start: its frames, and whether the newest one had a torn tail, which is cut off here.

    The newest is made durable: a killed process may have left its last interval in the kernel's memory only, and
    nobody writes to this file any more. Older ones were synced when the next began.
    """
    data = path.read_bytes()
    frames = list(scan(data))
    first = int(path.stem)
    end = frames[-1].end if frames else 0
    torn = newest and end < len(data)
    if torn:
        with path.open("r+b") as file:
            file.truncate(end)
    if newest and frames:
        sync_file(path)
    last = frames[-1].number if frames else first - 1
    return Segment(path, first, last, end if torn else len(data)), frames, torn


def read_cursor(path: Path) -> Cursor | None:
    """The cursor as last written; None, missing or damaged, means "nothing known": duplicates, never loss."""
    try:
        check, _, text = path.read_bytes().partition(b" ")
        if int(check, 16) != zlib.crc32(text):
            return None
        value = json.loads(text)
        gaps = [(int(a), int(b)) for a, b in value["gaps"]]
        return Cursor(int(value["acked"]), gaps, int(value.get("written", 0)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_cursor(path: Path, cursor: Cursor, *, durable: bool) -> None:
    """Replaces the cursor atomically, through a power cut too when `durable`. Raises OSError: the old one stays."""
    text = json.dumps({"acked": cursor.acked, "gaps": cursor.gaps, "written": cursor.written}).encode()
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(b"%08x %s" % (zlib.crc32(text), text))
        if durable:
            file.flush()
            os.fsync(file.fileno())
    fresh.replace(path)
    if durable:
        sync_folder(path.parent)


def append(fd: int, data: bytes, size: int) -> None:
    """Writes a whole frame at the end of a segment of `size` bytes, or nothing of it. Raises OSError."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        with suppress(OSError):
            # A half-written frame in the middle would read as damage later.
            os.ftruncate(fd, size)
            os.lseek(fd, size, os.SEEK_SET)
        raise


def create(path: Path) -> int:
    """Opens a new segment for appending and makes its name durable. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    sync_folder(path.parent)
    return fd


def sync_file(path: Path) -> None:
    """Makes what a file holds durable, whoever wrote it. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
