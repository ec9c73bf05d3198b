"""Window and lag of a sensor that runs, without a meter: beside what the device itself counts or shows faster. Pure.

Three such references, the best first: the energy counter's steps, an instant power beside an averaged one, the busy
ratio. None is finer than its own updates, and none sees anything while the load stands; then window and lag stay None
and `why` says so. A counter may be made of the same readings: what is found is then their difference, not the sensor's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from models.sensors import boxcar, publishing
from models.sensors.boxcar import Reference
from models.sensors.learn import learn
from models.sensors.types import Floats, SensorModel

LEAST_STEPS = 8  # of a counter or a busy ratio; fewer show no course of a load
ANY_GAIN = (0.0, float("inf"))  # a busy ratio has no watts


@dataclass(frozen=True, slots=True)
class Beside:
    """A signal beside the readings: its name, its course, how fine it is, and whether it is in watts."""

    name: str
    signal: Reference
    resolution_s: float
    watts: bool


def learn_live(
    time_s: Floats,
    power_w: Floats,
    *,
    counter_j: Floats | None = None,
    instant_w: Floats | None = None,
    busy_ratio: Floats | None = None,
) -> SensorModel:
    """The sensor's period from its readings; window and lag from the first reference that explains them."""
    model = learn(time_s, power_w, busy_ratio=busy_ratio)
    updates = publishing.find(time_s, power_w)
    scale_s = updates.period_s or updates.rough_s
    if scale_s is None or len(updates.time_s) < boxcar.LEAST_UPDATES:
        return replace(model, why={**model.why, "window": "not to be found: its readings hardly changed meanwhile"})
    tried = []
    for beside in _references(time_s, counter_j, instant_w, busy_ratio):
        gains = boxcar.PLAUSIBLE if beside.watts else ANY_GAIN
        found = boxcar.fit(updates.time_s, updates.value, beside.signal, period_s=scale_s, gains=gains)
        if found is None:
            tried.append(f"{beside.name} does not show it (the load moved too little, or they contradict)")
        elif found.lag_s < -beside.resolution_s:
            tried.append(f"{beside.name} contradicts it: the readings would be {-found.lag_s * 1e3:.0f} ms ahead of it")
        elif found.window_s < beside.resolution_s:
            tried.append(f"{beside.name} shows at most {beside.resolution_s * 1e3:.0f} ms, which is its own step")
        else:
            told = f"{found.shape} fit to {beside.name}, fine to {beside.resolution_s * 1e3:.0f} ms; no meter saw it"
            return replace(model, window_s=found.window_s, lag_s=found.lag_s, why={**model.why, "window": told})
    nothing = "not observable: neither an energy counter nor an instant power nor a busy ratio moves beside it"
    return replace(model, why={**model.why, "window": "; ".join(tried) or nothing})


def _references(
    time_s: Floats, counter_j: Floats | None, instant_w: Floats | None, busy_ratio: Floats | None
) -> Iterator[Beside]:
    """What there is beside the readings, in the order in which it is trusted."""
    if counter_j is not None and (beside := _counter(time_s, counter_j)) is not None:
        yield beside
    if instant_w is not None and (beside := _held("the instant power", time_s, instant_w, watts=True)) is not None:
        yield beside
    if busy_ratio is not None and (beside := _held("the busy ratio", time_s, busy_ratio, watts=False)) is not None:
        yield beside


def _counter(time_s: Floats, counter_j: Floats) -> Beside | None:
    """Mean power between two steps of a counter; a counter that falls is none."""
    at, values = _changes(time_s, counter_j)
    if len(at) < LEAST_STEPS or np.any(np.diff(values) < 0):
        return None
    power = np.diff(values) / np.diff(at)
    return Beside("the energy counter", _steps(at, power), float(np.median(np.diff(at))), True)


def _held(name: str, time_s: Floats, value: Floats, *, watts: bool) -> Beside | None:
    """A value that is published now and then and speaks of the time since the one before."""
    at, values = _changes(time_s, value)
    if len(at) < LEAST_STEPS:
        return None
    return Beside(name, _steps(at, values[1:]), float(np.quantile(np.diff(at), 0.25)), watts)


def _changes(time_s: Floats, value: Floats) -> tuple[Floats, Floats]:
    good = np.isfinite(time_s) & np.isfinite(value)
    time_s, value = time_s[good], value[good]
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    return time_s[changed], value[changed]


def _steps(at: Floats, level: Floats) -> Reference:
    """`level[i]` from `at[i]` to `at[i + 1]`."""
    return Reference(np.repeat(at, 2)[1:-1], np.repeat(level, 2))
