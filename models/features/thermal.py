"""Features of heat."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.features.window import Floats, Window, ratio, total

LEAST_SAMPLES: Final = 10
MIN_PER_NS: Final = 1 / 60e9


def temp_slope_c_per_min(window: Window) -> Floats:
    """Least-squares slope of temperature over time, degrees C per minute; NaN below 10 known samples.

    (n sum(xy) - sum(x) sum(y)) / (n sum(x^2) - sum(x)^2) over the n known samples, x in minutes before the newest.
    """
    temp, sum_y, count = window.filled("temp_c"), window.total("temp_c"), window.count("temp_c")
    minutes: Floats = np.multiply(window.ts_ns - window.ts_ns[:, -1:], MIN_PER_NS, dtype=np.float64)
    minutes *= window.known("temp_c")
    sum_x = total(minutes)
    spread = count * total(minutes * minutes) - sum_x * sum_x
    slope = ratio(count * total(minutes * temp) - sum_x * sum_y, spread)
    return np.where(count >= LEAST_SAMPLES, slope, np.nan)
