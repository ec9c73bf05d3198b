"""The power sensor: a boxcar mean over a short window, republished every period. It sees a quarter of the time.

On a pulsed load the one-second mean of such readings is wrong by tens of percent; the energy counter is not. Energy is
therefore accounted with the counter and never with these readings.
"""

from __future__ import annotations

from math import floor

import numpy as np
from numpy.typing import NDArray

from models.twin.params import SensorParams

Array = NDArray[np.float64]

_EDGE = 1e-9  # times are sums of floats: an edge this close has been reached


class BoxcarSensor:
    """Readings of all GPUs, made from their true energy counters at the window's two edges.

    The caller stops at every time that `edges` gives and calls `mark` there with the counters in joules.
    """

    def __init__(self, params: SensorParams, *, start_w: Array) -> None:
        """The reading before the first published one is `start_w`."""
        self._params = params
        self._open_j: Array | None = None
        self.reading_w: Array = start_w.copy()

    def edges(self, after_s: float, until_s: float) -> list[float]:
        """Window edges in (after_s, until_s] that matter for the reading at until_s and for the window open then."""
        window, period = self._params.window_s, self._params.period_s
        last = floor((until_s + _EDGE) / period) * period
        wanted = (last - window, last, last + period - window)
        return [min(edge, until_s) for edge in wanted if after_s + _EDGE < edge <= until_s + _EDGE]

    def mark(self, now_s: float, energy_j: Array) -> None:
        """Opens or closes a window if now_s is such an edge; any other time is ignored."""
        window, period = self._params.window_s, self._params.period_s
        phase = now_s - floor((now_s + _EDGE) / period) * period
        if abs(phase) <= 2 * _EDGE and self._open_j is not None:
            self.reading_w = (energy_j - self._open_j) / window
            self._open_j = None
        elif abs(phase - (period - window)) <= 2 * _EDGE:
            self._open_j = energy_j.copy()
