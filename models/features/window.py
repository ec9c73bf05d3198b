"""The window that every feature is computed on, and the one rule of what belongs to it. Arrays in, arrays out.

A window ends at one sample of one GPU, at time t. It holds the samples of the same GPU and the same boot of its node's
agent with a time in (t - 60 s, t], at most 64 of them, oldest to newest, in the order of their sequence numbers. The
newest stands last; what is missing on the left, and every value that was not known, is NaN.

Stream and offline computation build their windows here. Sums run over 64 contiguous float64 in one fixed order, so a
feature comes out equal bit by bit however many GPUs are computed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Stamps = NDArray[np.int64]
Mask = NDArray[np.bool_]
Number = TypeVar("Number", np.float64, np.int64)

WIDTH: Final = 64  # samples; 60 at 1 Hz and a few to spare
SPAN_NS: Final = 60_000_000_000
NEVER_NS: Final = 0  # the time of a place where no sample is: outside every window

# Quantities that features may ask for. `tokens` is this GPU's share of its engine's generated tokens.
COLUMNS: Final = ("power_w", "energy_mj", "sm_mhz", "util_ratio", "temp_c", "throttle", "tokens")


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Windows of n GPUs: times and columns of shape (n, 64), newest last. Masks are made once per column."""

    ts_ns: Stamps
    columns: Mapping[str, Floats]
    inside: Mask = field(init=False)
    _known: dict[str, Mask] = field(init=False, default_factory=dict, repr=False)
    _filled: dict[str, Floats] = field(init=False, default_factory=dict, repr=False)
    _count: dict[str, Floats] = field(init=False, default_factory=dict, repr=False)
    _age_s: Floats | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        newest = self.ts_ns[:, -1:]
        object.__setattr__(self, "inside", (self.ts_ns > newest - SPAN_NS) & (self.ts_ns <= newest))

    def known(self, column: str) -> Mask:
        """Where a sample of this column belongs to the window and was known."""
        mask = self._known.get(column)
        if mask is None:
            raw = self.columns[column]
            mask = self._known[column] = (raw == raw) & self.inside
        return mask

    def filled(self, column: str) -> Floats:
        """The column with 0 where it is not known; only for sums over known values."""
        values = self._filled.get(column)
        if values is None:
            values = self._filled[column] = np.where(self.known(column), self.columns[column], 0.0)
        return values

    def count(self, column: str) -> Floats:
        """How many samples of this column are known, per GPU."""
        found = self._count.get(column)
        if found is None:
            found = self._count[column] = np.count_nonzero(self.known(column), axis=1).astype(np.float64)
        return found

    def age_s(self) -> Floats:
        """Seconds before the newest sample, >= 0 inside the window."""
        if self._age_s is None:
            object.__setattr__(self, "_age_s", (self.ts_ns[:, -1:] - self.ts_ns) / 1e9)
        assert self._age_s is not None
        return self._age_s

    def newest(self, column: str) -> Floats:
        """The newest sample's value, NaN when it is unknown."""
        return np.ascontiguousarray(self.columns[column][:, -1])


def total(values: Floats) -> Floats:
    """Sum over each window, in the fixed order that makes results repeatable."""
    summed: Floats = np.add.reduce(np.ascontiguousarray(values), axis=1)
    return summed


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, NaN where the denominator is 0: no sample, no value."""
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0.0)
    return out


def mean(window: Window, column: str) -> Floats:
    """Mean of the known samples, NaN when there is none."""
    return ratio(total(window.filled(column)), window.count(column))


def of_series(ts_ns: Stamps, columns: Mapping[str, Floats]) -> Window:
    """One window per sample of a whole series: one GPU, one boot, in the order of sequence numbers.

    `ts_ns` and each column have length m; missing columns of COLUMNS are unknown. Result: windows of shape (m, 64).
    """
    stamps = _sliding(ts_ns.astype(np.int64, copy=False), NEVER_NS)
    unknown = np.full(len(ts_ns), np.nan)
    return Window(stamps, {name: _sliding(columns.get(name, unknown), np.nan) for name in COLUMNS})


def _sliding(values: NDArray[Number], pad: float) -> NDArray[Number]:
    padded = np.concatenate((np.full(WIDTH - 1, pad, dtype=values.dtype), values))
    return np.lib.stride_tricks.sliding_window_view(padded, WIDTH)
