"""The file run/<name>.json of a living process: pid, start, role, and what else others need to find it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from streams.contract.layout import Layout


def write(layout: Layout, name: str, **facts: object) -> Path:
    """Writes the note, whole or not at all; beside a living process of the same name it is <name>-<pid>.json."""
    layout.run.mkdir(parents=True, exist_ok=True)
    path = layout.run / f"{name}.json"
    if _owner_lives(path):
        path = layout.run / f"{name}-{os.getpid()}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), "started_ns": time.time_ns(), **facts}) + "\n")
    temporary.rename(path)
    return path


def _owner_lives(path: Path) -> bool:
    try:
        pid = int(json.loads(path.read_text())["pid"])
        os.kill(pid, 0)
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return pid != os.getpid()
