"""Features of heat."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.features.window import Floats, Window, ratio, total

LEAST_SAMPLES: Final = 10
S_PER_MIN: Final = 60.0


def temp_slope_c_per_min(window: Window) -> Floats:
    """Least-squares slope of temperature over time, degrees C per minute; NaN below 10 known samples.

    sum((x - mean x) * (y - mean y)) / sum((x - mean x)^2) over the known samples, x in minutes.
    """
    known, count = window.known("temp_c"), window.count("temp_c")
    minutes = np.where(known, window.age_s() / -S_PER_MIN, 0.0)
    temp = window.filled("temp_c")
    x = np.where(known, minutes - ratio(total(minutes), count)[:, None], 0.0)
    y = temp - ratio(total(temp), count)[:, None]
    slope = ratio(total(np.where(known, x * y, 0.0)), total(x * x))
    return np.where(count >= LEAST_SAMPLES, slope, np.nan)
