"""A simulated sensor that is asked as nvidia-smi asks: for tests of what can be found out about it."""

from __future__ import annotations

import numpy as np

from models.sensors.boxcar import Reference, Shape
from models.sensors.types import Floats


def square(
    *, seconds: float, period_s: float, duty: float, low_w: float = 60.0, high_w: float = 200.0, start_s: float = 1.0
) -> Reference:
    """Idle for `start_s`, then a pulsed load, as a meter of 5 kHz sees it."""
    time_s = np.arange(0.0, seconds, 0.0002)
    on = (time_s >= start_s) & ((time_s - start_s) % period_s < duty * period_s)
    return Reference(time_s, np.where(on, high_w, low_w))


def readings(
    meter: Reference, *, period_s: float, window_s: float, ask_s: float = 0.013, lag_s: float = 0.0, gain: float = 1.0,
    offset_w: float = 0.0, shape: Shape = "boxcar", seed: int = 1, noise_w: float = 0.1,
) -> tuple[Floats, Floats]:  # fmt: skip
    """(times asked, readings)."""
    chance = np.random.default_rng(seed)
    published = np.arange(meter.time_s[0] + 8 * window_s + lag_s, meter.time_s[-1], period_s)
    value = gain * meter.shaped_w(published - lag_s, window_s, shape) + offset_w
    value = np.round(value + chance.normal(0, noise_w, len(value)), 2)
    asked = np.cumsum(ask_s + chance.uniform(-0.001, 0.001, int(meter.time_s[-1] / ask_s))) + published[0]
    asked = asked[asked < published[-1]]
    return asked, value[np.searchsorted(published, asked, side="right") - 1]


def busy(meter: Reference, asked: Floats, *, middle_w: float = 130.0, period_s: float = 0.2) -> Floats:
    """A driver's busy ratio: share of the last period above a power, published every period."""
    on = Reference(meter.time_s, (meter.power_w > middle_w).astype(np.float64))
    ends = np.arange(meter.time_s[0] + period_s, meter.time_s[-1], period_s)
    value = np.round(on.mean_w(ends - period_s, ends), 2)
    return value[np.maximum(np.searchsorted(ends, asked, side="right") - 1, 0)]
