"""The one rule of what belongs to a window, and that results do not depend on how many are computed at once."""

from __future__ import annotations

import numpy as np
import pytest

from models.features.registry import FEATURES, compute_all
from models.features.window import COLUMNS, SPAN_NS, WIDTH, Window, count, of_series

S = 1_000_000_000
T0 = 1_760_000_000 * S


def series(length: int, *, seed: int = 0, step_ns: int = S, unknown: float = 0.1) -> Window:
    """Windows of one GPU's random series, with unknown values sprinkled in."""
    rng = np.random.default_rng(seed)
    columns = {
        "power_w": rng.uniform(30, 700, length),
        "energy_mj": np.cumsum(rng.uniform(0, 700_000, length)),
        "sm_mhz": rng.uniform(300, 1980, length),
        "util_ratio": rng.choice([0.0, 0.02, 0.5, 1.0], length),
        "temp_c": rng.uniform(30, 90, length),
        "throttle": rng.integers(0, 0x200, length).astype(np.float64),
        "tokens": np.cumsum(rng.uniform(0, 300, length)),
    }
    for column in columns.values():
        column[rng.random(length) < unknown] = np.nan
    return of_series(T0 + np.arange(length, dtype=np.int64) * step_ns, columns)


def test_a_sample_exactly_sixty_seconds_old_is_outside_and_the_newest_is_inside() -> None:
    window = of_series(np.array([T0, T0 + 1, T0 + SPAN_NS], np.int64), {"power_w": np.array([1.0, 2.0, 3.0])})
    assert window.inside[-1, -3:].tolist() == [False, True, True]
    assert window.sum("power_w")[-1] == 5_000_000
    assert count(window, "power_w")[-1] == 2


def test_at_most_64_samples_belong_to_a_window() -> None:
    window = of_series(T0 + np.arange(100, dtype=np.int64) * (S // 10), {"power_w": np.ones(100)})
    assert count(window, "power_w")[-1] == WIDTH
    assert count(window, "power_w")[:3].tolist() == [1.0, 2.0, 3.0]


def test_samples_from_the_future_are_outside_when_a_clock_went_back() -> None:
    window = of_series(np.array([T0 + 10 * S, T0], np.int64), {"power_w": np.array([7.0, 1.0])})
    assert window.sum("power_w").tolist() == [7_000_000, 1_000_000]


def test_unknown_is_counted_neither_as_zero_nor_at_all() -> None:
    window = of_series(T0 + np.arange(3, dtype=np.int64) * S, {"power_w": np.array([np.nan, 4.0, np.nan])})
    assert count(window, "power_w").tolist() == [0.0, 1.0, 1.0]
    assert window.known("power_w")[-1, -3:].tolist() == [False, True, False]
    assert count(window, "sm_mhz").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_every_feature_is_bit_equal_alone_and_among_others(seed: int) -> None:
    whole = series(200, seed=seed)
    together = compute_all(whole)
    for at in (0, 1, 63, 64, 150, 199):
        rows = slice(at, at + 1)
        alone = compute_all(Window(whole.ts_ns[rows], {name: whole.columns[name][rows] for name in COLUMNS}))
        for name, values in together.items():
            assert values[rows].tobytes() == alone[name].tobytes(), (name, at)


def test_the_layout_in_memory_does_not_change_a_bit() -> None:
    whole = series(128, seed=7)
    copied = Window(whole.ts_ns.copy(), {name: np.asfortranarray(whole.columns[name]) for name in COLUMNS})
    first, second = compute_all(whole), compute_all(copied)
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_no_gpu_gives_no_value() -> None:
    empty = Window(np.empty((0, WIDTH), np.int64), {name: np.empty((0, WIDTH)) for name in COLUMNS})
    assert {len(values) for values in compute_all(empty).values()} == {0}


@pytest.mark.parametrize("broken", [1e300, -1e300, np.inf, -np.inf])
def test_a_reading_that_cannot_be_true_is_unknown(broken: float) -> None:
    stamps = T0 + np.arange(2, dtype=np.int64) * S
    found = compute_all(of_series(stamps, {name: np.array([broken, 1.0]) for name in COLUMNS}))
    assert found["power_w_mean_60s"].tolist()[1] == 1.0 and np.isnan(found["power_w_mean_60s"][0])
    assert np.isnan([values[0] for values in found.values()]).all()
    assert np.isnan(found["energy_j_delta"][1]) and np.isnan(found["j_per_token_60s"][1])


def test_sums_of_the_largest_plausible_readings_fit() -> None:
    stamps = T0 + np.arange(100, dtype=np.int64) * S
    hot = np.where(np.arange(100) % 2, 1e4, -1e4)
    found = compute_all(of_series(stamps, {"power_w": np.full(100, 1e9), "temp_c": hot}))
    assert found["power_w_mean_60s"][-1] == 1e9
    minutes = np.arange(60) / 60
    assert found["temp_slope_c_per_min"][-1] == pytest.approx(np.polyfit(minutes, hot[-60:], 1)[0], rel=1e-9)


def test_the_table_names_each_feature_once_with_unit_window_and_formula() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(set(names)) == len(names)
    assert set(names) >= {
        "power_w_mean_60s",
        "energy_j_delta",
        "waste_w",
        "j_per_token_60s",
        "throttle_ratio_60s",
        "temp_slope_c_per_min",
        "util_ratio_mean_60s",
        "sm_mhz_mean_60s",
        "power_w_last",
    }
    for feature in FEATURES:
        assert feature.unit and feature.formula and feature.ttl_s > 0 and set(feature.columns) <= set(COLUMNS)
        assert feature.function.__name__ == feature.name and feature.function.__doc__
