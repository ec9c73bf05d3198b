"""Each feature against values worked out by hand, and its unknowns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.features.registry import BY_NAME
from models.features.window import of_series

S = 1_000_000_000
T0 = 1_760_000_000 * S
NAN = math.nan


def last(feature: str, *, step_s: float = 1.0, **columns: list[float]) -> float:
    """The feature of the newest sample of a series."""
    length = len(next(iter(columns.values())))
    stamps = T0 + (np.arange(length) * step_s * S).astype(np.int64)
    window = of_series(stamps, {name: np.array(values) for name, values in columns.items()})
    return float(BY_NAME[feature].compute(window)[-1])


def test_mean_power_leaves_out_the_unknown() -> None:
    assert last("power_w_mean_60s", power_w=[100.0, NAN, 300.0]) == 200.0
    assert math.isnan(last("power_w_mean_60s", power_w=[NAN, NAN]))


def test_last_power_is_unknown_when_the_newest_is() -> None:
    assert last("power_w_last", power_w=[1.0, 2.5]) == 2.5
    assert math.isnan(last("power_w_last", power_w=[1.0, NAN]))


def test_energy_delta_is_counter_based_in_joules() -> None:
    assert last("energy_j_delta", energy_mj=[1_000_000.0, 1_400_000.0]) == 400.0


def test_energy_delta_reaches_over_an_unknown_sample() -> None:
    assert last("energy_j_delta", energy_mj=[1_000_000.0, NAN, 1_900_000.0]) == 900.0


@pytest.mark.parametrize(
    ("counter", "why"),
    [
        ([5_000_000.0, 200_000.0], "went back: the driver was loaded anew"),
        ([0.0, 2.0**60], "leapt: no GPU draws that"),
        ([5_000_000.0], "has no sample before it"),
        ([5_000_000.0, NAN], "is unknown now"),
        ([NAN, 5_000_000.0], "was unknown before"),
    ],
)
def test_energy_delta_is_unknown_when_the_counter(counter: list[float], why: str) -> None:
    assert math.isnan(last("energy_j_delta", energy_mj=counter)), why


def test_energy_delta_does_not_reach_beyond_the_window() -> None:
    assert math.isnan(last("energy_j_delta", step_s=60.0, energy_mj=[1_000.0, 2_000.0]))


def test_energy_delta_may_be_zero_and_up_to_the_largest_board() -> None:
    assert last("energy_j_delta", energy_mj=[7.0, 7.0]) == 0.0
    assert last("energy_j_delta", energy_mj=[0.0, 3_000_000.0]) == 3000.0
    assert math.isnan(last("energy_j_delta", energy_mj=[0.0, 3_000_001.0]))


def test_waste_counts_watts_above_deep_idle_while_nothing_runs() -> None:
    assert last("waste_w", power_w=[135.0, 135.0], util_ratio=[0.0, 0.05]) == 100.0
    assert last("waste_w", power_w=[135.0, 500.0], util_ratio=[0.0, 0.9]) == 50.0
    assert last("waste_w", power_w=[20.0], util_ratio=[0.0]) == 0.0
    assert last("waste_w", power_w=[500.0], util_ratio=[0.06]) == 0.0


def test_waste_is_unknown_without_power_or_utilisation() -> None:
    assert math.isnan(last("waste_w", power_w=[135.0], util_ratio=[NAN]))
    assert last("waste_w", power_w=[135.0, NAN, 999.0], util_ratio=[0.0, 0.0, NAN]) == 100.0


def test_joules_per_token_uses_both_counters_over_the_same_time() -> None:
    energy, tokens = [NAN, 100_000.0, 300_000.0, 400_000.0], [5.0, 10.0, 110.0, NAN]
    assert last("j_per_token_60s", energy_mj=energy, tokens=tokens) == 2.0


@pytest.mark.parametrize(
    ("energy", "tokens"),
    [
        ([0.0, 1000.0], [5.0, 5.0]),
        ([0.0, 1000.0], [50.0, 5.0]),
        ([9000.0, 1000.0], [5.0, 50.0]),
        ([0.0, 1000.0], [NAN, NAN]),
        ([0.0], [5.0]),
        ([0.0, 1e12], [5.0, 50.0]),
    ],
)
def test_joules_per_token_is_unknown_without_tokens_or_with_a_counter_that_went_back(
    energy: list[float], tokens: list[float]
) -> None:
    assert math.isnan(last("j_per_token_60s", energy_mj=energy, tokens=tokens))


def test_throttling_counts_caps_heat_and_brake_and_not_idle() -> None:
    assert last("throttle_ratio_60s", throttle=[0.0, 1.0, 2.0, 0x10]) == 0.0
    assert last("throttle_ratio_60s", throttle=[0x04, 0x21, 0x80, 0.0]) == 0.75
    assert last("throttle_ratio_60s", throttle=[0x40, NAN]) == 1.0
    assert math.isnan(last("throttle_ratio_60s", throttle=[NAN]))


def test_temperature_slope_is_degrees_per_minute() -> None:
    rising = [40.0 + second / 10 for second in range(30)]
    assert last("temp_slope_c_per_min", temp_c=rising) == pytest.approx(6.0, abs=1e-6)
    assert last("temp_slope_c_per_min", temp_c=[50.0] * 30) == 0.0
    assert math.isnan(last("temp_slope_c_per_min", temp_c=rising[:9]))


def test_temperature_slope_is_that_of_least_squares_with_unknown_samples_left_out() -> None:
    rng = np.random.default_rng(3)
    temp = list(rng.uniform(40, 80, 50))
    temp[7] = temp[20] = NAN
    x = np.array([second / 60 for second, value in enumerate(temp) if not math.isnan(value)])
    y = np.array([value for value in temp if not math.isnan(value)])
    assert last("temp_slope_c_per_min", temp_c=temp) == pytest.approx(np.polyfit(x, y, 1)[0], abs=1e-5)


def test_means_of_activity() -> None:
    assert last("util_ratio_mean_60s", util_ratio=[0.0, 0.5, 1.0]) == 0.5
    assert last("sm_mhz_mean_60s", sm_mhz=[600.0, 1800.0]) == 1200.0


def test_values_are_rounded_to_a_millionth() -> None:
    assert last("power_w_mean_60s", power_w=[1.0, 1.0, 2.0]) == 1.333333
