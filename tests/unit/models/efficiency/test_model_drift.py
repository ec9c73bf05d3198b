"""Errors of a controller: a change that is learned is none, one that stays is found, nonsense changes nothing."""

from __future__ import annotations

from math import inf, nan
from random import Random

import pytest

from models.efficiency.model_drift import GAP_S, LEAST, STAYED_S, ModelDrift

KEPT = 30  # records of a stay at one a second


class Model(ModelDrift):
    """With a clock: the time of the newest record."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def take(self, error: float, step_s: float = 1.0) -> bool:
        self.now_s += step_s
        return self.observe(error, self.now_s) is not None


def feed(
    model: Model, count: int, mean: float, *, sigma: float = 0.01, seed: int = 1, step_s: float = 1.0
) -> list[bool]:
    rng = Random(seed)
    return [model.take(mean + rng.gauss(0.0, sigma), step_s) for _ in range(count)]


def test_a_model_that_predicts_is_never_found() -> None:
    for seed in range(5):
        assert not any(feed(Model(), 5000, 0.0, sigma=0.03, seed=seed))


def test_a_rise_that_stays_is_found_within_a_minute_and_for_as_long_as_it_stays() -> None:
    model = Model()
    assert not any(feed(model, 600, 0.0))
    told = feed(model, 300, 0.10)
    assert 8 <= told.index(True) <= 70
    assert all(told[told.index(True) :])
    assert not any(feed(model, 200, 0.0)[2 * KEPT :])


def test_a_rise_that_is_learned_within_seconds_is_none() -> None:
    model = Model()
    feed(model, 600, 0.0)
    told = feed(model, 8, 0.4) + feed(model, 300, 0.0)
    assert not any(told)
    assert feed(model, 200, 0.12)[-1]  # and a later one that stays is found all the same


def test_a_model_that_never_predicted_is_found_too() -> None:
    assert feed(Model(), 60, 0.3)[-1] and feed(Model(), 60, -0.3)[-1]
    assert not any(feed(Model(), 300, 0.1))  # neither gross nor a change


@pytest.mark.parametrize("value", [nan, inf, -1.0, -5.0])
def test_what_cannot_be_changes_nothing(value: float) -> None:
    model = Model()
    feed(model, 100, 0.0)
    assert not any(model.take(value) for _ in range(100))
    assert not any(feed(model, 100, 0.0, seed=2))


def test_one_absurd_reading_is_no_drift() -> None:
    model = Model()
    feed(model, 100, 0.0)
    assert not model.take(1e300)
    assert not any(feed(model, 200, 0.0, seed=2))


# --- records that come in bunches, late or not at all ---


def gapped(model: Model, seconds: int, mean: float, *, share: float, seed: int = 1) -> list[tuple[float, bool]]:
    """One record a second of which only a share comes: (when, told)."""
    rng, told = Random(seed), []
    for _ in range(seconds):
        model.now_s += 1.0
        if rng.random() < share:
            told.append((model.now_s, model.take(mean + rng.gauss(0.0, 0.01), 0.0)))
    return told


def test_calibrating_anew_once_more_after_each_gap_is_no_drift() -> None:
    """Each time the node comes back its controller learns for ten seconds; none of it stays, however often."""
    model = Model()
    feed(model, 300, 0.0)
    for cycle in range(40):
        model.now_s += GAP_S + 50.0
        assert not any(feed(model, 12, 0.4, seed=cycle)), cycle


def test_the_same_records_again_are_no_longer_stay() -> None:
    """At least once means twice now and then: a bad stretch of ten seconds, sent five times."""
    model = Model()
    feed(model, 300, 0.0)
    for _ in range(5):
        model.now_s = 300.0
        assert not any(feed(model, 9, 0.4))


def test_a_backlog_of_old_records_is_judged_by_its_own_time() -> None:
    """Thirty records within three seconds are not half a minute."""
    model = Model()
    feed(model, 600, 0.0)
    assert not any(feed(model, 30, 0.4, step_s=0.1))
    assert any(feed(model, 300, 0.4, step_s=0.1))


@pytest.mark.parametrize("share", [0.9, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_a_true_drift_is_found_in_its_time_though_records_are_missing(share: float, seed: int) -> None:
    model = Model()
    assert not any(told for _, told in gapped(model, 600, 0.0, share=share, seed=seed))
    first = next(at_s for at_s, told in gapped(model, 200, 0.15, share=share, seed=seed) if told)
    assert first - 600.0 <= 75.0


def test_a_gross_error_is_found_after_its_stay_with_half_of_the_records_missing() -> None:
    model = Model()
    told = gapped(model, 120, 0.3, share=0.6)
    first = next(at_s for at_s, found in told if found)
    assert STAYED_S - 1.0 <= first <= STAYED_S + 3.0


def test_too_few_records_say_nothing() -> None:
    model = Model()
    assert not any(feed(model, 200, 0.4, step_s=STAYED_S / LEAST + 1.0))


def test_a_clock_that_was_set_back_does_not_silence_for_as_long() -> None:
    model = Model()
    feed(model, 100, 0.0)
    model.now_s -= 50_000.0
    assert feed(model, 60, 0.4)[KEPT]
    model = Model()
    feed(model, 600, 0.0)
    assert not any(feed(model, 45, 0.1))  # found by ADWIN, but it has not stayed yet
    assert model._changed_s is not None
    model.now_s -= 50_000.0
    assert feed(model, 60, 0.1)[KEPT]
