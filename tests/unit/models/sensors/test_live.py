"""Window and lag beside what a device shows itself: counter, instant power, busy ratio; and what cannot be seen."""

from __future__ import annotations

import numpy as np
import pytest

from models.sensors.boxcar import Reference
from models.sensors.live import learn_live
from models.sensors.types import Floats
from tests.unit.models.sensors.simulated import busy, readings


def load(seconds: float = 12.0, seed: int = 5) -> Reference:
    """A load that comes and goes: steps of half a second to two seconds."""
    chance = np.random.default_rng(seed)
    edges = np.cumsum(chance.uniform(0.5, 2.0, 40))
    time_s = np.arange(0.0, seconds, 0.0005)
    return Reference(time_s, np.where(np.searchsorted(edges, time_s) % 2 == 1, 320.0, 80.0))


def held(reference: Reference, asked: Floats, period_s: float) -> Floats:
    """The signal's mean of each period, published at its end."""
    ends = np.arange(period_s, reference.time_s[-1], period_s)
    value = reference.mean_w(ends - period_s, ends)
    return value[np.maximum(np.searchsorted(ends, asked, side="right") - 1, 0)]


def counted(reference: Reference, asked: Floats, period_s: float) -> Floats:
    at = np.floor(asked / period_s) * period_s
    joules = [reference.energy_j(0.0, t) for t in at]
    return np.array(joules)


@pytest.fixture(scope="module")
def meter() -> Reference:
    return load()


@pytest.fixture(scope="module")
def averaged(meter: Reference) -> tuple[Floats, Floats]:
    """As NVML's averaged power since Ampere: the mean of a second, published every 100 ms."""
    return readings(meter, period_s=0.1, window_s=1.0, ask_s=0.01)


def test_the_counter_shows_the_window(meter: Reference, averaged: tuple[Floats, Floats]) -> None:
    time_s, power_w = averaged
    model = learn_live(time_s, power_w, counter_j=counted(meter, time_s, 0.1))
    assert model.window_s == pytest.approx(1.0, rel=0.1)
    assert model.lag_s == pytest.approx(0.0, abs=0.03)
    assert model.why["window"].startswith("boxcar fit to the energy counter, fine to 100 ms")
    assert not model.calibration.known  # a counter is no meter


def test_the_instant_power_shows_the_averages_window(meter: Reference, averaged: tuple[Floats, Floats]) -> None:
    time_s, power_w = averaged
    model = learn_live(time_s, power_w, instant_w=held(meter, time_s, 0.1))
    assert model.window_s == pytest.approx(1.0, rel=0.1)
    assert "the instant power" in model.why["window"]


def test_the_busy_ratio_shows_a_window_that_is_longer_than_its_period(
    meter: Reference, averaged: tuple[Floats, Floats]
) -> None:
    time_s, power_w = averaged
    model = learn_live(time_s, power_w, busy_ratio=busy(meter, time_s, middle_w=200.0))
    assert model.window_s == pytest.approx(1.0, rel=0.2)
    assert "the busy ratio" in model.why["window"]


def test_a_reference_coarser_than_the_window_tells_only_a_bound(meter: Reference) -> None:
    time_s, power_w = readings(meter, period_s=0.1, window_s=0.025, ask_s=0.01)
    model = learn_live(time_s, power_w, busy_ratio=busy(meter, time_s, middle_w=200.0))
    assert (model.window_s, model.lag_s) == (None, None)
    assert "the busy ratio" in model.why["window"]


def test_a_load_that_stands_shows_nothing_and_says_so() -> None:
    time_s = np.arange(0.0, 4.0, 0.01)
    noise = np.round(np.repeat(np.random.default_rng(1).normal(0, 0.5, 40), 10), 2)
    flat = Reference(time_s, np.full(len(time_s), 90.0))
    model = learn_live(time_s, 90.0 + noise, counter_j=counted(flat, time_s, 0.1))
    assert model.window_s is None
    assert model.why["window"] == (
        "the energy counter does not show it (the load moved too little, or they contradict)"
    )


def test_nothing_beside_it_and_no_change_are_said() -> None:
    time_s = np.arange(0.0, 4.0, 0.01)
    moving = learn_live(time_s, np.repeat(np.arange(40.0) % 7, 10))
    assert moving.why["window"].startswith("not observable: neither an energy counter nor an instant power")
    still = learn_live(time_s, np.full(len(time_s), 50.0))
    assert still.why["window"] == "not to be found: its readings hardly changed meanwhile"


def test_a_counter_that_falls_is_no_reference(meter: Reference, averaged: tuple[Floats, Floats]) -> None:
    time_s, power_w = averaged
    counter = counted(meter, time_s, 0.1)
    counter[len(counter) // 2 :] -= counter[len(counter) // 2]
    model = learn_live(time_s, power_w, counter_j=counter)
    assert model.window_s is None


def test_readings_that_run_ahead_of_their_reference_are_a_contradiction(
    meter: Reference, averaged: tuple[Floats, Floats]
) -> None:
    """A counter that is late by more than its step: its time is not the readings', so no window follows."""
    time_s, power_w = readings(meter, period_s=0.5, window_s=0.3, ask_s=0.01)
    model = learn_live(time_s, power_w, counter_j=counted(meter, np.maximum(time_s - 0.045, 0.0), 0.02))
    assert model.window_s is None
    assert "the energy counter contradicts it: the readings would be" in model.why["window"]
