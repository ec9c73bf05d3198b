"""The bandit never leaves its shield, its propensities are true, and the log judges policies it did not follow."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from models.policy.bandit import Choice, ShieldedBandit
from models.policy.off_policy import Logged, doubly_robust, may_leave_recommend

TRUE = {0: 10.0, 1: 8.0, 2: 12.0}


def _cost(arm: int, rng: random.Random) -> float:
    return TRUE[arm] + rng.gauss(0.0, 1.0)


def _play(rounds: int, epsilon: float = 0.2, seed: int = 1) -> tuple[ShieldedBandit, list[Choice], list[float]]:
    rng = random.Random(seed)
    bandit = ShieldedBandit(epsilon=epsilon, rng=random.Random(seed + 1))
    choices, costs = [], []
    for _ in range(rounds):
        choice = bandit.choose("busy", (0, 1, 2), (9.0, 11.0, 9.5))
        cost = _cost(choice.arm, rng)
        bandit.learn(choice, cost)
        choices.append(choice)
        costs.append(cost)
    return bandit, choices, costs


def test_finds_the_cheapest_arm_although_the_model_says_otherwise() -> None:
    _, choices, _ = _play(400)
    assert Counter(c.arm for c in choices[-200:]).most_common(1)[0][0] == 1


def test_never_chooses_outside_the_shield() -> None:
    bandit, _, _ = _play(200)
    assert {bandit.choose("busy", (0, 2), (1.0, 1.0)).arm for _ in range(300)} <= {0, 2}
    with pytest.raises(ValueError, match="at least 1"):
        bandit.choose("busy", (), ())


def test_logged_propensities_are_the_frequencies() -> None:
    bandit = ShieldedBandit(epsilon=0.3, rng=random.Random(3))
    seen = [bandit.choose("x", (0, 1, 2), (1.0, 2.0, 3.0)) for _ in range(6_000)]
    for arm in (0, 1, 2):
        share = sum(c.arm == arm for c in seen) / len(seen)
        expected = next(c.propensity for c in seen if c.arm == arm)
        assert share == pytest.approx(expected, abs=0.02)


def test_switching_cost_keeps_the_arm_in_force() -> None:
    bandit = ShieldedBandit(epsilon=0.02, switching=5.0, rng=random.Random(9))
    first = bandit.choose("x", (0, 1), (1.0, 2.0)).arm
    assert first == 0
    assert bandit.choose("x", (0, 1), (3.0, 2.0)).arm == 0


def test_too_little_exploration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"epsilon is 0\.01; give a share in \[0\.02, 1\]"):
        ShieldedBandit(epsilon=0.01)


def _log() -> list[Logged]:
    _, choices, costs = _play(3_000, epsilon=0.3, seed=5)
    return [Logged(c.context, c.arm, c.propensity, c.feasible, k) for c, k in zip(choices, costs, strict=True)]


@pytest.mark.parametrize("arm", [0, 1, 2])
def test_doubly_robust_finds_the_value_of_an_arm_with_a_wrong_model(arm: int) -> None:
    estimate = doubly_robust(_log(), lambda _c, a, _f: float(a == arm), lambda _c, _a: 9.0)
    assert estimate.interval[0] <= TRUE[arm] <= estimate.interval[1]
    assert estimate.interval[1] - estimate.interval[0] < 1.0


def test_a_worse_or_unproved_policy_stays_in_recommend() -> None:
    log = _log()
    one = doubly_robust(log, lambda _c, a, _f: float(a == 1), lambda _c, _a: 9.0)
    two = doubly_robust(log, lambda _c, a, _f: float(a == 2), lambda _c, _a: 9.0)
    few = doubly_robust(log[:40], lambda _c, a, _f: float(a == 1), lambda _c, _a: 9.0)
    assert may_leave_recommend(one, two)[0]
    assert not may_leave_recommend(two, one)[0]
    refused, words = may_leave_recommend(few, two)
    assert not refused and "effective samples, 100 are needed" in words


def test_a_log_without_propensities_is_refused() -> None:
    with pytest.raises(ValueError, match="logged propensity is 0"):
        doubly_robust([Logged("x", 0, 0.0, (0,), 1.0)], lambda *_: 1.0, lambda *_: 1.0)
