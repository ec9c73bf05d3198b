"""Joules from sparse readings: the naive integral, and one that knows what the sensor does not see.

Three corrections, all from the readings of the run itself. Online they know what came so far, and grow better with it:
- age: a reading describes the past, so it is placed there before integrating;
- edges: readings know a load's begin and end to half a period, a busy counter knows the time that was busy (edges.py);
- pulses: a sensor that looks at a part of the time and a load that beats faster than it make aliases. Where the device
  says that it was busy for a part of the time, power is low + busy * (high - low), both levels taken from the readings.
Over minutes an alias averages out and the readings are right on average: a regime that lasts is drawn to their mean.
Gain and offset come from a calibration against a meter; without one the stated tolerance stays in the uncertainty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.sensors import edges
from models.sensors.types import TOLERANCE_RATIO, Energy, Floats, SensorModel

SPAN_S = 4.0  # levels are looked for this far to both sides: some beats of a pulse against the sensor
EDGE_S = 0.25  # a busy counter's period: what lies nearer to the ends of a stretch is not of one level
LEAST_UPDATES_A_BEAT = 8  # a faster alternation is no slow alias whose beats could be counted
PARTIAL = (0.03, 0.97)  # busy for less or more than this is idle or full
SWING_RATIO = 0.2  # readings that vary by less are no alias: they are taken as they are
SEES_ALL = 0.8  # of the time: such a sensor has no aliases, its readings are taken as they are
LEAST_S = 0.6  # a shorter partial stretch is one edge seen by a slow busy counter, not a pulsed load
MEAN_FROM_S, MEAN_FULL_S = 30.0, 120.0  # a regime's own mean begins to count, and counts in full
Bools = NDArray[np.bool_]
GAP_S = 5.0  # a longer hole between readings is unknown energy, not a straight line


def naive(time_s: Floats, power_w: Floats, *, start_s: float, end_s: float) -> float:
    """The trapezoid over the readings as they were asked; joules. What most tools report."""
    return _between(time_s, power_w, start_s, end_s)


def _between(time_s: Floats, power_w: Floats, start_s: float, end_s: float) -> float:
    good = np.isfinite(power_w) & np.isfinite(time_s)
    time_s, power_w = time_s[good], power_w[good]
    if len(time_s) < 2:
        return float("nan")
    joules = np.concatenate([[0.0], np.cumsum(np.diff(time_s) * (power_w[1:] + power_w[:-1]) / 2)])
    # Before the first and after the last reading the power is the nearest one: shifting by the age leaves such edges.
    early, late = max(0.0, time_s[0] - start_s), max(0.0, end_s - time_s[-1])
    inner = np.diff(np.interp([start_s, end_s], time_s, joules))[0]
    return float(inner + early * power_w[0] + late * power_w[-1])


def rectified(time_s: Floats, power_w: Floats, busy_ratio: Floats | None, model: SensorModel) -> tuple[Floats, Floats]:
    """(times, watts) of what the device drew, the age taken out, pulses resolved, calibrated.

    Readings that are not finite are left out; without `busy_ratio`, and for a sensor that is known to look all the
    time, only age and calibration are corrected.
    """
    good = np.isfinite(time_s) & np.isfinite(power_w)
    times, watts = time_s[good], power_w[good]
    drawn = watts
    when = times - model.age_s
    if busy_ratio is not None and len(times) > 2 and (model.seen_ratio or 0.0) < SEES_ALL:
        busy = _busy_at(when, time_s, busy_ratio, model.util_period_s or 0.0)
        drawn = _unpulsed(when, watts, busy)
        if model.util_period_s is not None and model.period_s is not None:
            reach_s = (model.period_s + (model.window_s or 0.0)) / 2
            short = [(a, b) for a, b in _stretches(_partial(busy)) if when[b - 1] - when[a] < LEAST_S]
            drawn = edges.placed(when, drawn, busy, short, reach_s=reach_s, period_s=model.util_period_s)
    return when, model.calibration.true_w(drawn)


def estimate(
    time_s: Floats, power_w: Floats, busy_ratio: Floats | None, model: SensorModel, *, start_s: float, end_s: float
) -> Energy:
    """Joules between two instants, with what is known of their error."""
    when, watts = rectified(time_s, power_w, busy_ratio, model)
    energy_j = _between(when, watts, start_s, end_s)
    return Energy(
        energy_j=energy_j,
        start_s=start_s,
        end_s=end_s,
        quality="estimated",
        uncertainty_j=_uncertainty_j(when, watts, model, start_s=start_s, end_s=end_s),
        method=_method(busy_ratio is not None, model),
    )


def _method(with_busy: bool, model: SensorModel) -> str:
    pulses = "pulses resolved by the busy ratio" if with_busy else "pulses not resolved (no busy ratio)"
    return (
        f"readings moved by their age of {model.age_s * 1e3:.0f} ms, {pulses}, calibration {model.calibration.origin}"
    )


def _busy_at(when: Floats, time_s: Floats, busy_ratio: Floats, period_s: float) -> Floats:
    """The busy ratio of each instant: a counter's value speaks of the period before it was published."""
    known = np.isfinite(busy_ratio)
    if not known.any():
        return np.full(len(when), np.nan)
    held = np.searchsorted(time_s[known], when + period_s, side="right") - 1
    return np.asarray(busy_ratio[known][np.maximum(held, 0)], dtype=np.float64)


def _unpulsed(when: Floats, watts: Floats, busy: Floats) -> Floats:
    out = watts.copy()
    for first, last in _stretches(_partial(busy)):
        if when[last - 1] - when[first] >= LEAST_S:
            out[first:last] = _stretch(when[first:last], watts[first:last], busy[first:last])
    return out


def _partial(busy: Floats) -> Bools:
    return np.asarray((busy > PARTIAL[0]) & (busy < PARTIAL[1]), dtype=np.bool_)


def _stretch(when: Floats, watts: Floats, busy: Floats) -> Floats:
    """One stretch of partial load: by whole beats of the alias where it has some, else by levels seen nearby."""
    # A stretch begins and ends in the middle of the busy counter's period: there, readings still are the old level.
    inner = (when >= when[0] + EDGE_S) & (when <= when[-1] - EDGE_S)
    if (beats := _whole_beats(when[inner], watts[inner])) is not None:
        low, high = np.full(len(when), watts[inner].min()), np.full(len(when), watts[inner].max())
    else:
        low, high = _levels(when, watts, inner)
    drawn = np.where(high - low > SWING_RATIO * high, low + busy * (high - low), watts)
    if beats is None:
        return _drawn_to_mean(when, watts, drawn)
    start_s, end_s = beats
    left_j = _between(when, watts, start_s, end_s) - _between(when, drawn, start_s, end_s)
    return np.asarray(drawn + left_j / (end_s - start_s), dtype=np.float64)


def _stretches(mask: Bools) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _levels(when: Floats, watts: Floats, inner: Bools) -> tuple[Floats, Floats]:
    """Lowest and highest reading of the stretch around each instant."""
    known, values = when[inner], watts[inner]
    start = np.searchsorted(known, when - SPAN_S)
    stop = np.maximum(np.searchsorted(known, when + SPAN_S, side="right"), start + 1)
    pairs = zip(start.tolist(), stop.tolist(), strict=True)
    levels = [(part.min(), part.max()) if len(part := values[a:b]) else (0.0, 0.0) for a, b in pairs]
    low, high = np.array(levels, dtype=np.float64).T
    return low, high


def _drawn_to_mean(when: Floats, watts: Floats, drawn: Floats) -> Floats:
    """Moves a long regime's estimate to the running mean of its readings, which no alias outlasts."""
    passed = when - when[0]
    weight = np.clip((passed - MEAN_FROM_S) / (MEAN_FULL_S - MEAN_FROM_S), 0.0, 1.0)
    if weight[-1] == 0.0:
        return drawn
    count = np.arange(1, len(when) + 1)
    return np.asarray(drawn + weight * np.cumsum(watts - drawn) / count, dtype=np.float64)


def _whole_beats(when: Floats, watts: Floats) -> tuple[float, float] | None:
    """First and last upward crossing of the middle level: between them a slow alias went through whole beats."""
    if len(watts) < LEAST_UPDATES_A_BEAT:
        return None
    low, high = float(np.min(watts)), float(np.max(watts))
    if high - low <= SWING_RATIO * high:
        return None
    middle, quarter = (low + high) / 2, (high - low) / 4
    crossings, armed = list[float](), False
    for i in range(1, len(watts)):
        armed = armed or watts[i] < middle - quarter
        if armed and watts[i] >= middle > watts[i - 1]:
            share = (middle - watts[i - 1]) / (watts[i] - watts[i - 1])
            crossings.append(float(when[i - 1] + share * (when[i] - when[i - 1])))
            armed = False
    if len(crossings) < 2:
        return None
    between = (when > crossings[0]) & (when < crossings[-1])
    updates = np.count_nonzero(np.diff(watts[between]))
    return (crossings[0], crossings[-1]) if updates >= LEAST_UPDATES_A_BEAT * (len(crossings) - 1) else None


def _uncertainty_j(when: Floats, watts: Floats, model: SensorModel, *, start_s: float, end_s: float) -> float:
    """Half an interval: the sensor's tolerance (or the calibration's scatter), what it did not see, and holes."""
    inside = (when >= start_s) & (when <= end_s)
    if inside.sum() < 2:
        return float("inf")
    times, power = when[inside], watts[inside]
    length_s = end_s - start_s
    known = model.calibration.residual_w
    systematic = (TOLERANCE_RATIO * float(np.mean(power)) if known is None else known) * length_s
    seen = model.seen_ratio
    looks = max(2.0, length_s / max(model.period_s or 0.0, float(np.median(np.diff(times))), 1e-3))
    unseen = 1.0 if seen is None else 1.0 - seen
    sampling = unseen * float(np.std(power)) * length_s / float(np.sqrt(looks))
    gaps = np.diff(times)
    holes = float(np.sum(gaps[gaps > GAP_S])) * float(np.ptp(power)) / 2
    return systematic + 2.0 * sampling + holes
