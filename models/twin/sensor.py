"""The power sensor: a boxcar mean over a short window, republished every period. It sees a quarter of the time.

On a pulsed load the one-second mean of such readings is wrong by tens of percent; the energy counter is not. Energy is
therefore accounted with the counter and never with these readings.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from models.twin.params import SensorParams

Array = NDArray[np.float64]

_EDGE = 1e-9  # times are sums of floats: an edge this close has been reached


class BoxcarSensor:
    """Readings of all GPUs, made from their true energy counters at the window's two edges.

    The caller stops at every time that `edges` gives and calls `mark` there with the counters in joules. A window may
    be longer than the period (1 s every 100 ms on an RTX 3090), and may have ended lag_s before it is published.
    """

    def __init__(self, params: SensorParams, *, start_w: Array) -> None:
        """The reading before the first published one is `start_w`."""
        if not (params.window_s > 0.0 and params.period_s > 0.0 and params.lag_s >= 0.0):
            raise ValueError(
                f"a sensor with window {params.window_s:g} s, period {params.period_s:g} s and lag {params.lag_s:g} s "
                "cannot be simulated; window and period must be above 0 and the lag not below"
            )
        self._params = params
        self._marks: dict[int, Array] = {}  # microseconds of an edge -> counters there
        self.reading_w: Array = start_w.copy()

    def edges(self, after_s: float, until_s: float) -> list[float]:
        """Window edges in (after_s, until_s] that matter for the reading at until_s and for the windows open then."""
        last = self._last(until_s)
        wanted = {edge for number in range(last, last + self._open() + 1) for edge in self._window(number)}
        wanted.add(last * self._params.period_s)  # the moment of publication, where it is no edge itself
        return sorted(min(edge, until_s) for edge in wanted if after_s + _EDGE < edge <= until_s + _EDGE)

    def mark(self, now_s: float, energy_j: Array) -> None:
        """Keeps the counters if now_s is such an edge, and publishes what is due; any other time is ignored."""
        last = self._last(now_s)
        for number in range(last, last + self._open() + 1):
            if any(abs(edge - now_s) <= 2 * _EDGE for edge in self._window(number)):
                self._marks[_key(now_s)] = energy_j.copy()
                break
        start, end = self._window(last)
        first, final = self._marks.get(_key(start)), self._marks.get(_key(end))
        if first is not None and final is not None:
            self.reading_w = (final - first) / self._params.window_s
        for key in [key for key in self._marks if key < _key(start)]:
            del self._marks[key]

    def _last(self, now_s: float) -> int:
        return floor((now_s + _EDGE) / self._params.period_s)

    def _open(self) -> int:
        """Later publications whose windows may have begun already."""
        return ceil((self._params.window_s + self._params.lag_s) / self._params.period_s - 1e-9)

    def _window(self, number: int) -> tuple[float, float]:
        end = number * self._params.period_s - self._params.lag_s
        return end - self._params.window_s, end


def _key(time_s: float) -> int:
    return round(time_s * 1e6)
