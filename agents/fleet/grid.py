"""The simulated grid of a demo: grams of CO2 per kWh as a factor file, dirtier while the fault dirty-grid is on.

Both numbers are invented and the file says so; it is read only by a worker that is pointed at it (EO_CARBON_FACTORS).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agents.fleet.faults import FAULTS, Wanted, replace_file

FILE: Final = "grid.toml"
LOCATION: Final = "simulated-grid"
CLEAN_G_PER_KWH: Final = 60.0
DIRTY_G_PER_KWH: Final = 10.0 * CLEAN_G_PER_KWH
SOURCE: Final = "SIMULATED: invented for the demo, no grid's number"


def changes(wanted: Sequence[Wanted], now_ns: int) -> list[tuple[int, float]]:
    """From when on which number holds, as far as time has come: (nanoseconds, grams per kWh)."""
    dirty = [one for one in wanted if FAULTS[one.name].dirties and one.start_ns <= now_ns]
    times = sorted({one.start_ns for one in dirty} | {one.end_ns for one in dirty if one.over(now_ns)})
    out: list[tuple[int, float]] = []
    before = CLEAN_G_PER_KWH
    for at_ns in times:
        grams = DIRTY_G_PER_KWH if any(one.active(at_ns) for one in dirty) else CLEAN_G_PER_KWH
        if grams != before:
            out.append((at_ns, grams))
        before = grams
    return out


def text(wanted: Sequence[Wanted] = (), now_ns: int = 0) -> str:
    """The factor file."""
    parts = [_table(None, CLEAN_G_PER_KWH)]
    parts += [_table(at_ns, grams) for at_ns, grams in changes(wanted, now_ns)]
    return "\n".join(parts)


def _table(from_ns: int | None, grams: float) -> str:
    lines = ["[[factor]]", f'location = "{LOCATION}"', f"g_per_kwh = {grams}", f'source = "{SOURCE}"']
    if from_ns is not None:
        lines.append(f"from = {datetime.fromtimestamp(from_ns / 1e9, UTC).isoformat()}")
    return "\n".join(lines) + "\n"


def write(folder: Path, content: str) -> Path:
    """Replaces the file of a fleet's folder; gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / FILE, content.encode())
    return folder / FILE
