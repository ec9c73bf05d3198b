"""Features of heat."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.features.terms import MICRO, NS_PER_MS
from models.features.window import Floats, Windows, count, ratio

LEAST_SAMPLES: Final = 10
MS_PER_MIN: Final = 60_000.0


def temp_slope_c_per_min(window: Windows) -> Floats:
    """Least-squares slope of temperature over time, degrees C per minute; NaN below 10 known samples.

    (n sum(xy) - sum(x) sum(y)) / (n sum(x^2) - sum(x)^2) over the n known samples, x in whole ms from the newest. Sums
    of absolute times wrap around 64 bits; moved to the newest sample they fit, and are exact.
    """
    n, sum_y, sum_t = count(window, "temp_c"), window.sum("temp_c"), window.sum("time")
    newest = window.end_ns // NS_PER_MS
    sum_x = sum_t - n * newest
    sum_xx = window.sum("time_squared") - 2 * newest * sum_t + n * newest * newest
    sum_xy = window.sum("time_temp") - newest * sum_y
    slope = ratio(n * sum_xy - sum_x * sum_y, n * sum_xx - sum_x * sum_x)
    return np.where(n >= LEAST_SAMPLES, slope * (MS_PER_MIN / MICRO), np.nan)
