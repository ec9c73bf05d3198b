"""Columns of all kinds become sweeps; what is unusable is counted with its reason."""

from __future__ import annotations

import numpy as np
import pytest

from models.twin.recordings import BATCH, CLOCK, LIMIT, Unreadable, as_sweep, from_columns, whole_pipeline


def test_names_and_units_of_public_sets_are_known() -> None:
    with_units = {
        "gpu": ["x"] * 2,
        "power_limit_W": [200, 300],
        "time_per_epoch_s": [2.0, 1.0],
        "average_power_W": [150, 200],
    }
    without = {"gpu": ["x"] * 2, "power_limit": [200, 300], "time_per_epoch": [2.0, 1.0], "average_power": [150, 200]}
    odd = {"GPU": ["x"] * 2, "Power Limit [mW]": [2e5, 3e5], "step time (ms)": [2000, 1000], "energy kJ": [0.3, 0.2]}
    for columns in (with_units, without, odd):
        (one,) = from_columns(columns).sweeps
        assert (one.knob, one.device) == (LIMIT, "x")
        assert one.setting.tolist() == [200.0, 300.0]
        assert one.time_s.tolist() == [2.0, 1.0]
        assert one.energy_j == pytest.approx([300.0, 200.0])


@pytest.mark.parametrize(
    ("columns", "knob", "settings"),
    [
        ({"power.limit [W]": ["300.00 W", "200.00 W"], "Time (s)": ["1.0", "2.0"],
          "power.draw [W]": ["200.00 W", "150 W"]}, LIMIT, [200.0, 300.0]),
        ({"power_limit": [300_000, 200_000], "time": [1.0, 2.0], "power_w": [200, 150]}, LIMIT, [200.0, 300.0]),
        ({"locked_clock_mhz": ["1,410 MHz", "1,005 MHz"], "duration_ms": [1000, 2000],
          "energy_kwh": [200 / 3.6e6, 300 / 3.6e6]}, CLOCK, [1005.0, 1410.0]),
        ({"freq_hz": [1.41e9, 1.005e9], "elapsed_seconds": [1.0, 2.0], "total_energy_joules": [200.0, 300.0]},
         CLOCK, [1005.0, 1410.0]),
        ({"power_limit_W": [300, 300], "sm_clock": [1410, 1005], "step_time": [1.0, 2.0], "power": [200, 150]},
         CLOCK, [1005.0, 1410.0]),
        ({"power_cap_watts": [300, 200], "tokens_per_s": [1.0, 0.5], "avg_power_W": [200, 150]}, LIMIT, [200.0, 300.0]),
        ({"index": [0, 1], "power_limit_W": [300, 200], "Time": [1, 2], "gpu_power_draw_w": [200, 150],
          "timestamp": ["2026-01-01", "2026-01-02"]}, LIMIT, [200.0, 300.0]),
    ],
)  # fmt: skip
def test_other_names_units_and_texts_are_the_same_sweep(
    columns: dict[str, list[object]], knob: str, settings: list[float]
) -> None:
    (one,) = from_columns(columns).sweeps
    assert one.knob == knob and one.setting == pytest.approx(settings)
    assert one.time_s == pytest.approx([2.0, 1.0]) and one.energy_j == pytest.approx([300.0, 200.0])


def test_a_column_that_numbers_its_rows_names_no_workload() -> None:
    columns = {
        "n": [10, 11, 12, 13],
        "limit_w": [100, 200, 300, 400],
        "time_s": [4, 3, 2, 1],
        "power_w": [90, 150, 200, 250],
    }
    (one,) = from_columns(columns).sweeps
    assert len(one.setting) == 4


def test_energy_of_a_group_is_shared_out_among_its_gpus() -> None:
    columns = {
        "clock_mhz": [1000, 1400],
        "iteration_time_s": [2.0, 1.0],
        "iteration_energy_J": [1200, 800],
        "n_gpus": [4, 4],
    }
    (one,) = from_columns(columns).sweeps
    assert one.knob == CLOCK
    assert one.gpu_w.tolist() == [150.0, 200.0]
    sweep = as_sweep(one, fmax_mhz=1400.0)
    assert sweep.lock_x.tolist() == [1000 / 1400, 1.0]
    assert np.all(np.isinf(sweep.limit_w))


def test_repetitions_are_medians_and_bad_rows_are_counted() -> None:
    columns = {
        "limit_w": [300, 300, 300, 200, 200, 100],
        "time_s": [1.0, 1.1, 9.0, 1.5, None, "[N/A]"],
        "power_w": [250, 250, 250, 190, 190, 95],
    }
    found = from_columns(columns)
    assert found.sweeps[0].time_s.tolist() == [1.5, 1.1]
    assert found.skipped == {"row without a positive number": 2}


def test_columns_of_measurements_name_no_workload() -> None:
    columns = {
        "model": ["a", "a"],
        "power_limit_W": [200, 300],
        "sm_clock_MHz": [1200, 1500],
        "time_s": [1.2, 1.0],
        "average_power_W": [180, 240],
        "avg_temp_C": [50, 60],
        "loss": [2.31, 2.32],
    }
    (one,) = from_columns(columns).sweeps
    assert one.name == "a" and one.setting.tolist() == [200.0, 300.0]


def test_a_single_setting_is_no_sweep() -> None:
    found = from_columns({"model": ["a", "b"], "power_limit_W": [300, 300], "time_s": [1, 1], "power_w": [200, 210]})
    assert found.sweeps == [] and found.skipped == {"workload with fewer than two settings": 2}


def test_stages_of_a_pipeline_add_up_at_common_clocks() -> None:
    columns = {
        "gpu": ["g"] * 5,
        "stage": [0, 0, 1, 1, 1],
        "instruction": ["forward"] * 5,
        "sm_clock_MHz": [1000, 1200, 1000, 1200, 1400],
        "time_s": [2.0, 1.5, 4.0, 3.0, 2.5],
        "energy_J": [10, 12, 20, 24, 28],
    }
    (one,) = whole_pipeline(from_columns(columns).sweeps)
    assert one.name == "g" and one.setting.tolist() == [1000.0, 1200.0]
    assert one.time_s.tolist() == [6.0, 4.5] and one.energy_j.tolist() == [30.0, 36.0]


def test_batch_sweeps_take_watts_per_gpu_of_the_group() -> None:
    columns = {
        "model": ["m"] * 2,
        "tp": [4, 4],
        "pp": [1, 1],
        "max_batch": [64, 128],
        "avg_batch": [63.5, 126.0],
        "avg_tpot_s": [0.02, 0.03],
        "energy_per_token_J": [1.0, 0.7],
        "gpu_power_W": [2000, 2400],
    }
    (one,) = from_columns(columns).sweeps
    assert one.knob == BATCH and one.running is not None
    assert one.gpu_w.tolist() == [500.0, 600.0] and one.running.tolist() == [63.5, 126.0]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"a": [1]}, "no power limit, clock or batch size among the columns a; name one power_limit_W"),
        ({"power_limit_W": [1]}, "no time .time_per_epoch_s"),
        (
            {"power_limit_W": [1], "time_s": [1]},
            "no energy or power among the columns power_limit_W, time_s; give energy_J",
        ),
        ({}, r"among the columns \(none\)"),
    ],
)
def test_what_is_missing_is_said(columns: dict[str, list[int]], text: str) -> None:
    with pytest.raises(Unreadable, match=text):
        from_columns(columns)
