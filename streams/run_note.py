"""The file run/<name>.json of a living process: pid, start, role, and what else others need to find it.

Beside it lies run/targets/<name>.json for Prometheus' file discovery, as long as the process names a metrics address. A
process that was killed leaves both: Prometheus then says `up` 0, which is what it should say.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from streams.contract.layout import Layout

TARGETS = "targets"


def write(layout: Layout, name: str, **facts: object) -> Path:
    """Writes the note, whole or not at all; beside a living process of the same name it is <name>-<pid>.json."""
    layout.run.mkdir(parents=True, exist_ok=True)
    path = layout.run / f"{name}.json"
    if _owner_lives(path):
        path = layout.run / f"{name}-{os.getpid()}.json"
    note = {"pid": os.getpid(), "started_ns": time.time_ns(), **facts}
    _replace(path, note)
    target = target_of(note)
    beside = path.parent / TARGETS / path.name
    if target is not None:
        beside.parent.mkdir(exist_ok=True)
        _replace(beside, [target])
    else:
        beside.unlink(missing_ok=True)
    return path


def forget(path: Path) -> None:
    """Takes a note and its target away, at an orderly end."""
    path.unlink(missing_ok=True)
    (path.parent / TARGETS / path.name).unlink(missing_ok=True)


def target_of(note: dict[str, object]) -> dict[str, object] | None:
    """A note as an entry of Prometheus' file discovery; None when its process serves no metrics."""
    address = note.get("metrics")
    if not isinstance(address, str) or not address:
        return None
    parts = urlsplit(address if "//" in address else f"//{address}")
    labels = {"eo_role": str(note.get("role", ""))}  # not `role`: metrics have a label of that name
    if note.get("node"):
        labels["eo_node"] = str(note["node"])
    if parts.path not in ("", "/metrics"):
        labels["__metrics_path__"] = parts.path
    # Who reads this folder is on this machine: a wildcard address is no address to ask.
    wild = parts.hostname in ("0.0.0.0", "::")
    return {"targets": [f"127.0.0.1:{parts.port}" if wild else parts.netloc], "labels": labels}


def _replace(path: Path, value: object) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value) + "\n")
    temporary.rename(path)


def _owner_lives(path: Path) -> bool:
    try:
        pid = int(json.loads(path.read_text())["pid"])
        os.kill(pid, 0)
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return pid != os.getpid()
