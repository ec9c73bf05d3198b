"""Bytes that survive a crash: written, fsynced, renamed, folder fsynced. Every fsync is counted, for tests."""

from __future__ import annotations

import os
from pathlib import Path

_fsyncs = 0


def fsync_count() -> int:
    """How many fsyncs this process has asked for through this module."""
    return _fsyncs


def sync_file(fd: int) -> None:
    """fsync of one descriptor."""
    global _fsyncs
    _fsyncs += 1
    os.fsync(fd)


def sync_data(fd: int) -> None:
    """fdatasync: enough where the file neither grows nor moves."""
    global _fsyncs
    _fsyncs += 1
    os.fdatasync(fd)


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable: a rename alone is not."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def replace(path: Path, content: bytes) -> None:
    """Puts `content` at `path`, all of it or none, durable on return. Raises OSError; the old content then stands."""
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        sync_file(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_folder(path.parent)
