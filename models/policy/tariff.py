"""Price and carbon over time, and the weight that they give to a watt. Text in, values out; unknown is None, never 0.

A series is CSV with a header: `timestamp_s` (Unix seconds, or ISO 8601 with its offset) and one of `eur_per_kwh`,
`usd_per_kwh`, `g_per_kwh`. A value holds until the next row, the last one for as long as the row before it did;
nothing is invented beyond the file.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import isfinite
from typing import Final

PRICES: Final = {"eur_per_kwh": "EUR", "usd_per_kwh": "USD"}
CARBON: Final = "g_per_kwh"
MOST: Final = {"eur_per_kwh": 100.0, "usd_per_kwh": 100.0, CARBON: 5000.0}
LEAST_PRICE: Final = -10.0  # markets do go below zero
LONGEST_HOLD_S: Final = 86_400.0
WEIGHTS: Final = (0.25, 4.0)
J_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Series:
    """Values from their second on; `unit` is the column's name."""

    unit: str
    times_s: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Weighted by how long each value holds."""
        spans = self._spans()
        return sum(v * s for v, s in zip(self.values, spans, strict=True)) / sum(spans)

    def at(self, now_s: float) -> float | None:
        """The value in force; None before the first row, in a gap of more than a day and after the end."""
        if not isfinite(now_s):
            return None
        k = bisect_right(self.times_s, now_s) - 1
        if k < 0 or now_s - self.times_s[k] >= min(LONGEST_HOLD_S, self._spans()[k]):
            return None
        return self.values[k]

    def _spans(self) -> list[float]:
        gaps = [b - a for a, b in pairwise(self.times_s)]
        return [*gaps, gaps[-1] if gaps else LONGEST_HOLD_S]


def parse(text: str, units: Sequence[str]) -> Series:
    """A series of one of these units. Raises ValueError that names the row, the value and what it should be."""
    rows = list(csv.reader(io.StringIO(text.lstrip("\ufeff"))))
    header = [name.strip() for name in rows[0]] if rows else []
    unit = next((name for name in units if name in header), None)
    if "timestamp_s" not in header or unit is None:
        raise ValueError(f"its header is {','.join(header)!r}; give timestamp_s and one of {', '.join(units)}")
    columns = header.index("timestamp_s"), header.index(unit)
    found = [_row(row, number, columns, unit) for number, row in enumerate(rows[1:], 2) if any(map(str.strip, row))]
    if not found:
        raise ValueError("it has a header and no row; give at least one")
    times = [time_s for time_s, _ in found]
    for number, (before, after) in enumerate(pairwise(times), 3):
        if after <= before:
            raise ValueError(f"row {number} is at {after:.0f} s, not after {before:.0f} s; sort the rows by time")
    return Series(unit, tuple(times), tuple(value for _, value in found))


def _row(row: Sequence[str], number: int, columns: tuple[int, int], unit: str) -> tuple[float, float]:
    try:
        when, value = _seconds(row[columns[0]].strip()), float(row[columns[1]])
    except (ValueError, IndexError) as error:
        raise ValueError(f"row {number} is {','.join(row)!r}; give a time and a number ({error})") from error
    low = 0.0 if unit == CARBON else LEAST_PRICE
    if not low <= value <= MOST[unit]:
        raise ValueError(f"row {number} says {value:g} {unit}; give {low:g} to {MOST[unit]:g}, check the unit")
    return when, value


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(f"{text} has no offset; write 2026-11-26T16:00:00Z or Unix seconds") from None
        return moment.timestamp()
    if not 0.0 <= found < 4.2e9:
        raise ValueError(f"{found:g} is no Unix time in seconds")
    return found


@dataclass(frozen=True, slots=True)
class Now:
    """Price and carbon at a moment, and what a watt weighs against its mean: 1 without any series."""

    price_per_kwh: float | None
    currency: str | None
    g_per_kwh: float | None
    weight: float

    def cost_per_h(self, watts: float | None) -> float | None:
        """In the currency of the price; None without one."""
        return None if watts is None or self.price_per_kwh is None else watts / 1e3 * self.price_per_kwh

    def carbon_g_per_h(self, watts: float | None) -> float | None:
        return None if watts is None or self.g_per_kwh is None else watts / 1e3 * self.g_per_kwh


@dataclass(frozen=True, slots=True)
class Tariff:
    """The two series. `carbon_price_per_kg` turns grams into the price's currency; it matters only with both."""

    price: Series | None = None
    carbon: Series | None = None
    carbon_price_per_kg: float = 0.0

    def now(self, now_s: float) -> Now:
        price = self.price.at(now_s) if self.price is not None else None
        grams = self.carbon.at(now_s) if self.carbon is not None else None
        currency = PRICES[self.price.unit] if self.price is not None else None
        return Now(price, currency, grams, self._weight(price, grams))

    def _weight(self, price: float | None, grams: float | None) -> float:
        """Worth of energy now over its mean: of the priced sum where prices are known, else of the grams alone."""
        if self.price is not None and price is not None:
            kg = self.carbon_price_per_kg / 1e3
            now = price + (grams or 0.0) * kg
            mean = self.price.mean + (self.carbon.mean * kg if self.carbon is not None and grams is not None else 0.0)
        elif self.carbon is not None and grams is not None:
            now, mean = grams, self.carbon.mean
        else:
            return 1.0
        return min(WEIGHTS[1], max(WEIGHTS[0], now / mean)) if mean > 0.0 else 1.0
