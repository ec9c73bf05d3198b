"""A bound in percent of B0 follows the load: B0's p99 of an hour over that hour's rate, read off a tuning day's B0 run.

A hold-out would say how late default clocks are at today's load; a run without B0 cannot ask one. It must not look at
B0 of the days that it is judged on.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
HOURS: Final = 24  # of load that a bound on a whole day looks back on
NARROWEST: Final = 0.5  # a fleet that never shrinks answers a quiet day's requests in 0.6 of a busy day's time
WIDEST: Final = 1.25
LEAST_RATE: Final = 0.2  # requests/s below which an hour's p99 says nothing


class Fit(NamedTuple):
    """p99 of an hour = `base_s` + `square_s` x rate**2; `mean_s`: its mean over the reference's requests."""

    base_s: float
    square_s: float
    mean_s: float

    def of(self, rates: F8) -> float:
        """Mean over the requests of hours at these rates, as a factor of the reference's; 1 where nothing came."""
        whole = float(rates.sum())
        if not whole > 0.0 or not self.mean_s > 0.0:
            return 1.0
        mean_s = float((rates * (self.base_s + self.square_s * rates**2)).sum()) / whole
        return min(WIDEST, max(NARROWEST, mean_s / self.mean_s))


class Follow(NamedTuple):
    """First token and whole answer."""

    ttft: Fit
    e2e: Fit


def fit(rates: F8, p99_s: F8) -> Fit:
    """Least squares by hours, each weighted by its requests; a p99 that falls with the rate counts as level."""
    known = np.isfinite(p99_s) & (rates > LEAST_RATE)
    rate, p99 = rates[known], p99_s[known]
    if len(rate) < 3:
        level = float(np.average(p99, weights=rate)) if len(rate) else 0.0
        return Fit(level, 0.0, level)
    weight = np.sqrt(rate)
    columns = np.stack([np.ones_like(rate), rate**2], axis=1) * weight[:, None]
    (base, square), *_ = np.linalg.lstsq(columns, p99 * weight, rcond=None)
    if square < 0.0 or base < 0.0:
        base, square = float(np.average(p99, weights=rate)), 0.0
    mean = float((rate * (base + square * rate**2)).sum() / rate.sum())
    return Fit(float(base), float(square), mean)


class LoadMemory:
    """Hourly mean rates of the last day, the present hour included as far as it has come."""

    def __init__(self) -> None:
        self._hours: deque[float] = deque(maxlen=HOURS)
        self._hour: int | None = None
        self._sum, self._count = 0.0, 0

    def add(self, now_s: float, rate: float) -> None:
        hour = int(now_s // 3600.0)
        if self._hour is not None and hour != self._hour:
            self._hours.append(self._sum / max(self._count, 1))
            self._sum, self._count = 0.0, 0
        self._hour = hour
        self._sum, self._count = self._sum + rate, self._count + 1

    def rates(self) -> F8:
        now = [self._sum / self._count] if self._count else []
        return np.array([*self._hours, *now])[-HOURS:]
