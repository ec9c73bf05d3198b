"""In which unit a series really is: what its HELP says, against what numbers of that size can be. Pure.

Exporters exist whose "watts" are milliwatts. A number that no board can have is converted when a usual factor makes it
plausible, with a warning, and refused when none does; the label alone is never believed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import Final

from agents.node.sources.dcgm_fields import MAX_BOARD_W, OVERSHOOT, Field

_IN: Final = re.compile(r"\(\s*(?:in\s+)?([a-zA-Zµ%]+)\s*\)")
# Column's kind -> unit word -> factor to the column's unit.
_WATTS: Final = {"w": 1.0, "watts": 1.0, "mw": 1e-3, "milliwatts": 1e-3, "kw": 1e3}
_ENERGY: Final = {"mj": 1.0, "millijoules": 1.0, "j": 1e3, "joules": 1e3, "kj": 1e6, "uj": 1e-3, "µj": 1e-3}
_CLOCK: Final = {"mhz": 1.0, "khz": 1e-3, "hz": 1e-6, "hertz": 1e-6, "ghz": 1e3}
# NVIDIA writes MB and means MiB.
_MEMORY: Final = {"mib": 1.048576, "mb": 1.048576, "kib": 1.024e-3, "gib": 1073.741824, "bytes": 1e-6, "b": 1e-6}


def stated(field: Field, help_text: str | None) -> float | None:
    """The factor that the HELP text asks for; None when it says nothing about a unit that is known."""
    words = [word.lower() for word in _IN.findall(help_text or "")]
    known = _units(field)
    return next((known[word] for word in words if word in known), None)


def scale(field: Field, values: Sequence[float], help_text: str | None = None) -> tuple[float, str | None]:
    """(factor to the column's unit, warning) for a family of values, blanks left out. 0 as factor = refuse them all.

    The family decides, by its median: one GPU with a mad value is that GPU's trouble, not the unit's.
    """
    factor = stated(field, help_text) or field.factor
    said = None if factor == field.factor else f"HELP says {_IN.findall(help_text or '')[-1]}"
    size = [abs(value) for value in values if value]
    if field.column == "util_ratio":
        return _utilisation(field, values)
    if not size or (median(size) * factor <= field.high * (OVERSHOOT if field.column.endswith("_ratio") else 1.0)):
        return factor, said and f"{field.names[0]} is read as its HELP says ({said}), not in the usual unit"
    for smaller in _smaller(field):
        if median(size) * factor * smaller <= field.high:
            return factor * smaller, (
                f"values near {median(size):g} cannot be what {field.names[0]} says it is: read as {smaller:g} of it"
            )
    return 0.0, f"values near {median(size):g} are no plausible {field.names[0]} in any unit: refused"


def _smaller(field: Field) -> tuple[float, ...]:
    """Factors that a mistaken unit usually has."""
    if field.column.endswith("_ratio"):
        return (0.01,)
    return (1e-3, 1e-6) if _units(field) is not _ENERGY and _units(field) else ()


def _units(field: Field) -> dict[str, float]:
    for ending, units in (("_w", _WATTS), ("_mj", _ENERGY), ("_mhz", _CLOCK), ("_mb", _MEMORY)):
        if field.column.endswith(ending):
            return units
    return {}


def _utilisation(field: Field, values: Sequence[float]) -> tuple[float, str | None]:
    """Field 203 is percent under both its names; a fraction between 0 and 1 says that this exporter divides already."""
    if any(0 < value < 1 for value in values) and max(values) <= 1:
        return 1.0, f"{field.names[0]} holds fractions: read as a ratio, not as percent"
    return field.factor, None


def power_against_limit(power: Sequence[float | None], limit: Sequence[float | None]) -> bool:
    """Whether watts are milliwatts because they are far above the boards' limits, which are not. Median again."""
    ratios = [p / w for p, w in zip(power, limit, strict=True) if p and w and 0 < w <= MAX_BOARD_W]
    return bool(ratios) and median(ratios) > 5
