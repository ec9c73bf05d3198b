"""Temperatures follow power in two stages; the sensor sees the last 25 ms of every 100 ms."""

from __future__ import annotations

import numpy as np
import pytest

from models.twin.params import SensorParams, ThermalParams
from models.twin.sensor import BoxcarSensor
from models.twin.thermal import Thermal


def _thermal(start_w: float, params: ThermalParams | None = None) -> Thermal:
    return Thermal(params or ThermalParams(), inlet_c=np.array([27.0]), start_w=np.array([start_w]))


def test_steady_temperature_is_inlet_plus_resistance_times_power() -> None:
    thermal = _thermal(115.0)
    for _ in range(3_000):
        thermal.step(1.0, np.array([500.0]))
    assert thermal.die_c[0] == pytest.approx(27.0 + 0.072 * 500.0, abs=0.01)


def test_die_reaches_two_thirds_of_its_step_in_half_a_second() -> None:
    thermal = _thermal(100.0)
    before = thermal.die_c[0]
    for _ in range(50):
        thermal.step(0.01, np.array([600.0]))
    assert (thermal.die_c[0] - before) / (0.063 * 500.0) == pytest.approx(1.0 - np.exp(-1.0), abs=0.02)


def test_heat_lowers_the_clock_ceiling_and_says_so() -> None:
    assert _thermal(700.0).clock_ceiling()[0] == 1.0
    warm = _thermal(860.0)
    assert warm.software_slowdown()[0] and not warm.hardware_slowdown()[0]
    assert 0.8 < warm.clock_ceiling()[0] < 1.0
    hot = _thermal(1_000.0)
    assert hot.hardware_slowdown()[0]
    assert hot.clock_ceiling()[0] == 0.5


def _watch(power_w: np.ndarray, dt_s: float) -> np.ndarray:
    """Readings at every step of a power trace: one GPU, sampled at dt_s."""
    sensor = BoxcarSensor(SensorParams(), start_w=np.array([0.0]))
    energy, readings = np.zeros(1), []
    for step, watts in enumerate(power_w):
        energy = energy + watts * dt_s
        now = (step + 1) * dt_s
        for edge in sensor.edges(step * dt_s, now):
            sensor.mark(edge, energy - watts * (now - edge))
        readings.append(float(sensor.reading_w[0]))
    return np.array(readings)


def test_reading_is_the_mean_of_the_window_before_each_period() -> None:
    readings = _watch(np.where(np.arange(1_000) % 100 >= 80, 600.0, 200.0), 1e-3)
    assert readings[99:] == pytest.approx(np.full(901, 200.0 + 400.0 * (20 / 25)))


def test_pulses_outside_the_window_are_not_seen() -> None:
    readings = _watch(np.where(np.arange(1_000) % 100 < 50, 700.0, 100.0), 1e-3)
    assert readings[-1] == pytest.approx(100.0)


def test_any_step_length_gives_the_same_readings() -> None:
    rng = np.random.default_rng(4)
    power = np.repeat(rng.uniform(100.0, 700.0, 40), 50)
    fine, coarse = _watch(power, 1e-3), _watch(power[::10], 1e-2)
    assert fine[999::1000] == pytest.approx(coarse[99::100], rel=1e-9)


def test_reading_stays_between_two_publications() -> None:
    sensor = BoxcarSensor(SensorParams(), start_w=np.array([115.0]))
    assert sensor.edges(0.0, 0.05) == []
    assert sensor.edges(0.0, 1.0) == pytest.approx([0.975, 1.0])
    assert sensor.reading_w[0] == 115.0


def _late(window_s: float, period_s: float, lag_s: float, power_w: np.ndarray) -> np.ndarray:
    sensor = BoxcarSensor(SensorParams(window_s, period_s, lag_s), start_w=np.array([0.0]))
    energy, readings = np.zeros(1), []
    for step, watts in enumerate(power_w):
        energy = energy + watts * 1e-3
        now = (step + 1) * 1e-3
        for edge in sensor.edges(step * 1e-3, now):
            sensor.mark(edge, energy - watts * (now - edge))
        readings.append(float(sensor.reading_w[0]))
    return np.array(readings)


@pytest.mark.parametrize(("window_ms", "lag_ms"), [(25, 0), (25, 30), (100, 10), (350, 40)])
def test_any_window_and_lag_is_the_mean_of_that_stretch(window_ms: int, lag_ms: int) -> None:
    rng = np.random.default_rng(1)
    power = np.repeat(rng.uniform(100.0, 600.0, 80), 20)
    readings = _late(window_ms / 1e3, 0.1, lag_ms / 1e3, power)
    for published in (600, 1_200, 1_500):
        end = published - lag_ms
        assert readings[published + 20] == pytest.approx(power[end - window_ms : end].mean(), rel=1e-6)


def test_a_sensor_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window 0 s, period 0\.1 s and lag 0 s cannot be simulated"):
        BoxcarSensor(SensorParams(window_s=0.0), start_w=np.zeros(1))


def test_leakage_follows_the_die_and_is_off_by_default() -> None:
    assert _thermal(500.0).leak_w()[0] == 0.0
    leaky = _thermal(500.0, ThermalParams(leak_w_per_k=1.0, leak_reference_c=60.0))
    assert leaky.leak_w()[0] == pytest.approx(leaky.die_c[0] - 60.0)
