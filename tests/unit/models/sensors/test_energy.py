"""Energy from sparse readings: recorded A100 runs beside their meter, simulated ones of other sensors and loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.cli.doctor_sensors import judgements
from agents.cli.sensor_archive import Run, load
from models.sensors import energy
from models.sensors.judge import judge
from models.sensors.learn import learn
from models.sensors.types import Calibration, SensorModel
from tests.unit.models.sensors.simulated import busy, readings, square

DATA = Path(__file__).resolve().parents[3] / "data" / "gpu_sensor"


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    return {run.name: run for run in load(DATA)}


def models(runs: dict[str, Run], but: str) -> list[tuple[Run, SensorModel]]:
    return [
        (run, learn(run.time_s, run.power_w, busy_ratio=run.busy_ratio, meter=run.meter, origin=run.name))
        for run in runs.values()
        if run.name != but
    ]


def test_the_pulsed_run(runs: dict[str, Run]) -> None:
    whole, rest = (judged for _, judged in judgements(runs["A100_5050"], models(runs, "A100_5050")))
    assert whole.pulsed
    assert whole.meter_j == pytest.approx(1156.3, abs=0.1)
    # The whole run's naive -0.7 % is +5.6 % of an alias and -5.9 % of the sensor's gain that happen to cancel.
    assert whole.naive_ratio == pytest.approx(-0.007, abs=0.002)
    assert abs(whole.estimate_ratio) < 0.006
    assert whole.naive_by_second_ratio == pytest.approx(0.24, abs=0.02)
    assert whole.estimate_by_second_ratio is not None
    assert whole.estimate_by_second_ratio < 0.02
    # After the third in which it was calibrated, nothing cancels: less than a tenth of the naive error is left.
    assert rest.naive_ratio < -0.04
    assert abs(rest.estimate_ratio) < 0.5 * abs(rest.naive_ratio) / 5
    assert abs(whole.estimate_j - whole.meter_j) < whole.uncertainty_j


def test_the_steady_run(runs: dict[str, Run]) -> None:
    for _, judged in judgements(runs["A100_transient"], models(runs, "A100_transient")):
        assert not judged.pulsed
        assert abs(judged.estimate_ratio) < 0.005
        assert judged.naive_ratio < -0.05
        assert abs(judged.estimate_j - judged.meter_j) < judged.uncertainty_j


def test_the_a100_sensor_is_a_low_pass_of_25_ms_every_101_ms(runs: dict[str, Run]) -> None:
    run = runs["A100_5050"]
    model = learn(run.time_s, run.power_w, meter=run.meter)
    assert model.period_s == pytest.approx(0.1012, abs=0.0005)
    assert model.window_s == pytest.approx(0.025, rel=0.1)
    assert model.why["window"].startswith("exponential fit to the meter")
    assert model.seen_ratio == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("load_period_s", [0.0523, 0.0971, 0.1046, 0.1313, 0.1985])
@pytest.mark.parametrize("duty", [0.3, 0.5, 0.7])
def test_pulsed_loads_that_alias(load_period_s: float, duty: float) -> None:
    meter = square(seconds=20, period_s=load_period_s, duty=duty)
    time_s, power_w = readings(meter, period_s=0.1012, window_s=0.025)
    ratio = busy(meter, time_s)
    judged = judge(time_s, power_w, ratio, meter, learn(time_s, power_w, busy_ratio=ratio))
    assert abs(judged.estimate_ratio) < 0.02
    assert judged.naive_by_second_ratio is not None
    assert judged.estimate_by_second_ratio is not None
    assert judged.estimate_by_second_ratio < max(0.5 * judged.naive_by_second_ratio, 0.02)


def test_a_busy_ratio_that_means_nothing_does_not_spoil_a_steady_load() -> None:
    meter = square(seconds=20, period_s=100.0, duty=1.0)
    time_s, power_w = readings(meter, period_s=0.1, window_s=0.025)
    half = np.where(time_s > 1.3, 0.5, 0.0)
    judged = judge(time_s, power_w, half, meter, learn(time_s, power_w, busy_ratio=half))
    assert abs(judged.estimate_ratio) < 0.02


def test_a_regime_that_lasts_is_drawn_to_the_mean_of_its_readings() -> None:
    """Kernels too short for the sensor: levels from readings are wrong, their mean is right."""
    meter = square(seconds=200, period_s=0.0071, duty=0.5)
    time_s, power_w = readings(meter, period_s=0.1, window_s=0.025, noise_w=12.0)
    ratio = np.where(time_s > 1.0, 0.8, 0.0)  # the driver calls it busier than it is
    judged = judge(time_s, power_w, ratio, meter, learn(time_s, power_w, busy_ratio=ratio), span=(150.0, 195.0))
    assert abs(judged.estimate_ratio) < 0.03


def test_the_age_of_readings_is_taken_out_at_an_edge() -> None:
    meter = square(seconds=10, period_s=100.0, duty=1.0, start_s=5.0)
    time_s, power_w = readings(meter, period_s=0.1, window_s=0.1, lag_s=0.3)
    model = learn(time_s, power_w, meter=meter)
    span = (4.0, 5.0)
    judged = judge(time_s, power_w, None, meter, model, span=span)
    assert abs(judged.estimate_ratio) < 0.03
    late = judge(time_s, power_w, None, meter, model, span=(5.0, 6.0))
    assert late.naive_ratio < -0.15
    assert abs(late.estimate_ratio) < 0.03


def test_without_a_calibration_the_tolerance_stays_in_the_uncertainty() -> None:
    time_s, power_w = np.arange(0.0, 10.0, 0.1), np.full(100, 100.0)
    plain = energy.estimate(time_s, power_w, None, SensorModel(), start_s=0.0, end_s=9.9)
    assert (plain.energy_j, plain.uncertainty_j) == (pytest.approx(990.0), pytest.approx(49.5))
    known = replace(SensorModel(), calibration=Calibration(0.5, 10.0, 1.0, "a meter"))
    found = energy.estimate(time_s, power_w, None, known, start_s=0.0, end_s=9.9)
    assert (found.energy_j, found.uncertainty_j) == (pytest.approx(180.0 * 9.9), pytest.approx(9.9))
    assert (found.quality, found.method.split("calibration ")[1]) == ("estimated", "a meter")


def test_nothing_read_is_no_energy() -> None:
    found = energy.estimate(np.array([]), np.array([]), None, SensorModel(), start_s=0.0, end_s=1.0)
    assert np.isnan(found.energy_j)
    assert found.uncertainty_j == float("inf")


def test_a_hole_widens_the_uncertainty() -> None:
    whole = np.arange(0.0, 60.0, 0.1)
    power = 100 + 50 * (np.arange(len(whole)) % 2.0)
    hole = (whole < 20) | (whole > 50)
    span = {"start_s": 0.0, "end_s": 59.9}
    full = energy.estimate(whole, power, None, SensorModel(), **span)
    holed = energy.estimate(whole[hole], power[hole], None, SensorModel(), **span)
    assert holed.uncertainty_j > full.uncertainty_j + 500
