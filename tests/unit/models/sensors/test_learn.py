"""What can be found out about a sensor: period, window, shape, lag, gain; and what cannot, which stays unknown."""

from __future__ import annotations

import numpy as np
import pytest

from models.sensors import boxcar, publishing
from models.sensors.boxcar import Reference, Shape, from_edges
from models.sensors.learn import learn
from tests.unit.models.sensors.simulated import readings, square


@pytest.mark.parametrize(("period_s", "ask_s"), [(0.1, 0.013), (0.02, 0.003), (0.1012, 0.005), (1.0, 0.1)])
def test_the_update_period_is_found_within_half_a_per_cent(period_s: float, ask_s: float) -> None:
    meter = square(seconds=max(12.0, 40 * period_s), period_s=0.73, duty=0.5)
    time_s, power_w = readings(meter, period_s=period_s, window_s=period_s / 4, ask_s=ask_s)
    found = publishing.find(time_s, power_w)
    assert found.period_s == pytest.approx(period_s, rel=0.005)


def test_asked_too_slowly_the_period_is_only_a_bound() -> None:
    meter = square(seconds=30, period_s=0.73, duty=0.5)
    time_s, power_w = readings(meter, period_s=0.1, window_s=0.025, ask_s=1.0)
    found = publishing.find(time_s, power_w)
    assert found.period_s is None
    assert "which is too slow to tell" in found.why


def test_a_sensor_that_never_moves_has_no_period_and_is_called_stuck() -> None:
    time_s, power_w = np.arange(0, 60, 0.05), np.full(1200, 46.19)
    assert publishing.find(time_s, power_w).period_s is None
    told = publishing.stuck(time_s, power_w)
    assert told is not None
    assert told.startswith("it reads 46.19 W without any change for 60 s, and real sensors have noise")
    assert publishing.stuck(time_s[:300], power_w[:300]) is None, "too brief to say"
    assert publishing.stuck(time_s, power_w + (time_s > 50)) is None


# Slower than the period, so that the phase of the load against the sensor runs through all values.
@pytest.mark.parametrize("shape", ["boxcar", "exponential"])
@pytest.mark.parametrize(("window_s", "lag_s"), [(0.025, 0.0), (0.05, 0.02), (0.1, 0.04)])
def test_window_shape_and_lag_are_found_beside_a_meter(shape: Shape, window_s: float, lag_s: float) -> None:
    meter = square(seconds=14, period_s=0.4127, duty=0.5)
    time_s, power_w = readings(
        meter, period_s=0.1, window_s=window_s, lag_s=lag_s, shape=shape, gain=0.95, offset_w=-3.0
    )
    updates = publishing.find(time_s, power_w)
    found = boxcar.fit(updates.time_s, updates.value, meter, period_s=updates.period_s or 0.0)
    assert found is not None
    assert found.shape == shape
    assert found.window_s == pytest.approx(window_s, rel=0.1)
    assert found.lag_s == pytest.approx(lag_s, abs=0.006)
    model = learn(time_s, power_w, meter=meter)
    assert (model.calibration.gain, model.calibration.offset_w) == (
        pytest.approx(0.95, rel=0.01),
        pytest.approx(-3.0, abs=1.0),
    )


# An RTX 3090 as Yang et al. found it, and a V100: a window of ten periods, and one that is asked hardly faster.
@pytest.mark.parametrize(
    ("period_s", "window_s", "lag_s", "gain"), [(0.1, 1.0, 0.04, 0.97), (0.02, 0.02, 0.0, 1.03)], ids=["3090", "V100"]
)
@pytest.mark.parametrize("load_s", [0.4127, 0.1046])
def test_other_sensors(period_s: float, window_s: float, lag_s: float, gain: float, load_s: float) -> None:
    meter = square(seconds=30, period_s=load_s, duty=0.5)
    time_s, power_w = readings(meter, period_s=period_s, window_s=window_s, lag_s=lag_s, gain=gain)
    model = learn(time_s, power_w, meter=meter)
    assert model.period_s == pytest.approx(period_s, rel=0.01)
    assert model.window_s == pytest.approx(window_s, rel=0.1)
    assert model.lag_s == pytest.approx(lag_s, abs=0.006)
    assert model.calibration.gain == pytest.approx(gain, rel=0.01)


def test_what_leaves_too_much_unexplained_is_not_taken() -> None:
    """Asked once a second, pulses of 0.1 s are noise: any window fits some of it, with an absurd gain or much left."""
    meter = square(seconds=30, period_s=0.1046, duty=0.5)
    model = learn(*readings(meter, period_s=0.1, window_s=0.025, ask_s=1.0, gain=0.96), meter=meter)
    assert model.window_s is None
    assert not model.calibration.known or 0.75 < model.calibration.gain < 1.33


def test_the_edges_of_a_known_load_give_window_and_lag_but_no_gain() -> None:
    meter = square(seconds=14, period_s=0.4127, duty=0.5)
    time_s, power_w = readings(meter, period_s=0.1, window_s=0.025, shape="exponential", gain=0.9)
    on = 1.0 + 0.4127 * np.arange(31)
    edges = np.sort(np.concatenate([on, on + 0.4127 / 2]))
    model = learn(time_s, power_w, edges=from_edges(edges, start_s=0.0, end_s=14.0))
    assert model.window_s == pytest.approx(0.025, rel=0.1)
    assert not model.calibration.known


def test_readings_alone_leave_the_window_unknown_and_say_so() -> None:
    meter = square(seconds=14, period_s=0.4127, duty=0.5)
    model = learn(*readings(meter, period_s=0.1, window_s=0.025))
    assert (model.window_s, model.lag_s, model.seen_ratio) == (None, None, None)
    assert model.why["window"] == "not observable from readings alone: needs a meter or a load with known edges"


def test_a_reference_that_never_moves_explains_nothing() -> None:
    time_s = np.arange(0.0, 12.0, 0.0005)
    flat = Reference(time_s, np.full(len(time_s), 100.0))
    swinging = readings(square(seconds=12, period_s=0.41, duty=0.5), period_s=0.1, window_s=0.025)
    model = learn(*swinging, meter=flat)
    assert model.window_s is None
    assert model.why["window"].startswith("the meter does not show it: it or the readings move too little")


def test_one_level_gives_a_gain_without_offset() -> None:
    time_s = np.arange(0.0, 12.0, 0.0005)
    flat = Reference(time_s, np.full(len(time_s), 100.0))
    model = learn(*readings(flat, period_s=0.1, window_s=0.025, gain=0.93), meter=flat, origin="the meter")
    assert (model.calibration.gain, model.calibration.offset_w) == (pytest.approx(0.93, rel=0.005), 0.0)
    assert model.calibration.origin == "the meter (one power level only: gain without offset)"


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_hardly_any_reading_is_no_reason_to_fail(size: int) -> None:
    model = learn(np.arange(float(size)), np.arange(float(size)), busy_ratio=np.zeros(size))
    assert (model.period_s, model.window_s, model.calibration.known) == (None, None, False)


def test_values_that_are_no_numbers_are_left_out() -> None:
    meter = square(seconds=14, period_s=0.4127, duty=0.5)
    time_s, power_w = readings(meter, period_s=0.1, window_s=0.025)
    power_w[::7] = np.nan
    assert publishing.find(time_s, power_w).period_s == pytest.approx(0.1, rel=0.005)
