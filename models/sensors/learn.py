"""A sensor's model from a recording of it: period from its readings, window, lag and calibration from a reference."""

from __future__ import annotations

import numpy as np

from models.sensors import boxcar, publishing
from models.sensors.boxcar import Reference
from models.sensors.types import Calibration, Floats, SensorModel

UTIL_STEPS = 400  # grid of the search for the busy ratio's period
UTIL_AGREEMENT = 0.7  # below, the changes follow no beat


def learn(
    time_s: Floats,
    power_w: Floats,
    *,
    busy_ratio: Floats | None = None,
    meter: Reference | None = None,
    edges: Reference | None = None,
    origin: str = "this recording",
) -> SensorModel:
    """What the data can tell: readings alone give the period, load edges also window and lag, a meter all.

    Args:
        time_s, power_w: readings as asked.
        busy_ratio: the device's busy ratio at the same times.
        meter: a trusted, faster power signal on the same clock.
        edges: the load as a signal of 0 and 1, from `boxcar.from_edges`.
        origin: named in the calibration.
    """
    updates = publishing.find(time_s, power_w)
    why = {"period": updates.why}
    period_s = updates.period_s
    scale_s = period_s or updates.rough_s
    reference = meter if meter is not None else edges
    found = None
    if reference is not None and scale_s is not None:
        gains = boxcar.PLAUSIBLE if meter is not None else (0.0, float("inf"))  # a load of 0 and 1 has no watts
        found = boxcar.fit(updates.time_s, updates.value, reference, period_s=scale_s, gains=gains)
    source = "the meter" if meter is not None else "the load's edges"
    if reference is None:
        why["window"] = "not observable from readings alone: needs a meter or a load with known edges"
    elif found is None:
        why["window"] = f"{source} does not show it: it or the readings move too little, or they were asked too slowly"
    else:
        left = (
            f"{found.rmse_w:.1f} W" if meter is not None else f"{found.rmse_w / max(found.gain, 1e-9):.0%} of the swing"
        )
        why["window"] = f"{found.shape} fit to {source}, {left} left"
    window_s, lag_s = (found.window_s, found.lag_s) if found is not None else (None, None)
    calibration = None if meter is None else _calibration(updates, meter, found, scale_s, origin)
    return SensorModel(
        period_s=period_s,
        window_s=window_s,
        lag_s=lag_s,
        util_period_s=_util_period(time_s, busy_ratio),
        calibration=calibration or Calibration(),
        why=why,
    )


def _calibration(
    updates: publishing.Updates, meter: Reference, found: boxcar.Boxcar | None, period_s: float | None, origin: str
) -> Calibration | None:
    """The line of the shape's fit, or that between quiet levels: whichever scatters less."""
    window_s, lag_s = (found.window_s, found.lag_s) if found is not None else (period_s or 0.1, 0.0)
    quiet = boxcar.calibrate(updates.time_s, updates.value, meter, window_s=window_s, lag_s=lag_s, origin=origin)
    if found is None:
        return quiet
    fitted = Calibration(found.gain, found.offset_w, found.rmse_w, origin)
    return min((one for one in (quiet, fitted) if one is not None), key=lambda one: one.residual_w or 0.0)


def _util_period(time_s: Floats, busy_ratio: Floats | None) -> float | None:
    """The busy ratio's period: near the shortest usual gap between changes, that on whose beat all changes lie best.

    It may repeat a value for long, so gaps are whole periods; one gap alone is off by as much as it was asked late.
    """
    if busy_ratio is None:
        return None
    changed = np.flatnonzero(np.diff(busy_ratio) != 0) + 1
    if len(changed) < 4:
        return None
    seen = time_s[changed] - time_s[changed[0]]
    rough_s = float(np.quantile(np.diff(seen), 0.25))
    candidates = rough_s * np.linspace(0.9, 1.1, UTIL_STEPS)
    agreement = np.array([abs(np.exp(2j * np.pi * seen / period).mean()) for period in candidates])
    alike = candidates[agreement >= agreement.max() - 0.01]  # few changes: several beats fit, the middle one is taken
    return float(alike[np.argmin(np.abs(alike - rough_s))]) if agreement.max() >= UTIL_AGREEMENT else rough_s
