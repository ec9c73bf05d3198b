"""Keeps beside the page of the control bench all results that it was made of: for `eo bench twin`, which judges whole
weeks by them, for whoever wants more digits than the page has, and for making the page anew without a run.
"""

from __future__ import annotations

import json
from pathlib import Path


def keep_parts(folder: Path, beside: Path, parts: tuple[str, ...]) -> list[Path]:
    """Writes what `folder` holds of the parts, a line each; what it does not hold goes, as it goes from the page."""
    beside.mkdir(parents=True, exist_ok=True)
    written = []
    for part in parts:
        for path in sorted(folder.glob(f"{part}.*.json")):
            text = json.dumps(json.loads(path.read_text()), separators=(",", ":")) + "\n"
            written.append(beside / path.name)
            written[-1].write_text(text)
    for old in beside.glob("*.json"):
        if old.name.partition(".")[0] in parts and old not in written:
            old.unlink()
    return written
