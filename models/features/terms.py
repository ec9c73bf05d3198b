"""What features add up: whole numbers per sample, so that a sum is exact and does not depend on the order of adding.

A running sum that adds the newest sample and takes the oldest away then equals the sum over the whole window, bit by
bit, for ever; this is what lets the stream do the work of one sample where the offline store sums sixty. A term is one
pure function of samples of any shape. Arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

MICRO: Final = 1_000_000  # sums are in millionths of the column's unit: sensors and JSON carry fewer digits
NS_PER_MS: Final = 1_000_000
# Beyond these a reading is a broken one and counts as unknown; within them no sum of 64 products leaves 64 bits.
PLAUSIBLE: Final = {
    "power_w": 1e9,
    "energy_mj": 9e15,
    "sm_mhz": 1e9,
    "util_ratio": 1e6,
    "temp_c": 1e4,
    "throttle": 9e15,
    "tokens": 9e15,
}
IDLE_UTIL: Final = 50_000  # millionths: no kernel resident for 95 % of the interval
# Deep idle of a GPU whose context is released: about 35 W, against about 110 W with a model loaded at full clocks
# (Lei et al., arXiv 2604.04745; 10.7 % of energy in their traces is drawn while nothing executes).
DEEP_IDLE: Final = 35 * MICRO
# NVML clock event reasons that hold a working GPU back: software power cap, hardware slowdown, software and hardware
# thermal slowdown, hardware power brake (nvml.h, nvmlClocksEventReason*). Idle and application clocks are none.
THROTTLED: Final = 0x04 | 0x08 | 0x20 | 0x40 | 0x80


class Samples:
    """Samples of GPUs: times in ns and columns of the same shape, NaN = unknown. Masks and integers are made once."""

    __slots__ = ("_known", "_micro", "columns", "ts_ns")

    def __init__(self, ts_ns: Ints, columns: Mapping[str, Floats]) -> None:
        self.ts_ns, self.columns = ts_ns, columns
        self._known: dict[str, Mask] = {}
        self._micro: dict[str, Ints] = {}

    def known(self, column: str) -> Mask:
        """Where a value was given and can be true."""
        mask = self._known.get(column)
        if mask is None:
            mask = self._known[column] = np.abs(self.columns[column]) <= PLAUSIBLE[column]  # false for NaN
        return mask

    def values(self, column: str) -> Floats:
        """The column with NaN where it is unknown or cannot be true."""
        return np.where(self.known(column), self.columns[column], np.nan)

    def micro(self, column: str) -> Ints:
        """The column in millionths of its unit, 0 where it is unknown."""
        whole = self._micro.get(column)
        if whole is None:
            filled = np.where(self.known(column), self.columns[column], 0.0)
            whole = self._micro[column] = np.rint(filled * MICRO).astype(np.int64)
        return whole

    @property
    def time_ms(self) -> Ints:
        return self.ts_ns // NS_PER_MS


class Term(NamedTuple):
    """One addend per sample; its products may wrap around 64 bits, the sums that features form of them do not."""

    name: str
    function: Callable[[Samples], Ints]


def _count(column: str) -> Term:
    return Term(f"n:{column}", lambda s: s.known(column).astype(np.int64))


def _sum(column: str) -> Term:
    return Term(column, lambda s: s.micro(column))


def _both(first: str, second: str) -> Callable[[Samples], Ints]:
    return lambda s: (s.known(first) & s.known(second)).astype(np.int64)


def _waste(s: Samples) -> Ints:
    """Millionths of a watt above deep idle while nothing ran."""
    idle = s.known("power_w") & s.known("util_ratio") & (s.micro("util_ratio") <= IDLE_UTIL)
    return np.where(idle, np.maximum(s.micro("power_w") - DEEP_IDLE, 0), 0)


def _throttled(s: Samples) -> Ints:
    """1 where a cap, heat or the power brake held the clock down."""
    reasons = np.where(s.known("throttle"), s.columns["throttle"], 0.0).astype(np.int64)
    held: Ints = ((reasons & THROTTLED) != 0).astype(np.int64)
    return held


def _time(s: Samples) -> Ints:
    return np.where(s.known("temp_c"), s.time_ms, 0)


def _time_squared(s: Samples) -> Ints:
    squared: Ints = np.where(s.known("temp_c"), s.time_ms * s.time_ms, 0)
    return squared


def _time_temp(s: Samples) -> Ints:
    product: Ints = s.time_ms * s.micro("temp_c")
    return product


TERMS: Final = (
    _count("power_w"),
    _sum("power_w"),
    _count("util_ratio"),
    _sum("util_ratio"),
    _count("sm_mhz"),
    _sum("sm_mhz"),
    _count("throttle"),
    Term("throttled", _throttled),
    Term("n:waste", _both("power_w", "util_ratio")),
    Term("waste", _waste),
    _count("temp_c"),
    _sum("temp_c"),
    Term("time", _time),
    Term("time_squared", _time_squared),
    Term("time_temp", _time_temp),
    Term("n:energy_mj+tokens", _both("energy_mj", "tokens")),
)
INDEX: Final = {term.name: index for index, term in enumerate(TERMS)}


def table(samples: Samples) -> Ints:
    """All terms of n samples, shape (n, terms)."""
    out = np.empty((len(samples.ts_ns), len(TERMS)), np.int64)
    for index, term in enumerate(TERMS):
        out[:, index] = term.function(samples)
    return out
