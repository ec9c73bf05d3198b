"""Windows that move: state over many GPUs to which samples are added, each answered with its window's exact sums.

The same numbers as models.features.window.Window, bit by bit, for the cost of one sample instead of 64: a window's
sums are those of the window before, plus the sample that came, minus the samples that left. Only where a clock went
back within the window, or a counter is not known at its ends, the window's samples are looked at again.

A row is one GPU. Its samples are numbered from 1; the last 128 lie in a ring, seven values and the time in 64 bytes:
the state of many GPUs does not stay in the processor's cache, so what counts is how many of its lines a sample touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.features.terms import INDEX, PLAUSIBLE, TERMS, Floats, Ints, Mask, Samples, table
from models.features.window import COLUMNS, NEVER_NS, WIDTH, Window, before_ns

Rows = NDArray[np.intp]
RING: Final = 2 * WIDTH
MOST_AT_ONCE: Final = RING - WIDTH  # samples of one row in one call: the oldest window of the call is still in the ring
FIRST_ROWS: Final = 256
LONG_AGO: Final = -RING  # the number of a sample that no window holds
_HALVINGS: Final = WIDTH.bit_length()
_TIME: Final = len(COLUMNS)
_LINE: Final = _TIME + 1  # floats of one sample
_LINE_BYTES: Final = 64


class Running:
    """State of GPUs by row; rows are taken with `row()` and given back with `release()`."""

    def __init__(self) -> None:
        self._used = 0
        self._free: list[int] = []
        self._released: list[int] = []  # free after the next samples: until then somebody may still add to them
        self._ring = _aligned(FIRST_ROWS)
        self._sums = np.zeros((FIRST_ROWS, len(TERMS)), np.int64)
        self._newest = np.zeros(FIRST_ROWS, np.int64)  # number of the newest sample
        self._start = np.ones(FIRST_ROWS, np.int64)  # number of the first sample that the sums hold
        self._back = np.full(FIRST_ROWS, LONG_AGO, np.int64)  # number of the last sample older than the one before it

    def row(self) -> int:
        """A row without samples."""
        if self._free:
            row = self._free.pop()
            self.clear(np.array([row], np.intp))
            return row
        if self._used == len(self._ring):
            self._grow()
        self._used += 1
        return self._used - 1

    def release(self, rows: Iterable[int]) -> None:
        """Gives rows back; they serve again after the next `append`, which may still add to them."""
        self._released += rows

    @property
    def held(self) -> int:
        """Rows in use."""
        return self._used - len(self._free) - len(self._released)

    def clear(self, rows: Rows) -> None:
        """Forgets the samples of these rows."""
        self._sums[rows], self._newest[rows], self._start[rows], self._back[rows] = 0, 0, 1, LONG_AGO

    def append(self, rows: Rows, ts_ns: Ints, columns: Mapping[str, Floats]) -> RunningWindows:
        """Adds one sample per entry of `rows`, in order; a row may stand there MOST_AT_ONCE times.

        `ts_ns` and each column have the length of `rows`; all COLUMNS must be there, NaN = unknown. Use what is
        returned before the next call: it looks into this state.
        """
        order = np.argsort(rows, kind="stable")
        run, stamps = _Runs(rows[order]), ts_ns[order]
        number = self._newest[run.rows] + run.turn + 1
        self._ring[run.rows, number % RING] = _lines(ts_ns, columns)[order]
        start = run.highest(self._starts(run, number, stamps), self._start)
        samples = Samples(ts_ns, columns)
        sums = self._sums[run.rows] + run.cumulative(table(samples)[order]) - self._left(run, start)
        back = run.highest(np.where(self._went_back(run, stamps), number, LONG_AGO), self._back)
        last = run.last
        at = run.rows[last]
        self._sums[at], self._newest[at], self._start[at] = sums[last], number[last], start[last]
        self._back[at] = back[last]
        in_order = np.empty_like(order)
        in_order[order] = np.arange(len(order))
        self._free += self._released
        self._released = []
        return RunningWindows(
            self,
            rows,
            samples,
            number=number[in_order],
            start=start[in_order],
            sums=sums[in_order],
            look_again=(back >= number - (WIDTH - 2))[in_order],
        )

    def windows(self, rows: Rows, number: Ints) -> Window:
        """All samples of the windows that end at these numbers."""
        numbers = number[:, None] - np.arange(WIDTH - 1, -1, -1)
        lines = self._ring[rows[:, None], numbers % RING]
        missing = numbers < 1
        lines[missing] = np.nan
        ts = np.where(missing, NEVER_NS, lines.view(np.int64)[:, :, _TIME])
        return Window(ts, {name: lines[:, :, index] for index, name in enumerate(COLUMNS)})

    def at(self, rows: Rows, number: Ints, column: str) -> Floats:
        """One column of samples by their numbers, NaN where it is unknown or cannot be true."""
        values: Floats = self._ring[rows, number % RING, COLUMNS.index(column)]
        return np.where(np.abs(values) <= PLAUSIBLE[column], values, np.nan)

    def time(self, rows: Rows, number: Ints) -> Ints:
        """Times of samples by their numbers."""
        stamps: Ints = self._ring.view(np.int64)[rows, number % RING, _TIME]
        return stamps

    def _starts(self, run: _Runs, number: Ints, ts_ns: Ints) -> Ints:
        """The first sample younger than 60 s: mostly one further than for the sample before, else by halving."""
        oldest_ns = before_ns(ts_ns)
        low = np.maximum(self._start[run.rows], number - (WIDTH - 1))
        guess: Ints = np.clip(self._start[run.rows] + run.turn + 1, low, number)
        wrong: Mask = (self.time(run.rows, guess) <= oldest_ns) | (
            (guess > low) & (self.time(run.rows, guess - 1) > oldest_ns)
        )
        again = np.flatnonzero(wrong)
        if len(again):
            guess[again] = self._halve(run.rows[again], low[again], number[again], oldest_ns[again])
        return guess

    def _halve(self, rows: Rows, low: Ints, high: Ints, oldest_ns: Ints) -> Ints:
        for _ in range(_HALVINGS):
            middle = (low + high) >> 1
            young = self.time(rows, middle) > oldest_ns
            high = np.where(young, middle, high)
            low = np.where(young, low, np.minimum(middle + 1, high))
        return high

    def _left(self, run: _Runs, start: Ints) -> Ints:
        """Running sum of the terms of the samples that have left the window, for each sample of the runs."""
        before = run.shifted(start, self._start)
        gone = start - before
        total = int(gone.sum())
        first = np.repeat(np.cumsum(gone) - gone, gone)
        number = np.repeat(before, gone) + (np.arange(total) - first)
        rows = np.repeat(run.rows, gone)
        lines = self._ring[rows, number % RING]
        columns = {name: lines[:, index] for index, name in enumerate(COLUMNS)}
        samples = Samples(lines.view(np.int64)[:, _TIME], columns)
        ends = np.concatenate((np.zeros((1, len(TERMS)), np.int64), np.cumsum(table(samples), axis=0)))
        upto = np.cumsum(gone)
        left: Ints = ends[upto] - ends[(upto - gone)[run.first]][run.segment]
        return left

    def _went_back(self, run: _Runs, ts_ns: Ints) -> Mask:
        """Where a sample is older than the one before it in its row."""
        previous = self._newest[run.rows] + run.turn
        older: Mask = (previous > 0) & (ts_ns < self.time(run.rows, previous))
        return older

    def _grow(self) -> None:
        more = len(self._ring)
        ring = _aligned(2 * more)
        ring[:more] = self._ring
        self._ring = ring
        self._sums = np.concatenate((self._sums, np.zeros((more, len(TERMS)), np.int64)))
        self._newest = np.concatenate((self._newest, np.zeros(more, np.int64)))
        self._start = np.concatenate((self._start, np.ones(more, np.int64)))
        self._back = np.concatenate((self._back, np.full(more, LONG_AGO, np.int64)))


def _aligned(rows: int) -> Floats:
    """An empty ring in which no sample lies across two cache lines."""
    raw = np.full(rows * RING * _LINE + _LINE, np.nan)
    skip = -raw.ctypes.data % _LINE_BYTES // raw.itemsize
    return raw[skip : skip + rows * RING * _LINE].reshape(rows, RING, _LINE)


def _lines(ts_ns: Ints, columns: Mapping[str, Floats]) -> Floats:
    """Samples as they lie in the ring; the time keeps its 64 bits."""
    out = np.empty((len(ts_ns), _LINE))
    for index, name in enumerate(COLUMNS):
        out[:, index] = columns[name]
    out.view(np.int64)[:, _TIME] = ts_ns
    return out


class _Runs:
    """Entries sorted by row: runs of equal rows, and sums and maxima that begin anew with each run."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        begins = np.ones(len(rows), np.bool_)
        begins[1:] = rows[1:] != rows[:-1]
        self.first = np.flatnonzero(begins)
        self.last = np.append(self.first[1:], len(rows)) - 1 if len(rows) else self.first
        self.segment = np.cumsum(begins) - 1
        self.turn: Ints = np.arange(len(rows)) - self.first[self.segment]

    def cumulative(self, values: Ints) -> Ints:
        """Running sum within each run; whole numbers wrap, differences are exact."""
        running: Ints = np.cumsum(values, axis=0)
        before_run: Ints = (running[self.first] - values[self.first])[self.segment]
        return running - before_run

    def highest(self, values: Ints, initial: Ints) -> Ints:
        """Running maximum within each run, from the row's initial value on. Values are above LONG_AGO - 1."""
        values = np.maximum(values, initial[self.rows])
        if len(self.first) == len(values):
            return values
        spread = int(values.max()) - LONG_AGO + 1
        raised: Ints = np.maximum.accumulate(values + self.segment * spread)
        return raised - self.segment * spread

    def shifted(self, values: Ints, initial: Ints) -> Ints:
        """The value of the entry before in the run; the row's initial value at its first."""
        out = np.empty_like(values)
        out[1:] = values[:-1]
        out[self.first] = initial[self.rows[self.first]]
        return out


class RunningWindows:
    """See models.features.window.Windows: one window per sample that was added."""

    def __init__(
        self, state: Running, rows: Rows, samples: Samples, *, number: Ints, start: Ints, sums: Ints, look_again: Mask
    ) -> None:
        self._state, self._rows, self._samples = state, rows, samples
        self._number, self._start, self._sums = number, start, sums
        self._again: Rows = np.flatnonzero(look_again)
        if len(self._again):
            whole = state.windows(rows[self._again], number[self._again])
            for term, index in INDEX.items():
                self._sums[self._again, index] = whole.sum(term)

    @property
    def end_ns(self) -> Ints:
        return self._samples.ts_ns

    def sum(self, term: str) -> Ints:
        return self._sums[:, INDEX[term]]

    def newest(self, column: str) -> Floats:
        return self._samples.values(column)

    def step(self, column: str) -> tuple[Floats, Ints]:
        before = self._number - 1
        previous = np.where(before >= self._start, self._state.at(self._rows, before, column), np.nan)
        gained = self.newest(column) - previous
        elapsed = self.end_ns - self._state.time(self._rows, before)
        unsure = np.isnan(previous) & self._samples.known(column) & (before >= self._start)
        unsure[self._again] = True
        again = np.flatnonzero(unsure)
        if len(again):
            gained[again], elapsed[again] = self._whole(again).step(column)
        return gained, elapsed

    def span(self, first: str, second: str) -> tuple[Floats, Floats, Ints]:
        state, rows, start = self._state, self._rows, self._start
        gained = [self.newest(name) - state.at(rows, start, name) for name in (first, second)]
        elapsed = self.end_ns - state.time(rows, start)
        ends_unknown = np.isnan(gained[0]) | np.isnan(gained[1])
        unsure = ends_unknown & (self.sum(f"n:{first}+{second}") > 0)
        unsure[self._again] = True
        for one in gained:
            one[ends_unknown] = np.nan
        again = np.flatnonzero(unsure)
        if len(again):
            gained[0][again], gained[1][again], elapsed[again] = self._whole(again).span(first, second)
        return gained[0], gained[1], elapsed

    def _whole(self, again: Rows) -> Window:
        return self._state.windows(self._rows[again], self._number[again])
