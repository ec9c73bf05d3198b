"""What a power or energy value can be at all: unit slips and absurd values are named before anything believes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["gpu", "cpu_package", "dram", "supply", "chassis", "board", "other"]

# Highest power that one such thing draws, with room: the largest GPU of 2026 is rated 1,400 W, a socket 500 W, a
# supply 5.5 kW, a chassis of 8 GPUs 15 kW. Kepler once reported 160,000 W for a node.
MOST_W: dict[Kind, float] = {
    "gpu": 3000.0,
    "cpu_package": 1500.0,
    "dram": 600.0,
    "supply": 6000.0,
    "chassis": 30_000.0,
    "board": 30_000.0,
    "other": 30_000.0,
}
OVER_LIMIT = 2.0  # short peaks above a power limit are normal, twice the limit is not
UNITS = (("milliwatts", 1e-3), ("microwatts", 1e-6), ("kilowatts", 1e3))


@dataclass(frozen=True, slots=True)
class Checked:
    """A power value after the check. `power_w` None = not to be used; `warning` says why or what was done."""

    power_w: float | None
    warning: str | None = None


def check_power(value: float | None, *, kind: Kind = "gpu", limit_w: float | None = None) -> Checked:
    """The value, if a thing of that kind can draw it; never a silent correction.

    A value that fits only after a change of unit is refused with the unit that it would fit in: guessing would hide a
    wrong label for ever. Zero is left as it is; a GPU that draws nothing is judged by `counter` and `reconcile`.
    """
    if value is None:
        return Checked(None)
    if not math.isfinite(value) or value < 0:
        return Checked(None, f"{value:g} W is no power; the reading is left out, see what the sensor's source says.")
    most_w = MOST_W[kind] if limit_w is None or limit_w <= 0 else min(MOST_W[kind], OVER_LIMIT * limit_w)
    if value <= most_w:
        return Checked(value)
    fitting = [name for name, factor in UNITS if 1.0 <= value * factor <= most_w and factor < 1]
    unit = f"; in {fitting[0]} it would be {value * dict(UNITS)[fitting[0]]:g} W" if fitting else ""
    return Checked(
        None,
        f"{value:g} W is above the {most_w:g} W that a {kind.replace('_', ' ')} can draw{unit}: the reading is left "
        "out, correct the unit at its source.",
    )
