"""Bounds in percent follow the load by B0's own hours, never by B0 of the judged days."""

from __future__ import annotations

import numpy as np
import pytest

from models.bench.follow import HOURS, NARROWEST, WIDEST, Fit, LoadMemory, fit

RATES = np.linspace(2.0, 40.0, 24)


def test_finds_the_square_law_that_the_hours_follow() -> None:
    found = fit(RATES, 5.0 + 4e-4 * RATES**2)
    assert (found.base_s, found.square_s) == pytest.approx((5.0, 4e-4))
    assert found.of(RATES) == pytest.approx(1.0)
    assert found.of(0.5 * RATES) < 1.0 < found.of(1.5 * RATES)


def test_unknown_hours_and_a_p99_that_falls_with_the_rate_count_as_level() -> None:
    p99 = 5.0 - 1e-3 * RATES**2
    p99[3] = np.nan
    found = fit(RATES, p99)
    assert found.square_s == 0.0 and found.of(3.0 * RATES) == 1.0
    assert fit(np.array([3.0, 4.0]), np.array([5.0, 6.0])).square_s == 0.0  # two hours say nothing of a slope
    assert fit(np.zeros(4), np.full(4, np.nan)).of(RATES) == 1.0


def test_a_factor_stays_in_its_range_and_no_load_changes_nothing() -> None:
    steep = Fit(1.0, 1.0, 10.0)
    assert steep.of(np.array([100.0])) == WIDEST and steep.of(np.array([0.1])) == NARROWEST
    assert steep.of(np.zeros(24)) == steep.of(np.array([])) == 1.0


def test_remembers_a_day_of_hourly_means() -> None:
    memory = LoadMemory()
    assert len(memory.rates()) == 0
    for minute in range(40 * 60):
        memory.add(60.0 * minute, float(minute // 60))
    rates = memory.rates()
    assert len(rates) == HOURS and rates[-1] == 39.0 and rates[0] == 16.0
    memory.add(40 * 3600.0, 7.0)
    assert memory.rates()[-1] == 7.0  # the present hour counts as far as it has come
