"""The window that every feature is computed on, and the one rule of what belongs to it. Arrays in, arrays out.

A window ends at one sample of one GPU, at time t. It holds the samples of the same GPU and the same boot of its node's
agent with a time in (t - 60 s, t], at most 64 of them, oldest to newest, in the order of their sequence numbers. The
newest stands last; what is missing on the left, and every value that was not known, is NaN.

Stream and offline computation build their windows here. Sums run over 64 contiguous float64 in one fixed order, so a
feature comes out equal bit by bit however many GPUs are computed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class Window:
    """Windows of n GPUs: times and columns of shape (n, 64), newest last.

    Masks, sums and counts are made once per column and only when a feature asks: this is the hot path of the stream.
    """

    __slots__ = ("_count", "_filled", "_known", "_total", "columns", "inside", "ts_ns")

    def __init__(self, ts_ns: Stamps, columns: Mapping[str, Floats]) -> None:
        newest = ts_ns[:, -1:]
        self.ts_ns = ts_ns
        self.columns = columns
        self.inside: Mask = (ts_ns > newest - SPAN_NS) & (ts_ns <= newest)
        self._known: dict[str, Mask] = {}
        self._filled: dict[str, Floats] = {}
        self._total: dict[str, Floats] = {}
        self._count: dict[int, Floats] = {}

    def known(self, column: str) -> Mask:
        """Where a sample of this column belongs to the window and was known."""
        mask = self._known.get(column)
        if mask is None:
            raw = self.columns[column]
            mask = self._known[column] = (raw == raw) & self.inside
        return mask

    def filled(self, column: str) -> Floats:
        """The column with 0 where it is not known; only for sums over known values."""
        if column not in self._filled:
            self._sum(column)
        return self._filled[column]

    def total(self, column: str) -> Floats:
        """Sum of the known samples, per GPU; 0 when there is none."""
        if column not in self._total:
            self._sum(column)
        return self._total[column]

    def _sum(self, column: str) -> None:
        values = np.where(self.inside, self.columns[column], 0.0)
        summed = total(values)
        if np.isnan(summed).any():  # some sample inside is unknown
            values = np.where(self.known(column), self.columns[column], 0.0)
            summed = total(values)
        else:  # the common case: every sample inside is known, and no mask of its own is needed
            self._known[column] = self.inside
        self._filled[column], self._total[column] = values, summed

    def count(self, column: str) -> Floats:
        """How many samples of this column are known, per GPU."""
        mask = self.known(column)
        found = self._count.get(id(mask))  # masks live as long as the window, so an id is never used twice
        if found is None:
            found = self._count[id(mask)] = count(mask)
        return found

    def newest(self, column: str) -> Floats:
        """The newest sample's value, NaN when it is unknown."""
        return np.ascontiguousarray(self.columns[column][:, -1])


def total(values: Floats) -> Floats:
    """Sum over each window, in the fixed order that makes results repeatable."""
    summed: Floats = np.add.reduce(np.ascontiguousarray(values), axis=1)
    return summed


def count(mask: Mask) -> Floats:
    """How many places of each window are true.

    Each row's 64 places become the bits of one word first: eight times less to read than the mask.
    """
    return np.bitwise_count(np.packbits(mask, axis=1).view(np.uint64)[:, 0]).astype(np.float64)


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, NaN where the denominator is 0: no sample, no value."""
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0.0)
    return out


def mean(window: Window, column: str) -> Floats:
    """Mean of the known samples, NaN when there is none."""
    return ratio(window.total(column), window.count(column))


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
