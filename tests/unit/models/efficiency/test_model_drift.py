"""Errors of a controller: a change that is learned is none, one that stays is found, nonsense changes nothing."""

from __future__ import annotations

from math import inf, nan
from random import Random

import pytest

from models.efficiency.model_drift import KEPT, ModelDrift


def feed(model: ModelDrift, count: int, mean: float, *, sigma: float = 0.01, seed: int = 1) -> list[bool]:
    rng = Random(seed)
    return [model.observe(mean + rng.gauss(0.0, sigma)) is not None for _ in range(count)]


def test_a_model_that_predicts_is_never_found() -> None:
    for seed in range(5):
        assert not any(feed(ModelDrift(), 5000, 0.0, sigma=0.03, seed=seed))


def test_a_rise_that_stays_is_found_within_a_minute_and_for_as_long_as_it_stays() -> None:
    model = ModelDrift()
    assert not any(feed(model, 600, 0.0))
    told = feed(model, 300, 0.10)
    assert 8 <= told.index(True) <= 70
    assert all(told[told.index(True) :])
    assert not any(feed(model, 200, 0.0)[2 * KEPT :])


def test_a_rise_that_is_learned_within_seconds_is_none() -> None:
    model = ModelDrift()
    feed(model, 600, 0.0)
    told = feed(model, 8, 0.4) + feed(model, 300, 0.0)
    assert not any(told)
    assert feed(model, 200, 0.12)[-1]  # and a later one that stays is found all the same


def test_a_model_that_never_predicted_is_found_too() -> None:
    assert feed(ModelDrift(), 60, 0.3)[-1] and feed(ModelDrift(), 60, -0.3)[-1]
    assert not any(feed(ModelDrift(), 300, 0.1))  # neither gross nor a change


@pytest.mark.parametrize("value", [nan, inf, -1.0, -5.0])
def test_what_cannot_be_changes_nothing(value: float) -> None:
    model = ModelDrift()
    feed(model, 100, 0.0)
    assert all(model.observe(value) is None for _ in range(100))
    assert not any(feed(model, 100, 0.0, seed=2))


def test_one_absurd_reading_is_no_drift() -> None:
    model = ModelDrift()
    feed(model, 100, 0.0)
    assert model.observe(1e300) is None
    assert not any(feed(model, 200, 0.0, seed=2))
