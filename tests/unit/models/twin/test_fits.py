"""Fits find again what made the data, and predict what they have not seen."""

from __future__ import annotations

import numpy as np
import pytest

from models.sensors.boxcar import Reference
from models.twin import fit_heat, fit_sensor
from models.twin.fit_curve import CurvePoints, inner_errors
from models.twin.fit_jobs import DeviceFit, Sweep, every_nth, fit, learn, predict, three
from models.twin.fit_stack import Batches, alternate, errors, fit_stacks, law, learn_stacks
from models.twin.fitting import diagonal, learn_prior, solve
from models.twin.job import JobLaw, Jobs, run

LAW = JobLaw(static_w=70.0, v_min=0.8, x_knee=0.72, x_floor=0.2)
LIMITS = np.array([100.0, 125.0, 150.0, 175.0, 200.0, 225.0, 250.0, 275.0, 300.0])


def _sweeps(count: int, *, seed: int, noise: float = 0.003) -> list[Sweep]:
    rng = np.random.default_rng(seed)
    jobs = Jobs(
        time_s=np.exp(rng.normal(3.0, 1.0, count)),
        light_share=rng.uniform(0.05, 0.4, count),
        dynamic_w=rng.uniform(150.0, 260.0, count),
        light_ratio=rng.uniform(0.1, 0.5, count),
        clock_share=rng.uniform(0.2, 0.8, count),
        static_w=70.0 * np.exp(rng.normal(0.0, 0.03, count)),
    )
    limits = np.tile(LIMITS, (count, 1))
    time_s, watts = run(LAW, jobs, lock_x=np.ones_like(limits), limit_w=limits)
    time_s *= np.exp(rng.normal(0.0, noise, time_s.shape))
    watts *= np.exp(rng.normal(0.0, noise, watts.shape))
    return [
        Sweep(f"job {row}", "made", "limit_w", LIMITS, np.ones(len(LIMITS)), LIMITS, time_s[row], watts[row])
        for row in range(count)
    ]


def _error(device: DeviceFit, sweeps: list[Sweep]) -> tuple[float, float]:
    found = predict(device, fit(device, sweeps, three), sweeps)
    rest = [~three(one) for one in sweeps]
    off = [
        (np.abs(time_s / one.time_s - 1.0)[rows], np.abs(watts / one.watts - 1.0)[rows])
        for one, (time_s, watts), rows in zip(sweeps, found, rest, strict=True)
    ]
    return float(np.concatenate([one[0] for one in off]).mean()), float(np.concatenate([one[1] for one in off]).mean())


def test_three_limits_predict_the_others_across_the_clock_floor() -> None:
    device = learn(_sweeps(8, seed=1), trials=15, rounds=1)
    assert device.law.x_floor == pytest.approx(LAW.x_floor, rel=0.25)
    time_off, power_off = _error(device, _sweeps(8, seed=2))
    assert time_off < 0.03 and power_off < 0.03


def test_which_settings_are_fitted() -> None:
    sweep = _sweeps(1, seed=1)[0]
    assert three(sweep).tolist() == [True, False, False, False, True, False, False, False, True]
    assert every_nth(4)(sweep).tolist() == [True, False, False, False, True, False, False, False, True]
    assert every_nth(3)(sweep)[-1]


def test_batched_least_squares_equals_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    design, wanted = rng.normal(size=(5, 20, 3)), rng.normal(size=(5, 20))

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.einsum("nij,nj->ni", design, p) - wanted

    found, cost = solve(residuals, np.zeros((5, 3)))
    for row in range(5):
        best, squares, *_ = np.linalg.lstsq(design[row], wanted[row], rcond=None)
        assert found[row] == pytest.approx(best, abs=1e-4)
        assert cost[row] == pytest.approx(squares[0], rel=1e-6)


def test_a_prior_is_never_surer_than_its_floor_allows() -> None:
    alike = np.tile([1.0, 2.0], (3, 1))
    prior = learn_prior(alike, floor_sigma=np.array([0.5, 0.1]))
    assert np.diag(prior.covariance) == pytest.approx([0.25 * 4 / 7, 0.01 * 4 / 7])
    assert diagonal(np.zeros(2), np.array([2.0, 0.5])).whitener() == pytest.approx(np.diag([0.5, 2.0]))


def test_batch_curves_of_a_family_are_predicted_between_their_points() -> None:
    rng = np.random.default_rng(3)
    running = np.array([8.0, 16.0, 32.0, 64.0, 128.0, 256.0])
    true = np.log([0.02, 90.0, 1.0, 150.0, 300.0, 1500.0]) + rng.normal(0.0, 0.1, (10, 6))
    time_s, watts = law(true, running)
    stacks = [Batches(f"s{row}", "gpu", f"m{row}", running, time_s[row], watts[row]) for row in range(10)]
    prior = learn_stacks(stacks[:6])
    used = [alternate(6)] * 4
    off = errors(stacks[6:], fit_stacks(stacks[6:], used, prior=prior), [~rows for rows in used])
    assert np.abs(off[0]).mean() < 0.02 and np.abs(off[1]).mean() < 0.02


def test_curve_points_at_the_ends_are_not_judged() -> None:
    x = np.linspace(0.4, 1.0, 6)
    speed = np.minimum(x / 0.7, 1.0) * 100.0
    watts = np.array([150.0, 180.0, 215.0, 260.0, 320.0, np.nan])
    fast, power = inner_errors(CurvePoints(x, speed, watts))
    assert len(fast) == 4 and len(power) == 3


def _meter() -> Reference:
    time_s = np.arange(1, 5001) * 2e-3
    rng = np.random.default_rng(5)
    level = np.repeat(rng.uniform(60.0, 400.0, 140), 36)[:5000]
    return fit_sensor.meter(time_s, level)


@pytest.mark.parametrize(("window", "period", "lag"), [(0.025, 0.1, 0.0), (0.06, 0.1, 0.02), (0.5, 0.1, 0.03)])
def test_window_and_lag_of_a_simulated_sensor_are_found(window: float, period: float, lag: float) -> None:
    meter = _meter()
    asked, seen = fit_sensor.readings(meter, window_s=window, period_s=period, lag_s=lag, ask_s=0.013)
    found = fit_sensor.fit(asked, seen, meter)
    assert found.window_s == pytest.approx(window, rel=0.1)
    assert fit_sensor.window(asked, seen, meter) == pytest.approx(window, rel=0.1)
    assert found.period_s == pytest.approx(period, rel=0.01)
    assert found.lag_s == pytest.approx(lag, abs=0.008)
    assert found.judged_rmse_w < 0.1 * found.span_w and found.judged >= 12


def test_readings_that_tell_nothing_are_refused_in_one_sentence() -> None:
    meter = _meter()
    with pytest.raises(ValueError, match="no update period of the sensor can be told"):
        fit_sensor.fit(np.arange(20.0), np.repeat([100.0, 200.0], 10), meter)
    assert np.isnan(fit_sensor.window(np.arange(20.0), np.repeat([100.0, 200.0], 10), meter))


def test_heat_constants_and_leakage_are_found_again() -> None:
    watts = np.concatenate([np.full(100, 60.0), np.full(300, 260.0), np.full(300, 60.0)])
    time_s = np.arange(0.02, 13.9, 0.02)
    die, temp = 35.0, []
    for drawn in watts:
        die += (35.0 + 0.05 * (drawn - 60.0) - die) * (1.0 - np.exp(-0.02 / 0.4))
        temp.append(die)
    record = fit_heat.HeatRecord(watts, time_s, np.interp(time_s, np.arange(1, 701) * 0.02, temp))
    assert fit_heat.fit([record]).judged_rmse_k < 0.6
    leaky = fit_heat.HeatRecord(
        60.0 + 0.8 * (np.linspace(35, 45, 700) - 35.0), time_s, np.linspace(35, 45, len(time_s))
    )
    assert fit_heat.leak_w_per_k(leaky, idle_below_w=90.0) == pytest.approx(0.8, rel=0.05)
    still = fit_heat.HeatRecord(np.full(700, 60.0), time_s, np.full(len(time_s), 35.0))
    assert fit_heat.leak_w_per_k(still, idle_below_w=90.0) is None
