"""The state of a Kafka store on disk: formatted, absent, or half-formatted, and what may be done about the last."""

from __future__ import annotations

import fcntl
import shutil
import struct
import sys
from pathlib import Path

from agents.cli.base import EoError


def partitions(store: Path) -> list[str]:
    """Folders that hold records of topics; Kafka's own metadata log does not count."""
    return sorted(
        path.name
        for path in store.iterdir()
        if path.is_dir() and path.name.rpartition("-")[2].isdigit() and not path.name.startswith("__cluster_metadata")
    )


def formatted(store: Path) -> bool:
    """Whether Kafka would accept the store: a readable meta.properties that names cluster and node."""
    try:
        text = (store / "meta.properties").read_text()
    except OSError:
        return False
    return "cluster.id=" in text and "node.id=" in text


def heal(store: Path) -> bool:
    """Whether the store must be formatted. A half-formatted one without records is removed; one with records is not.

    Raises EoError when records would be lost, or when another process has the store open.
    """
    if not store.exists():
        return True
    if (owner := locked_by(store)) is not None:
        raise EoError(
            f"the store {store} is in use by another Kafka process (pid {owner}); end that one, or set EO_DATA_DIR "
            "to another folder."
        )
    if formatted(store):
        return False
    if kept := partitions(store):
        raise EoError(
            f"the store {store} holds {len(kept)} topic partitions but no readable meta.properties, so Kafka would "
            "refuse it; put that file back from a copy, or move the folder away to start with an empty store."
        )
    shutil.rmtree(store)
    return True


def locked_by(store: Path) -> int | None:
    """The pid that holds Kafka's lock on the store; None when nobody does."""
    lock = store / ".lock"
    if not lock.exists() or sys.platform != "linux":
        return None
    with lock.open("r+") as handle:
        # struct flock of Linux on 64 bit: type, whence, start, length, pid.
        layout = "hhqqi4x"
        asked = struct.pack(layout, fcntl.F_WRLCK, 0, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else int(pid)
