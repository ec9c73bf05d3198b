"""A clock curve of one serving workload: clock to speed and watts, from a handful of points under caps or locks.

The twin's form: speed from the power mean of a part that follows the clock and one that does not, watts from a
constant, a part that follows the speed (memory traffic) and one that follows g(x).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.twin.device import knee_factor

Array = NDArray[np.float64]

# logit clock share, log sharpness, log watts: constant, with the speed, with g; logit v_min, logit x_knee
_START: Final = np.array([-4.0, np.log(6.0), np.log(100.0), np.log(100.0), np.log(350.0), 1.0, 0.8])
_SIGMA: Final = np.array([3.0, 0.4, 0.4, 0.7, 0.6, 0.4, 0.5])
_POINT_SIGMA: Final = 0.01


@dataclass(frozen=True, slots=True)
class CurvePoints:
    """x = clock / highest clock; watts are NaN where a limit was not reached and nothing was measured."""

    x: Array
    speed: Array
    watts: Array


def inner_errors(points: CurvePoints) -> tuple[Array, Array]:
    """Relative errors in speed and in watts of each inner point, predicted from all the others.

    The outermost known points of each quantity are not judged: that would be extrapolation.
    """
    speed, power = [], []
    known = np.flatnonzero(np.isfinite(points.watts))
    for row in range(1, len(points.x) - 1):
        rest = np.arange(len(points.x)) != row
        guess = _model(_fit(points, rest), points.x[[row]], float(np.max(points.speed)))
        speed.append(guess[0][0] / points.speed[row] - 1.0)
        if known[0] < row < known[-1]:
            power.append(guess[1][0] / points.watts[row] - 1.0)
    return np.array(speed), np.array(power)


def _fit(points: CurvePoints, rows: NDArray[np.bool_]) -> Array:
    from scipy.optimize import least_squares

    x, speed, watts = points.x[rows], points.speed[rows], points.watts[rows]
    scale = float(np.max(points.speed))
    start, sigma = np.append(_START, 0.0), np.append(_SIGMA, 9.0)

    def residuals(values: Array) -> Array:
        guess_speed, guess_w = _model(values, x, scale)
        power = np.nan_to_num(np.log(guess_w / watts) / _POINT_SIGMA)
        return np.concatenate([np.log(guess_speed / speed) / _POINT_SIGMA, power, (values - start) / sigma])

    return np.asarray(least_squares(residuals, start).x)


def _model(values: Array, x: Array, scale: float) -> tuple[Array, Array]:
    share, v_min, x_knee = (1.0 / (1.0 + np.exp(-value)) for value in values[[0, 5, 6]])
    sharpness, rest_w, moved_w, clock_w = np.exp(values[1:5])
    relative = ((1.0 - share) + share * x**-sharpness) ** (-1.0 / sharpness)
    watts = rest_w + moved_w * relative + clock_w * knee_factor(x, v_min=float(v_min), x_knee=float(x_knee))
    return scale * np.exp(values[7]) * relative, watts
