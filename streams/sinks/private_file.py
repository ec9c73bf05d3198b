"""Small JSON files that only this user may read, replaced as a whole: the old content or the new one, never half."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from streams.errors import StreamsError

T = TypeVar("T")


def read(path: Path, kind: type[T], default: T) -> T:
    """The file's value, the default when there is no file. Raises StreamsError for a damaged one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return default
    except OSError as error:
        raise StreamsError(f"{path} cannot be read ({error.strerror}); give this user the right") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StreamsError(f"{path} is damaged ({error}); put it back from a copy, or move it away") from error


def write(path: Path, value: object) -> None:
    """Replaces the file, mode 0600, durable when it returns."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    """The same for bytes."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One writer at a time between reading and replacing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def changed_ns(path: Path) -> int:
    """When the file was last replaced; 0 without one."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
