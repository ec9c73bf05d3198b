"""The window that every feature is computed on, and the one rule of what belongs to it. Arrays in, arrays out.

A window ends at one sample of one GPU, at time t. It holds the samples of the same GPU and the same boot of its node's
agent with a time in (t - 60 s, t], at most 64 of them, oldest to newest, in the order of their sequence numbers.

`Window` holds every sample and is the definition; models.features.running gives the same numbers, bit by bit, for the
cost of one sample, because sums are whole numbers (models.features.terms).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.features.terms import INDEX, MICRO, TERMS, Floats, Ints, Mask, Samples

__all__ = [
    "COLUMNS",
    "NEVER_NS",
    "SPAN_NS",
    "WIDTH",
    "Floats",
    "Ints",
    "Mask",
    "Window",
    "Windows",
    "before_ns",
    "count",
    "mean",
    "of_series",
    "ratio",
]
Places = NDArray[np.intp]
Number = TypeVar("Number", np.float64, np.int64)

WIDTH: Final = 64  # samples; 60 at 1 Hz and a few to spare
SPAN_NS: Final = 60_000_000_000
LEAST_NS: Final = -(2**63) + SPAN_NS
NEVER_NS: Final = 0  # the time of a place where no sample is: outside every window

# Quantities that features may ask for. `tokens` is this GPU's share of its engine's generated tokens.
COLUMNS: Final = ("power_w", "energy_mj", "sm_mhz", "util_ratio", "temp_c", "throttle", "tokens")


class Windows(Protocol):
    """n windows, as features see them: every result has length n."""

    @property
    def end_ns(self) -> Ints:
        """Time of the newest sample."""
        ...

    def sum(self, term: str) -> Ints:
        """Exact sum of a term of models.features.terms over the samples of the window."""
        ...

    def newest(self, column: str) -> Floats:
        """The newest sample's value, NaN when it is unknown."""
        ...

    def step(self, column: str) -> tuple[Floats, Ints]:
        """What a counter gained, and in how many ns, since the sample before that knew it.

        NaN when the newest sample does not know it, or no other in the window does.
        """
        ...

    def span(self, first: str, second: str) -> tuple[Floats, Floats, Ints]:
        """What two counters gained, and in how many ns, between the first and the last sample that know both.

        NaN when no sample knows both.
        """
        ...


class Window:
    """Windows of n GPUs with all their samples: times and columns of shape (n, 64), the newest last.

    What is missing on the left has the time NEVER_NS; what was not known is NaN.
    """

    def __init__(self, ts_ns: Ints, columns: Mapping[str, Floats]) -> None:
        newest = ts_ns[:, -1:]
        self.ts_ns = ts_ns
        self.columns = columns
        self.inside: Mask = (ts_ns > before_ns(newest)) & (ts_ns <= newest)
        self._samples = Samples(ts_ns, columns)

    @property
    def end_ns(self) -> Ints:
        return np.ascontiguousarray(self.ts_ns[:, -1])

    def known(self, column: str) -> Mask:
        """Where a sample belongs to the window and knew this column."""
        return self._samples.known(column) & self.inside

    def sum(self, term: str) -> Ints:
        addends = TERMS[INDEX[term]].function(self._samples)
        summed: Ints = np.where(self.inside, addends, 0).sum(axis=1)
        return summed

    def newest(self, column: str) -> Floats:
        return self._samples.values(column)[:, -1]

    def step(self, column: str) -> tuple[Floats, Ints]:
        known, values = self.known(column), self._samples.values(column)
        rows = np.arange(len(known))
        before = _last(known[:, :-1], WIDTH - 1)
        usable = known[:, -1] & known[rows, before]
        gained = np.where(usable, values[:, -1] - values[rows, before], np.nan)
        return gained, self.ts_ns[:, -1] - self.ts_ns[rows, before]

    def span(self, first: str, second: str) -> tuple[Floats, Floats, Ints]:
        both = self.known(first) & self.known(second)
        rows = np.arange(len(both))
        begin, end = np.argmax(both, axis=1), _last(both, WIDTH)
        one, other = (self._gained(name, both[rows, end], begin, end) for name in (first, second))
        return one, other, self.ts_ns[rows, end] - self.ts_ns[rows, begin]

    def _gained(self, column: str, usable: Mask, begin: Places, end: Places) -> Floats:
        rows, values = np.arange(len(usable)), self._samples.values(column)
        return np.where(usable, values[rows, end] - values[rows, begin], np.nan)


def before_ns(end_ns: Ints) -> Ints:
    """The last moment before the window that ends then; a broken clock near the least 64 bits must not wrap around."""
    return np.maximum(end_ns, LEAST_NS) - SPAN_NS


def _last(known: Mask, width: int) -> Places:
    """Index of the last known place of each row; the last place when none is known."""
    from_the_right: Places = np.argmax(known[:, ::-1], axis=1)
    return (width - 1) - from_the_right


def count(window: Windows, column: str) -> Ints:
    """How many samples of this column are known, per GPU."""
    return window.sum(f"n:{column}")


def ratio(numerator: Floats | Ints, denominator: Floats | Ints) -> Floats:
    """numerator / denominator, NaN where the denominator is 0: no sample, no value."""
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def mean(window: Windows, column: str) -> Floats:
    """Mean of the known samples in the column's unit, NaN when there is none."""
    return ratio(window.sum(column), count(window, column) * MICRO)


def of_series(ts_ns: Ints, columns: Mapping[str, Floats]) -> Window:
    """One window per sample of a whole series: one GPU, one boot, in the order of sequence numbers.

    `ts_ns` and each column have length m; missing columns of COLUMNS are unknown. Result: windows of shape (m, 64).
    """
    stamps = _sliding(ts_ns.astype(np.int64, copy=False), NEVER_NS)
    unknown = np.full(len(ts_ns), np.nan)
    return Window(stamps, {name: _sliding(columns.get(name, unknown), np.nan) for name in COLUMNS})


def _sliding(values: NDArray[Number], pad: float) -> NDArray[Number]:
    padded = np.concatenate((np.full(WIDTH - 1, pad, dtype=values.dtype), values))
    return np.lib.stride_tricks.sliding_window_view(padded, WIDTH)
