"""A load's begin and end by the busy counter: unbiased and much finer than readings, and left alone where it lies."""

from __future__ import annotations

import numpy as np
import pytest

from models.sensors import edges, energy
from models.sensors.boxcar import Reference
from models.sensors.types import Floats, SensorModel
from tests.unit.models.sensors.simulated import busy, readings

LOW_W, HIGH_W = 60.0, 200.0
MODEL = SensorModel(period_s=0.1012, window_s=0.025, lag_s=0.0, util_period_s=0.2)


def step(at_s: float, *, rises: bool) -> Reference:
    time_s = np.arange(0.0, 10.0, 0.0005)
    return Reference(time_s, np.where((time_s >= at_s) == rises, HIGH_W, LOW_W))


def error_j(meter: Reference, seed: int, *, with_busy: bool, late_s: float = 0.0) -> float:
    time_s, power_w = readings(meter, period_s=0.1012, window_s=0.025, seed=seed)
    ratio = busy(meter, time_s - late_s) if with_busy else None
    found = energy.estimate(time_s, power_w, ratio, MODEL, start_s=1.0, end_s=9.0)
    return found.energy_j - meter.energy_j(1.0, 9.0)


@pytest.mark.parametrize("rises", [True, False])
def test_an_edge_is_found_without_bias_and_finer_than_by_readings(rises: bool) -> None:
    chance = np.random.default_rng(7)
    at = chance.uniform(4.0, 5.0, 40)
    ours = np.array([error_j(step(t, rises=rises), n, with_busy=True) for n, t in enumerate(at)])
    plain = np.array([error_j(step(t, rises=rises), n, with_busy=False) for n, t in enumerate(at)])
    assert np.sqrt(np.mean(ours**2)) < 0.4 * np.sqrt(np.mean(plain**2))
    assert abs(np.mean(ours)) < 0.5


def test_a_counter_that_speaks_of_another_time_is_not_believed() -> None:
    """Half a second late: the readings show the edge elsewhere, so they stay."""
    for n, at_s in enumerate((4.1, 4.37, 4.72)):
        meter = step(at_s, rises=True)
        late, plain = error_j(meter, n, with_busy=True, late_s=0.5), error_j(meter, n, with_busy=False)
        assert late == pytest.approx(plain, abs=1e-9)


def grid(ratio: list[float], watts: list[float]) -> tuple[Floats, Floats, Floats]:
    """Readings every 20 ms; ten of each value."""
    busy_ratio, power_w = np.repeat(ratio, 10), np.repeat(watts, 10)
    return np.arange(len(power_w)) * 0.02, power_w.astype(np.float64), busy_ratio


def stretches(ratio: Floats) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in energy._stretches((ratio > 0.03) & (ratio < 0.97))]


@pytest.mark.parametrize(
    ("ratio", "watts"),
    [
        ([0, 0, 0.4, 0, 0], [60, 60, 200, 60, 60]),  # a short pulse: neither side is full
        ([0, 0, 0.4, 1, 1], [60, 60, 62, 64, 64]),  # a step that is none
        ([0, 0, 0.4, 1, 1], [200, 200, 130, 60, 60]),  # busy begins where power ends
        ([0.4, 1, 1, 1, 1], [60, 200, 200, 200, 200]),  # what was before is not known
        ([0, 0, 0, 0, 0.4], [60, 60, 60, 60, 200]),  # nor what comes after
    ],
)
def test_what_is_no_single_edge_stays_as_it_was_read(ratio: list[float], watts: list[float]) -> None:
    when, power_w, busy_ratio = grid(ratio, watts)
    out = edges.placed(when, power_w, busy_ratio, stretches(busy_ratio), reach_s=0.06, period_s=0.2)
    assert out.tolist() == power_w.tolist()


def test_the_time_that_was_busy_makes_the_step() -> None:
    when, power_w, busy_ratio = grid([0, 0, 0.25, 1, 1], [60, 60, 60, 200, 200])
    out = edges.placed(when, power_w, busy_ratio, stretches(busy_ratio), reach_s=0.2, period_s=0.2)
    joules = float(np.sum((out[1:] + out[:-1]) / 2 * np.diff(when)))
    # From 0.4 to 0.6 s less one asking interval, the last quarter of 0.2 s busy: the step lies at 0.53 s.
    assert joules == pytest.approx(60 * 0.53 + 200 * (when[-1] - 0.53), abs=0.5)
