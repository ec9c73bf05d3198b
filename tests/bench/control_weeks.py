"""Keeps beside the page of the control bench the few figures by which `eo bench twin` judges whole weeks in a clone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from models.twin.weeks import kept

PARTS: Final = ("main", "ablation", "kappa", "week")


def keep_weeks(folder: Path, beside: Path) -> list[Path]:
    """Writes the figures of the parts in `folder`; those of parts that are not there go, as from the page."""
    beside.mkdir(parents=True, exist_ok=True)
    written = []
    for part in PARTS:
        for path in sorted(folder.glob(f"{part}.*.json")):
            figures = kept(path.name, json.loads(path.read_text()))
            if figures is not None:
                target = beside / path.name
                target.write_text(json.dumps(figures, indent=1) + "\n")
                written.append(target)
    for old in beside.glob("*.json"):
        if old.name.partition(".")[0] in PARTS and old not in written:
            old.unlink()
    return written
