"""The gates themselves: every bound of the shipped fits is kept, and a wrong twin is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents.cli import sweep_files
from agents.fleet.trace import recorded_workload
from models.twin import gates, gates_batch, gates_engine
from models.twin.calibrated import Calibration, dump, parse, published, shipped
from models.twin.fit_jobs import GENERIC_LAW, WIDE, DeviceFit, every, learn
from models.twin.fit_stack import learn_stacks
from models.twin.job import JobLaw
from models.twin.measured import Measured, device_sweeps, fold, refit, stacks

FLAT = JobLaw(static_w=50.0, v_min=0.98, x_knee=0.9, x_floor=0.1)
SMALL = gates_engine.Runs(replicas=12, warm_s=6.0, run_s=10.0)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return sweep_files.measured()


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return shipped()


def _missed(rows: list[gates.Row]) -> list[str]:
    return [row.name for row in rows if row.passed is False]


def test_limits_and_clocks_are_predicted_within_their_bounds(calibration: Calibration, measured: Measured) -> None:
    rows = gates.shipped_sweeps(calibration, measured)
    assert _missed(rows) == []
    by = {row.name: row for row in rows}
    assert by["a40: limit -> time"].n == 294 and by["v100: limit -> time"].n == 272  # every workload, none left out
    assert {row.name for row in rows if row.bound is not None} >= {
        f"{device}: {knob} -> {quantity}"
        for device, knob in (("v100", "limit"), ("a40", "limit"), ("a100_sxm", "clock"), ("a40", "clock"))
        for quantity in gates.QUANTITIES
    }


def test_a_law_without_the_clock_floor_misses_the_gate(calibration: Calibration, measured: Measured) -> None:
    """The A40's cliff: the same fit with the floor taken away is outside its bound."""
    sweeps = device_sweeps(measured.sweeps["zeus_power_limit_sweep.parquet"])["a40/limit_w"]
    sweeps = [one for one in sweeps if one.time_s.max() > 1.1 * one.time_s.min()][::2]
    known = calibration.device("a40", "limit_w", "odd")
    assert known is not None
    floorless = DeviceFit(replace(known.law, x_floor=0.05), known.prior)
    time_off, _, _ = gates.held_out(floorless, sweeps, gates.three)
    good, _, _ = gates.held_out(known, sweeps, gates.three)
    assert np.abs(time_off).mean() > 1.3 * np.abs(good).mean()


def test_batch_curves_clock_curves_and_sensor_are_within_their_bounds(
    calibration: Calibration, measured: Measured
) -> None:
    points = published()
    curves = stacks(measured.sweeps["mlenergy_v2_llm.csv"])
    rows = [
        *gates_batch.published_stack(points),
        *gates_batch.batch_curves(calibration, curves),
        *gates.clock_curves(points),
    ]
    rows += gates.sensor(measured.runs)
    assert _missed(rows) == []
    across = gates_batch.across_models(curves[:12])
    assert all(row.passed is None for row in across)
    assert (across[0].error or 0.0) > 0.06  # set points do not transfer; if they did, the claim would have to go


def test_an_estimate_that_misjudges_the_window_misses_the_gate(measured: Measured) -> None:
    row = gates.sensor(measured.runs[:1], estimate=lambda *_: 0.03)[0]
    assert row.passed is False and row.error is not None and row.error > 0.10


def test_engine_gates_run_on_the_twin(measured: Measured) -> None:
    points = published()

    def requests(replicas: int, thin: float):  # type: ignore[no-untyped-def]
        return recorded_workload(replicas=replicas, seed=1, thin=thin)

    row = gates_engine.vendor_profile(requests, points["vendor_profile"], runs=SMALL)
    assert row.passed, row
    assert "kappa low" in row.note


def test_a_prefill_lane_is_predicted_from_forward_passes_and_judged_by_nobody(
    calibration: Calibration, measured: Measured
) -> None:
    """No constant is chosen for it: another law predicts another figure."""
    sweeps = device_sweeps(measured.sweeps["perseus_clock_sweep.parquet"])
    lane, profile = gates_engine.prefill_lane(published()["prefill_lane"], calibration, sweeps)
    assert lane.passed is None and profile.passed is None
    assert 0.03 < (lane.error or 0.0) < 0.08 and "a100_sxm -5" in lane.note
    key = "a100_sxm/clock_mhz"
    fitted = calibration.devices[key]["all"]
    other = replace(calibration, devices={**calibration.devices, key: {"all": replace(fitted, law=FLAT)}})
    assert gates_engine.prefill_lane(published()["prefill_lane"], other, sweeps)[0].note != lane.note


def test_another_model_on_the_same_stack_is_predicted_without_it() -> None:
    rows = {row.name: row for row in gates_batch.published_stack(published())}
    time_row = rows["Llama-3.3 on the same stack: batch -> time between tokens"]
    assert time_row.n == 11 and time_row.passed and "Llama-3.1-70B" in time_row.fitted_on
    shifted = {**published(), "llama33_70b_h100x4_batch": _slower(published()["llama33_70b_h100x4_batch"])}
    assert gates_batch.published_stack(shifted)[2].passed is False


def _slower(raw: dict[str, Any]) -> dict[str, Any]:
    return {**raw, "itl_ms": [1.15 * one for one in raw["itl_ms"]]}


def test_a_row_without_points_or_with_nan_does_not_pass() -> None:
    empty = gates.judged_row("x", np.array([]), 0.5, fitted_on="", judged_on="")
    assert empty.passed is False and empty.error is None
    assert gates.judged_row("x", np.array([np.nan]), 0.5, fitted_on="", judged_on="").passed is False
    told = gates.report([empty, gates.judged_row("y", np.array([np.nan]), None, fitted_on="", judged_on="")])
    assert told["gates"][0]["n"] == 0 and told["reported"][0]["error"] is None
    assert set(told) == {"gates", "reported"}
    wanted = {"name", "n", "error", "bound", "passed", "fitted_on", "judged_on"}
    assert wanted <= set(told["gates"][0]) and "NaN" not in json.dumps(told, allow_nan=False)


def test_an_unknown_device_is_learned_from_its_three_limits(calibration: Calibration, measured: Measured) -> None:
    recorded = [
        replace(one, device="never seen")
        for one in measured.sweeps["zeus_power_limit_sweep.parquet"]
        if one.device == "v100" and "bert" in one.name
    ]
    time_row, power_row, energy_row = gates.other_sweeps(calibration, recorded, label="file", trials=12)
    assert time_row.bound is None and time_row.n == 4 * len(recorded)
    assert max(row.error or 1.0 for row in (time_row, power_row, energy_row)) < 0.04


def test_refit_and_its_file_hold_the_same_numbers(measured: Measured) -> None:
    few = Measured(
        {name: [one for at, one in enumerate(recorded) if at % 14 == 0] for name, recorded in measured.sweeps.items()},
        measured.runs,
    )
    found, sources = refit(few, date="2026-01-02", trials=3, rounds=1)
    again = parse(dump(found, sources))
    assert again.date == "2026-01-02" and set(again.devices) == set(found.devices) == set(sources) - {"stacks"}
    for key, folds in found.devices.items():
        assert again.devices[key]["all"].law.static_w == pytest.approx(folds["all"].law.static_w, abs=1e-3)
    assert again.constants["sensor_a100"]["window_s"] == pytest.approx(0.026, rel=0.1)
    assert 0.3 < again.constants["heat_a100"]["leak_w_per_k"] < 2.0


def test_a_family_refitted_is_the_family_that_ships(calibration: Calibration, measured: Measured) -> None:
    """`--refit` gives the committed numbers again (all of it: two minutes of one core, see docs/twin.md)."""
    sweeps = device_sweeps(measured.sweeps["perseus_power_limit_sweep.parquet"])["A100 80GB PCIe/limit_w"]
    found = learn(fold(sweeps, "odd"), every, start=GENERIC_LAW, prior=WIDE, trials=80, rounds=3)
    committed = calibration.devices["A100 80GB PCIe/limit_w"]["odd"]
    for name in ("static_w", "v_min", "x_knee", "x_floor"):
        assert getattr(found.law, name) == pytest.approx(getattr(committed.law, name), rel=1e-3), name
    assert found.prior.mean == pytest.approx(committed.prior.mean, abs=2e-3)
    curves = learn_stacks(stacks(measured.sweeps["mlenergy_v2_llm.csv"]))
    assert curves.mean == pytest.approx(calibration.stacks["all"].mean, abs=2e-3)


def test_shipped_numbers_have_source_date_and_interval() -> None:
    from importlib.resources import files
    from json import loads

    raw = loads(files("models.twin").joinpath("data/calibration.json").read_text())
    assert raw["date"] and raw["stacks_source"] != "unknown"
    heat, sensor = raw["constants"]["heat_a100"], raw["constants"]["sensor_a100"]
    assert heat["source"] and sensor["source"] and len(sensor["window_interval_s"]) == 2
    for name, (low, high) in heat["interval"].items():
        assert low <= heat[name] <= high
    for one in raw["devices"].values():
        assert one["source"] != "unknown"
        for name, (low, high) in one["interval"].items():
            assert low <= one["all"]["law"][name] <= high
    assert all(one["source"] for one in published().values())
