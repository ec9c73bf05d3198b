"""Grams of CO2 equivalent of measured joules in a rolling window. No location or no factor = no number.

A factor belongs to one location and says where it comes from; there is no default and no fallback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SLICES: Final = 48  # of one window: the error at its old end is at most a fiftieth
J_PER_KWH: Final = 3.6e6
MOST_G_PER_KWH: Final = 2000.0  # lignite is about 1,200; more is a wrong unit (kg or mg for g)


@dataclass(frozen=True, slots=True)
class Factor:
    """Grams of CO2 equivalent per kWh at one location, from a time on (nanoseconds; 0 = always)."""

    location: str
    g_per_kwh: float
    source: str
    kind: str = "average"
    from_ns: int = 0


def parse(values: Mapping[str, Any], location: str) -> list[Factor]:
    """A location's factors from a file's tables `[[factor]]`, oldest first. Raises ValueError with the next step."""
    tables = values.get("factor")
    if not isinstance(tables, list) or not all(isinstance(one, Mapping) for one in tables):
        raise ValueError("a carbon factor file needs tables [[factor]] with location, g_per_kwh and source")
    found = [_factor(one) for one in tables if one.get("location") == location]
    if not found:
        known = sorted({str(one.get("location")) for one in tables})
        raise ValueError(f"no carbon factor for location {location!r}; the file has {', '.join(known) or 'none'}")
    return sorted(found, key=lambda one: one.from_ns)


def _factor(one: Mapping[str, Any]) -> Factor:
    grams, source = one.get("g_per_kwh"), one.get("source")
    if not isinstance(grams, int | float) or isinstance(grams, bool) or not math.isfinite(grams):
        raise ValueError(f"g_per_kwh is {grams!r}; write grams of CO2 equivalent per kWh")
    if not 0.0 <= grams <= MOST_G_PER_KWH:
        raise ValueError(f"g_per_kwh is {grams:g}; it must be >= 0 and <= {MOST_G_PER_KWH:g} grams, check the unit")
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"the factor of {one.get('location')!r} names no source; write where the number comes from")
    start = one.get("from")
    from_ns = int(start.timestamp() * 1e9) if start is not None and hasattr(start, "timestamp") else 0
    return Factor(str(one["location"]), float(grams), source, str(one.get("kind", "average")), from_ns)


def factor_at(factors: list[Factor], ts_ns: int) -> Factor | None:
    """The factor that holds at a time; None before the first."""
    return next((one for one in reversed(factors) if one.from_ns <= ts_ns), None)


@dataclass(slots=True)
class Budget:
    """Joules and grams of a rolling window, in slices of event time; plain values, so that it can be saved."""

    window_s: float
    joules: dict[int, float] = field(default_factory=dict)
    grams: dict[int, float] = field(default_factory=dict)

    def add(self, ts_ns: int, joules: float, g_per_kwh: float) -> None:
        """Adds energy spent up to a time; older than the window counts for nothing."""
        number = int(ts_ns / 1e9 // (self.window_s / SLICES))
        newest = max(self.joules, default=number)
        if number <= newest - SLICES:
            return
        self.joules[number] = self.joules.get(number, 0.0) + joules
        self.grams[number] = self.grams.get(number, 0.0) + joules / J_PER_KWH * g_per_kwh
        if number > newest:
            self.trim(ts_ns)

    def trim(self, now_ns: int) -> None:
        """Forgets slices that have left the window."""
        oldest = int(now_ns / 1e9 // (self.window_s / SLICES)) - SLICES
        for number in [n for n in self.joules if n <= oldest]:
            del self.joules[number], self.grams[number]

    def total_g(self) -> float:
        return sum(self.grams.values())

    def total_kwh(self) -> float:
        return sum(self.joules.values()) / J_PER_KWH
