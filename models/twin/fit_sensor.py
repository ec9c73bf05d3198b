"""A power sensor beside a trusted meter: when it publishes, over which window it looks, and what is left unexplained.

Also the other way round, for tests of the estimate: readings of a sensor with a known window on any power signal.
Values in, values out; times in seconds on one clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST_UPDATES: Final = 12
_ROUGH: Final = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0])  # periods


@dataclass(frozen=True, slots=True)
class Meter:
    """A power signal as its running integral, so that the mean over any window is one subtraction."""

    time_s: Array
    joules: Array

    def mean_w(self, start_s: Array, end_s: Array) -> Array:
        spent = np.interp(end_s, self.time_s, self.joules) - np.interp(start_s, self.time_s, self.joules)
        return np.asarray(spent / (end_s - start_s), dtype=np.float64)


def meter(time_s: Array, mean_w: Array) -> Meter:
    """From means that each end at their time (the first one starts as long before it as the second after)."""
    steps = np.diff(time_s, prepend=2 * time_s[0] - time_s[1])
    times = np.concatenate([[time_s[0] - steps[0]], time_s])
    return Meter(times, np.concatenate([[0.0], np.cumsum(mean_w * steps)]))


@dataclass(frozen=True, slots=True)
class Updates:
    """Published values and when."""

    time_s: Array
    watts: Array
    period_s: float


@dataclass(frozen=True, slots=True)
class SensorFit:
    """reading = gain * mean(meter over window_s, ended lag_s before publication) + offset_w."""

    window_s: float
    lag_s: float
    period_s: float
    gain: float
    offset_w: float
    rmse_w: float  # of the updates it was fitted to
    judged_rmse_w: float  # of the others
    judged: int  # how many those are


def readings(signal: Meter, *, window_s: float, period_s: float, lag_s: float, ask_s: float) -> tuple[Array, Array]:
    """What a reader that asks every ask_s sees of such a sensor."""
    first = signal.time_s[0] + window_s + lag_s
    asked = np.arange(first + period_s, signal.time_s[-1], ask_s)
    published = first + np.floor((asked - first) / period_s) * period_s
    return asked, signal.mean_w(published - lag_s - window_s, published - lag_s)


def updates(time_s: Array, watts: Array) -> Updates:
    """The beat behind readings that were asked faster than they change: a change is seen late, never early."""
    changed = np.flatnonzero(np.diff(watts) != 0.0) + 1
    if len(changed) < LEAST_UPDATES:
        raise ValueError(f"{len(changed)} changes of the reading are too few to find its period; record at least 12")
    seen, before = time_s[changed], time_s[changed - 1]
    gaps = np.diff(seen)
    rough = float(np.median(gaps[gaps > 0.5 * np.median(gaps)]))
    best = (np.inf, rough, seen[0])
    for period in rough * np.linspace(0.94, 1.06, 601):
        beats = np.round((seen - seen[0]) / period) * period
        late, early = seen - beats, before - beats
        start = 0.5 * (np.percentile(early, 95) + np.percentile(late, 5))
        off = float(np.minimum(np.maximum(early - start, 0.0) + np.maximum(start - late, 0.0), rough).sum())
        if off < best[0]:
            best = (off, float(period), float(start))
    _, period, start = best
    return Updates(start + np.round((seen - seen[0]) / period) * period, watts[changed], period)


def fit(seen: Updates, signal: Meter) -> SensorFit:
    """Window and lag from every other update; the rest judge them. A coarse grid first, then a fine one around it."""
    period = seen.period_s
    found = _search(seen, signal, period * _ROUGH, period * np.arange(-0.15, 0.61, 0.025))
    windows, lags = found.window_s * np.linspace(0.7, 1.4, 36), found.lag_s + period * np.linspace(-0.03, 0.03, 13)
    return _search(seen, signal, windows, lags)


def _search(seen: Updates, signal: Meter, windows: Array, lags: Array) -> SensorFit:
    best: SensorFit | None = None
    longest, furthest = float(windows.max()), float(np.abs(lags).max())
    inside = seen.time_s - longest - furthest > signal.time_s[0]
    inside &= seen.time_s + furthest < signal.time_s[-1]
    if inside.sum() < LEAST_UPDATES:
        longest = float(np.median(windows))
        windows = windows[windows <= longest]
        inside = (seen.time_s - longest - furthest > signal.time_s[0]) & (seen.time_s + furthest < signal.time_s[-1])
    if inside.sum() < LEAST_UPDATES:
        raise ValueError(f"only {inside.sum()} updates lie beside the meter; record at least {LEAST_UPDATES}")
    time_s, watts = seen.time_s[inside], seen.watts[inside]
    fitted = np.arange(len(time_s)) % 2 == 0
    for window in windows.tolist():
        for lag in lags.tolist():
            one = _line(time_s - lag, watts, signal, window=window, fitted=fitted)
            if best is None or one[2] < best.rmse_w:
                best = SensorFit(window, lag, seen.period_s, *one)
    assert best is not None
    return best


def _line(
    end_s: Array, watts: Array, signal: Meter, *, window: float, fitted: Bools
) -> tuple[float, float, float, float, int]:
    mean = signal.mean_w(end_s - window, end_s)
    design = np.stack([mean, np.ones_like(mean)], axis=1)
    line = np.linalg.lstsq(design[fitted], watts[fitted], rcond=None)[0]
    rest = design @ line - watts
    return float(line[0]), float(line[1]), _rms(rest[fitted]), _rms(rest[~fitted]), int((~fitted).sum())


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))
