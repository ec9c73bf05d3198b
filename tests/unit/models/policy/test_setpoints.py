"""What is learned acts only inside its shield, and only once its own log proves it."""

from __future__ import annotations

import random
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hyp

from models.control.forecast import LoadNow
from models.control.profiles import LLAMA_70B_H100X4
from models.policy.off_policy import LEAST_EFFECTIVE
from models.policy.setpoints import BLOCK_S, SetPointLearner, offered, price
from models.policy.strategies import STRATEGIES

ML = STRATEGIES["ml-driven"]
PRICES = [0.80, 0.80, 0.80, 0.80, 0.80]  # the model sees no difference


def _play(
    learner: SetPointLearner, true: list[float], blocks: int, *, prices: list[float] = PRICES, start_s: float = 0.0
) -> float:
    """Blocks of ten steps; the cost is the true ratio of the point in force with noise."""
    rng, now_s, arm = random.Random(11), start_s, 0
    for _ in range(blocks * 10):
        now_s += BLOCK_S / 10
        chosen = learner.step(now_s, prices, 0.5, true[arm] + rng.gauss(0.0, 0.01), explore=True)
        arm = chosen.arm
    return now_s


def test_points_are_never_looser_than_the_strategy() -> None:
    for strategy in STRATEGIES.values():
        first, *rest = offered(strategy)
        assert (first.ceiling_ratio, first.floor_ratio) == (strategy.power_ceiling_ratio, strategy.sm_floor_ratio)
        assert all(p.ceiling_ratio <= first.ceiling_ratio and p.floor_ratio >= first.floor_ratio for p in rest)


def test_the_gate_opens_for_a_point_that_is_surely_cheaper_and_only_after_enough_samples() -> None:
    learner = SetPointLearner(ML, rng=random.Random(4))
    _play(learner, [0.80, 0.80, 0.72, 0.85, 0.80], 60)
    early = learner.gate
    assert not early.open and f"{LEAST_EFFECTIVE:.0f} are needed" in early.sentence
    _play(learner, [0.80, 0.80, 0.72, 0.85, 0.80], 220, start_s=1e6)
    assert learner.gate.open, learner.gate.sentence
    told = learner.gate.as_dict()
    assert told["candidate_cost_ratio"] == pytest.approx(0.72, abs=0.01)
    assert told["incumbent_cost_ratio"] == pytest.approx(0.80, abs=0.01)
    assert told["candidate_interval"][1] < told["incumbent_interval"][0]
    assert told["candidate_effective_samples"] >= LEAST_EFFECTIVE
    chosen = [learner.step(2e6 + k * BLOCK_S, PRICES, 0.5, None, explore=False).arm for k in range(40)]
    assert chosen.count(2) > 25


def test_the_gate_stays_shut_where_nothing_is_cheaper() -> None:
    learner = SetPointLearner(ML, rng=random.Random(4))
    _play(learner, [0.80] * 5, 260)
    assert not learner.gate.open and "not surely below the incumbent" in learner.gate.sentence
    chosen = learner.step(1e6, PRICES, 0.5, 0.8, explore=False)
    assert (chosen.arm, chosen.propensity, chosen.acting) == (0, 1.0, False)


def test_a_model_that_is_wrong_costs_samples_not_truth() -> None:
    learner = SetPointLearner(ML, rng=random.Random(4))
    _play(learner, [0.80, 0.80, 0.72, 0.85, 0.80], 260, prices=[0.70, 0.90, 0.95, 0.60, 0.80])
    best = [row[2] for row in list(learner.rows)[-50:]]
    assert best.count(2) > 40
    assert learner.gate.candidate is not None
    assert learner.gate.candidate.interval[0] - 0.01 <= 0.72 + 0.01 and learner.gate.candidate.mean < 0.76


@given(hyp.lists(hyp.sampled_from([0.8, 0.7, inf, nan, -1.0]), min_size=5, max_size=5), hyp.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_nothing_outside_the_shield_is_ever_chosen(prices: list[float], busy: float) -> None:
    learner = SetPointLearner(ML, rng=random.Random(1))
    for k in range(12):
        arm = learner.step(k * BLOCK_S, prices, busy, 0.8, explore=True).arm
        assert arm == 0 or prices[arm] in (0.8, 0.7)


def test_a_point_that_leaves_the_shield_is_dropped_at_once_and_teaches_nothing() -> None:
    learner = SetPointLearner(ML, rng=random.Random(2))
    while learner.step(0.0, PRICES, 0.5, 0.8, explore=True).arm == 0:
        learner = SetPointLearner(ML, rng=random.Random(learner.rng.random()))
    assert learner.step(300.0, [0.8, inf, inf, inf, inf], 0.5, 0.8, explore=True).arm == 0
    assert not learner.rows


def test_a_log_outlives_the_process_and_a_broken_row_does_not_hurt() -> None:
    old = SetPointLearner(ML, rng=random.Random(4))
    _play(old, [0.80, 0.80, 0.72, 0.85, 0.80], 260)
    new = SetPointLearner(ML)
    new.recall(
        [*map(list, old.rows), [1], ["x"] * 7, [0, [1.0], 0, 0, 1.0, [0], 0.8], [0, PRICES, 0, 0, 0.0, [0], 1.0]]
    )
    assert list(new.rows) == list(old.rows) and new.gate == old.gate


def test_unknown_costs_teach_nothing() -> None:
    learner = SetPointLearner(ML)
    for k in range(100):
        learner.step(k * BLOCK_S / 10, PRICES, nan, [None, nan, inf, -1.0][k % 4], explore=True)
    assert not learner.rows


def test_a_ceiling_that_breaks_a_bound_has_no_price() -> None:
    busy = LoadNow(running=60, waiting_tokens=2000, kv_tokens=100_000, prompt_tokens_per_s=6000)
    points = offered(ML)
    tight = [price(LLAMA_70B_H100X4, busy, point, {"tbt": 1.0, "ttft": 1.0}) for point in points]
    loose = [price(LLAMA_70B_H100X4, busy, point, {"tbt": 2.0, "ttft": 2.0}) for point in points]
    assert inf in tight and all(one < 1.0 for one in loose)
    assert tight[0] == pytest.approx(1.0)
