"""The efficiency regression: it learns a relation, flags what departs from it, and does not fall for one bad engine."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from models.efficiency.regression import (
    INPUTS,
    THRESHOLD,
    WARMUP,
    EfficiencyRegression,
    Judgement,
    RegressionState,
)


def observation(random: np.random.Generator, *, more_w: float = 0.0) -> tuple[dict[str, float], float]:
    tokens, prompt = random.uniform(50, 800), random.uniform(0, 3000)
    running, util = tokens / 20, random.uniform(0.4, 1.0)
    watts = 150 + 0.2 * tokens + 0.03 * prompt + 150 * util + random.normal(0, 6) + more_w
    return dict(zip(INPUTS, (tokens, prompt, running, util, 1.98), strict=True)), watts


def taught(count: int = 3000) -> tuple[EfficiencyRegression, np.random.Generator]:
    random, model = np.random.default_rng(1), EfficiencyRegression()
    for _ in range(count):
        model.observe(*observation(random))
    return model, random


def test_it_is_silent_while_it_warms_up() -> None:
    random, model = np.random.default_rng(1), EfficiencyRegression()
    assert all(model.observe(*observation(random)).score is None for _ in range(WARMUP))


def test_it_learns_the_relation_and_flags_what_departs() -> None:
    model, random = taught()
    errors, scores = [], []
    for _ in range(500):
        x, watts = observation(random)
        seen = model.observe(x, watts)
        errors.append(abs(seen.predicted_w - watts) / watts)
        scores.append(abs(seen.score or 0.0))
    assert np.median(errors) < 0.03 and max(scores) < THRESHOLD
    assert (model.observe(*observation(random, more_w=200)).score or 0.0) > THRESHOLD


def test_a_bad_engine_does_not_bend_the_relation_of_its_stack() -> None:
    model, random = taught()
    for turn in range(2000):
        model.observe(*observation(random, more_w=300.0 if turn % 20 == 0 else 0.0))
    errors = [abs(model.observe(x, w).predicted_w - w) / w for x, w in (observation(random) for _ in range(200))]
    assert np.median(errors) < 0.05


def test_a_first_change_of_clock_is_not_judged_and_does_not_explode() -> None:
    model, random = taught()
    judged: list[Judgement] = []
    for _ in range(500):
        x, watts = observation(random)
        judged.append(model.observe({**x, "sm_ghz": 1.2}, watts * 0.8))
    assert judged[0].score is None
    assert all(0 < j.predicted_w < 2000 for j in judged)


def test_a_lasting_change_of_the_relation_is_a_drift() -> None:
    model, random = taught()
    drifts = [model.observe(*observation(random, more_w=100.0)).drifted for _ in range(600)]
    assert any(drifts)
    calm, random = taught()
    assert not any(calm.observe(*observation(random)).drifted for _ in range(3000))


def test_its_state_is_numbers() -> None:
    model, random = taught()
    again = EfficiencyRegression()
    again.restore(RegressionState(**json.loads(json.dumps(asdict(model.state())))))
    for _ in range(200):
        x, watts = observation(random)
        a, b = model.observe(x, watts), again.observe(x, watts)
        assert a.predicted_w == pytest.approx(b.predicted_w) and a.score == pytest.approx(b.score)
