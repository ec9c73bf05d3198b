"""When a sensor publishes: its update period and the exact publishing times behind readings that were asked faster.

A reader that asks every 13 ms sees a new value up to 13 ms late. A sensor publishes on a regular beat, so the beat that
fits all sightings gives the true times much finer than one sighting does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.sensors.types import Floats

LEAST_CHANGES = 8  # fewer say nothing about a beat
ASKED_TOO_SLOWLY = 0.7  # asked at more than this share of the apparent period, the period is only a bound
STUCK_S, STUCK_READINGS = 30.0, 100  # no powered device shows one and the same value for so long: sensors have noise
STEPS = 4000  # grid of the search
COARSE = 300  # changes for a first look: with more the grid would have to be finer
LEAST_AGREEMENT = 0.8  # of what a beat asked so often reaches


@dataclass(frozen=True, slots=True)
class Updates:
    """Published values, each once. `period_s` None = no beat could be found, and `why` says so."""

    time_s: Floats
    value: Floats
    period_s: float | None
    ask_s: float
    why: str
    rough_s: float | None = None  # the usual gap between changes: the period's scale, also where it is only a bound


def find(time_s: Floats, value: Floats) -> Updates:
    """The updates behind a series of readings: times on the beat where one is found, else when they were seen."""
    good = np.isfinite(time_s) & np.isfinite(value)
    order = np.argsort(time_s[good], kind="stable")
    time_s, value = time_s[good][order], value[good][order]
    ask_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 0.0
    changed = np.flatnonzero(np.diff(value) != 0) + 1
    seen, values = time_s[changed], value[changed]
    if len(changed) < LEAST_CHANGES:
        return Updates(seen, values, None, ask_s, f"{len(changed)} changes are too few to find a period")
    rough_s = _rough_period(np.diff(seen), ask_s)
    beat = _beat(seen, rough_s, ask_s) if ask_s < ASKED_TOO_SLOWLY * rough_s else None
    if beat is None:
        told = f"at most {rough_s * 1e3:.0f} ms: asked every {ask_s * 1e3:.0f} ms, which is too slow to tell"
        return Updates(seen, values, None, ask_s, told, rough_s)
    told = f"beat of {len(seen)} changes asked every {ask_s * 1e3:.0f} ms"
    return Updates(beat[1], values, beat[0], ask_s, told, rough_s)


def stuck(time_s: Floats, value: Floats) -> str | None:
    """One sentence when a sensor stands still for longer than any load; None when it moves or is seen too briefly."""
    good = np.isfinite(time_s) & np.isfinite(value)
    if good.sum() < STUCK_READINGS or np.ptp(value[good]) > 0:
        return None
    lasted_s = float(np.ptp(time_s[good]))
    if lasted_s < STUCK_S:
        return None
    told = f"it reads {value[good][0]:g} W without any change for {lasted_s:.0f} s, and real sensors have noise"
    return f"{told}: it is stuck or not supported, do not believe it; see the driver and the board's health"


def _rough_period(gaps: Floats, ask_s: float) -> float:
    """The median gap; gaps of two and more periods (a repeated value) and slips of the reader do not move it."""
    usable = gaps[gaps > 1.5 * ask_s] if ask_s > 0 else gaps
    usable = usable if len(usable) >= LEAST_CHANGES // 2 else gaps
    return float(np.median(usable[usable <= 1.5 * np.median(usable)]))


def _beat(seen: Floats, rough_s: float, ask_s: float) -> tuple[float, Floats] | None:
    """(period, publishing times): the period whose phases agree best, and the early edge of the sightings.

    None when they agree much less than a beat that is asked so often must: then the changes follow no beat.
    """
    from_start = seen - seen[0]
    few = from_start[:COARSE]
    period = _best(few, rough_s * np.linspace(0.6, 1.1, STEPS), ask_s)
    near = 1.0 / max(len(few), 2)
    period = _best(from_start, period * np.linspace(1 - near, 1 + near, STEPS), ask_s)
    turned = np.exp(2j * np.pi * from_start / period).mean()
    if abs(turned) < LEAST_AGREEMENT * float(np.sinc(ask_s / period)):
        return None
    phase = float(np.angle(turned)) / (2 * np.pi) * period
    number = np.round((from_start - phase) / period)
    late = from_start - number * period
    # The earliest sighting is the nearest to the truth; a few per cent are left to clock jitter.
    return period, np.asarray(seen[0] + float(np.quantile(late, 0.03)) + number * period, dtype=np.float64)


def _best(from_start: Floats, candidates: Floats, ask_s: float) -> float:
    """The candidate whose phases agree best, measured by what its beat could reach when it is asked every `ask_s`."""
    agreement = np.array([abs(np.exp(2j * np.pi * from_start / period).mean()) for period in candidates])
    return float(candidates[np.argmax(agreement / np.maximum(np.sinc(ask_s / candidates), 0.1))])
