"""Laws of the forecasters on known series, and their figures on a recorded week."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.forecast.base import QUANTILES, Diverged, Series, TooShort
from models.forecast.holt_winters import HoltWinters
from models.forecast.seasonal_naive import SeasonalNaive
from models.forecast.select import LEAST_WINDOWS, Outcome, candidates, forecast, needed
from models.forecast.snarimax import Snarimax

WEEK = json.loads((Path(__file__).resolve().parents[3] / "data" / "forecast" / "servegen_rate_week1.json").read_text())
DAY = 144  # steps of 600 s


def series(values: list[float | None], season: int = 12) -> Series:
    return Series(tuple(values), 600.0, season)


@pytest.mark.parametrize("season", [1, 12])
@pytest.mark.parametrize("level", [0.0, 42.0, 1e6])
def test_a_constant_series_stays_constant(level: float, season: int) -> None:
    found = forecast(series([level] * 120, season), 6)
    assert found.mean == pytest.approx([level] * 6)
    assert all(value == pytest.approx(level) for row in found.quantiles for value in row)


def test_a_pure_season_is_repeated_exactly() -> None:
    values: list[float | None] = [100 + 30 * math.sin(2 * math.pi * k / 12) for k in range(120)]
    found = forecast(series(values), 24)
    assert found.mean == pytest.approx([values[k % 12] for k in range(120, 144)], abs=1e-6)
    assert found.season == 12


def test_a_trend_is_followed_for_a_while_and_damped() -> None:
    model = HoltWinters(1, alpha=0.5, beta=0.3, gamma=0.1)
    for k in range(200):
        model.learn(10.0 * k)
    ahead = model.forecast(500) or []
    assert ahead[0] > 1990
    assert all(later >= earlier for earlier, later in pairwise(ahead))
    assert ahead[-1] - ahead[0] < 10.0 * 500 / 10  # never a slope carried on for ever


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1e4), min_size=60, max_size=90), st.integers(1, 8))
def test_quantiles_are_ordered_finite_and_above_the_minimum(values: list[float], horizon: int) -> None:
    found = forecast(series(list(values), 4), horizon, minimum=0.0)
    assert len(found.mean) == len(found.quantiles) == horizon
    for row in found.quantiles:
        assert len(row) == len(QUANTILES)
        assert all(a <= b for a, b in pairwise(row))
        assert all(math.isfinite(value) and value >= 0 for value in row)


def test_coverage_is_about_nominal_on_values_that_nobody_saw() -> None:
    rng = random.Random(7)
    inside = seen = 0
    for _ in range(12):
        values: list[float | None] = [
            50 + 20 * math.sin(2 * math.pi * k / 24) + rng.gauss(0, 4) for k in range(24 * 14 + 12)
        ]
        found = forecast(series(values[:-12], 24), 12)
        low, high = QUANTILES.index(0.1), QUANTILES.index(0.9)
        for truth, row in zip(values[-12:], found.quantiles, strict=True):
            inside, seen = inside + (row[low] <= (truth or 0.0) <= row[high]), seen + 1
    assert 0.70 <= inside / seen <= 0.90  # nominal 0.80; 144 values


def by_model(found: Outcome) -> dict[str, float | None]:
    return {score.model.partition("(")[0]: score.mase for score in found.scores}


def test_on_the_recorded_week_the_choice_is_at_least_as_good_as_the_seasonal_naive() -> None:
    """MASE = mean absolute error over the seasonal naive's; stated in docs/api.md."""
    mase = {}
    for model in ("m-large", "m-small"):
        for hours in (1, 6, 24):
            # Rate 0 is a gap in this recording: unknown, not zero.
            values = [rate or None for rate in WEEK[model]]
            found = forecast(series(values, DAY), hours * 6, minimum=0.0)
            chosen = next(score for score in found.scores if score.model == found.model)
            assert chosen.mase is not None and chosen.coverage is not None
            assert 0.65 <= chosen.coverage <= 0.92, (model, hours)
            mase[model, hours] = chosen.mase
    assert mase["m-large", 1] < 0.6 and mase["m-small", 1] < 0.6
    assert all(value <= 1.1 for value in mase.values()), mase


def test_the_held_out_last_day_lies_inside_about_as_often_as_stated() -> None:
    low, high = QUANTILES.index(0.1), QUANTILES.index(0.9)
    inside = seen = 0
    for model in ("m-large", "m-small"):
        values = [rate or None for rate in WEEK[model]]
        for end in range(6 * DAY, 7 * DAY - 6, 24):
            found = forecast(series(values[:end], DAY), 6, minimum=0.0)
            for truth, row in zip(values[end : end + 6], found.quantiles, strict=True):
                if truth is not None:
                    inside, seen = inside + (row[low] <= truth <= row[high]), seen + 1
    assert seen > 60
    assert 0.6 <= inside / seen <= 0.97


def test_too_little_history_is_said_with_both_numbers() -> None:
    with pytest.raises(TooShort, match=r"3\.33 h of history are too little for a horizon of 24 h: [\d.]+ h are needed"):
        forecast(series([1.0] * 20), 144)
    least = needed(6, 12)
    with pytest.raises(TooShort):
        forecast(series([1.0] * (least - 1)), 6)
    assert forecast(series([1.0] * least), 6).scores[0].windows >= LEAST_WINDOWS
    told = r"0\.00 h of history are too little for a horizon of 1 h: [\d.]+ h are needed"
    nothing: list[float | None] = [None] * 500
    for values in (nothing, [None, 1.0, None]):  # the bound that is told is the horizon's, not "2 values"
        with pytest.raises(TooShort, match=told):
            forecast(series(values), 6)


def test_gaps_are_bridged_up_to_a_bound_and_never_zero() -> None:
    values: list[float | None] = [None if k % 5 == 0 else 100.0 for k in range(200)]
    found = forecast(series(values), 6)
    assert found.mean == pytest.approx([100.0] * 6)
    assert found.missing_ratio == pytest.approx(0.2, abs=0.01)
    with pytest.raises(TooShort, match="67 % of the history is unknown and at most 30 % may be"):
        forecast(series([100.0 if k % 3 == 0 else None for k in range(601)]), 6)
    nan: list[float | None] = [float("nan") if k == 50 else 5.0 for k in range(120)]
    assert forecast(series(nan), 6).mean == pytest.approx([5.0] * 6)


def test_a_model_that_diverges_is_left_out_with_its_reason() -> None:
    found = forecast(series([rate or None for rate in WEEK["m-large"]], DAY), 144, minimum=0.0)
    snarimax = next(score for score in found.scores if score.model.startswith("snarimax"))
    assert snarimax.failed is not None and "diverged" in snarimax.failed and snarimax.mae is None
    assert found.model != snarimax.model
    with pytest.raises(Diverged):
        model = Snarimax(4, p=2, sp=1)
        for k in range(40):
            model.learn(float(k % 4) if k < 30 else 1e6 * (-1) ** k)
        model._low = model._high = 0.0  # whatever it says now is outside what was seen
        model.forecast(8)


def test_models_say_nothing_before_they_have_seen_a_season() -> None:
    for make in candidates(12):
        model = make()
        assert model.forecast(3) is None
        model.learn(1.0)
        assert model.forecast(3) is None
    assert SeasonalNaive(1).forecast(2) is None
