"""Numbers, units and words of BMCs as they are in the field: strings for numbers, absent units, odd names. Pure.

What cannot be believed becomes None with a reason, never a number.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

Json = dict[str, Any]

POWER_UNITS: Final = {"w": 1.0, "watt": 1.0, "watts": 1.0, "kw": 1e3, "mw": 1e-3, "milliwatts": 1e-3, "kilowatts": 1e3}
ENERGY_MJ: Final = {
    "j": 1e3,
    "joules": 1e3,
    "kj": 1e6,
    "w.h": 3.6e6,
    "wh": 3.6e6,
    "kw.h": 3.6e9,
    "kwh": 3.6e9,
    "w.s": 1e3,
}
MOST_W: Final = {"gpu": 20e3, "cpu_package": 20e3, "dram": 20e3, "fan": 20e3, "supply": 50e3}
ANY_MOST_W: Final = 1e6
_HEALTHY: Final = frozenset({"", "enabled"})
_DEVICE: Final = re.compile(
    r"gpu|sxm|cpu|dimm|dram|mem|hbm|fan|hsc|nvme|ssd|hdd|disk|drive|nic|ocp|pcie|riser|psu|vrm?\b|vr_|supply|ps\d|rail|nvs|retimer|stby|"
    r"standby|limit|cap\b|budget|12v|5v|3\.3v|48v|54v|min|max|average|avg|peak"
)
_WHOLE: Final = re.compile(
    r"sys|total|chassis|platform|server|node|input|inlet|consum|board_?power|pwr_?all|power[_ ]?meter"
)
_KINDS: Final = (
    ("dram", re.compile(r"dimm|dram|hbm|mem|sxm\d+_?m\b")),
    ("gpu", re.compile(r"gpu|sxm|accelerator|oam[_ ]?\d")),
    ("fan", re.compile(r"fan")),
    ("supply", re.compile(r"psu|power ?supply|ps\d|supply")),
    ("cpu_package", re.compile(r"cpu|proc\b|processor|socket|(?:^|[ _])p\d(?:[ _]|$)")),
)


def number(value: object) -> float | None:
    """A finite number, also from a numeric string; None for anything else, booleans included."""
    if isinstance(value, str):
        try:
            value = float(value.strip().rstrip("%"))
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    return made if math.isfinite(made) else None


def text(value: object) -> str:
    """A printable word of at most 80 characters, "" for anything that is no text or number."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return "".join(c for c in value if c.isprintable()).strip()[:80] if isinstance(value, str) else ""


def table(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[Json]:
    """The objects of a list, whatever else it holds; a single object counts as a list of one."""
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def reading(value: object) -> float | None:
    """The reading of a sensor excerpt, which older firmware gives as a bare number."""
    return number(value.get("Reading")) if isinstance(value, dict) else number(value)


def health(doc: Json) -> str | None:
    """Health, and the state where it is not simply enabled."""
    status = table(doc.get("Status"))
    state, word = text(status.get("State")), text(status.get("Health"))
    shown = [part for part in (word, "" if state.lower() in _HEALTHY else state) if part]
    return "/".join(shown) or None


def absent(doc: Json) -> bool:
    return text(table(doc.get("Status")).get("State")).lower() == "absent"


def kind_of(*words: str) -> str:
    """The kind of a power domain by its names, "other" when they say nothing."""
    joined = " ".join(words).lower()
    return next((kind for kind, pattern in _KINDS if pattern.search(joined)), "other")


def is_whole(*words: str) -> bool:
    """Whether a power sensor's names say that it measures the whole system."""
    joined = " ".join(words).lower()
    return bool(_WHOLE.search(joined)) and not _DEVICE.search(joined)


def believable(power_w: float | None, kind: str, most_w: float | None) -> tuple[float | None, str]:
    """The power, or None and why it is not believed."""
    if power_w is None:
        return None, ""
    if power_w < 0:
        return None, f"reads {power_w:g} W, below 0: not a measurement"
    bound = min(MOST_W.get(kind, ANY_MOST_W), 20 * most_w if most_w else ANY_MOST_W)
    if power_w > bound:
        return None, f"reads {power_w:g} W, above {bound:g} W for a {kind}: not believed; is it milliwatts?"
    return power_w, ""
