"""The board's power sensor beside a trusted meter, for the twin: fitted on every other update, judged on the rest.

The estimate itself is models.sensors'; here is the other way round, readings of a sensor with a known window on any
power signal, and what is left at updates that were not fitted. Values in, values out; seconds on one clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.sensors import boxcar, publishing
from models.sensors.boxcar import Reference

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SensorFit:
    """reading = gain * (meter under the shape, ended lag_s before publication) + offset_w."""

    shape: str
    window_s: float
    lag_s: float
    period_s: float
    gain: float
    offset_w: float
    judged_rmse_w: float  # at the updates that were not fitted
    judged: int  # how many those are
    span_w: float  # between the lowest and the highest mean that the meter saw under the shape's window


def meter(end_s: Array, mean_w: Array) -> Reference:
    """From means that each end at their time; a mean stands for the middle of its stretch."""
    half = 0.5 * float(np.median(np.diff(end_s)))
    return Reference(end_s - half, mean_w)


def readings(signal: Reference, *, window_s: float, period_s: float, lag_s: float, ask_s: float) -> tuple[Array, Array]:
    """What a reader that asks every ask_s sees of a boxcar sensor."""
    first = signal.time_s[0] + window_s + lag_s
    asked = np.arange(first + period_s, signal.time_s[-1], ask_s)
    published = first + np.floor((asked - first) / period_s) * period_s
    return asked, signal.mean_w(published - lag_s - window_s, published - lag_s)


def window(time_s: Array, watts: Array, signal: Reference) -> float:
    """Estimated window; NaN where the readings do not tell it."""
    updates = publishing.find(time_s, watts)
    found = None
    if updates.period_s is not None:
        found = boxcar.fit(updates.time_s, updates.value, signal, period_s=updates.period_s)
    return float("nan") if found is None else found.window_s


def fit(time_s: Array, watts: Array, signal: Reference) -> SensorFit:
    """Shape, window and lag from every other update; raises ValueError where the readings do not tell them."""
    updates = publishing.find(time_s, watts)
    if updates.period_s is None:
        raise ValueError(f"no update period of the sensor can be told ({updates.why}); record longer and ask faster")
    found = boxcar.fit(updates.time_s[::2], updates.value[::2], signal, period_s=updates.period_s)
    if found is None:
        raise ValueError("the meter moved too little beside the readings; record a load that changes")
    end_s, value = updates.time_s[1::2] - found.lag_s, updates.value[1::2]
    inside = signal.covers(end_s - found.window_s, end_s)
    seen = signal.shaped_w(end_s[inside], found.window_s, found.shape)
    rest = found.gain * seen + found.offset_w - value[inside]
    ends = signal.time_s[signal.time_s > signal.time_s[0] + found.window_s]
    return SensorFit(
        shape=found.shape,
        window_s=found.window_s,
        lag_s=found.lag_s,
        period_s=updates.period_s,
        gain=found.gain,
        offset_w=found.offset_w,
        judged_rmse_w=float(np.sqrt(np.mean(rest**2))),
        judged=int(inside.sum()),
        span_w=float(np.ptp(signal.mean_w(ends - found.window_s, ends))),
    )
