"""The learner of `ml-driven`: a contextual bandit that chooses only among what the controller calls feasible.

The shield is the caller's list of arms: nothing outside it can be chosen, so learning can cost energy but not latency.
Every choice comes with its propensity, and leaving an arm costs. No clock, no files; randomness is an argument.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final

EPSILON_MIN: Final = 0.02  # without it no choice could ever be judged from the log
_FORGET: Final = 0.02


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen and with which probability, with what is needed to judge it later."""

    context: Hashable
    arm: int
    propensity: float
    feasible: tuple[int, ...]
    greedy: bool
    best: int = -1  # the arm that was cheapest by what was known then


@dataclass(slots=True)
class ShieldedBandit:
    """Costs per (context, arm) as running means with forgetting; a prior comes from the model.

    Args:
        epsilon: share of random choices, at least EPSILON_MIN.
        switching: cost of leaving the arm in force, in the unit of the costs.
        prior_weight: how many observations the model's own price counts for.
    """

    epsilon: float = 0.05
    switching: float = 0.0
    prior_weight: float = 5.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    _mean: dict[tuple[Hashable, int], float] = field(default_factory=dict)
    _count: dict[tuple[Hashable, int], float] = field(default_factory=dict)
    _held: int | None = None

    def __post_init__(self) -> None:
        if not EPSILON_MIN <= self.epsilon <= 1.0:
            raise ValueError(f"epsilon is {self.epsilon:g}; give a share in [{EPSILON_MIN:g}, 1]")

    def choose(self, context: Hashable, feasible: Sequence[int], prior: Sequence[float]) -> Choice:
        """One arm out of `feasible`; `prior` is the model's cost of each of them."""
        if not feasible or len(feasible) != len(prior):
            raise ValueError(f"{len(feasible)} feasible arms and {len(prior)} prices; give the same number, at least 1")
        costs = [
            self.cost(context, arm, price) + (0.0 if self._held in (None, arm) else self.switching)
            for arm, price in zip(feasible, prior, strict=True)
        ]
        best = feasible[costs.index(min(costs))]
        arm = self.rng.choice(list(feasible)) if self.rng.random() < self.epsilon else best
        share = self.epsilon / len(feasible)
        self._held = arm
        propensity = share + (1.0 - self.epsilon if arm == best else 0.0)
        return Choice(context, arm, propensity, tuple(feasible), arm == best, best)

    def learn(self, choice: Choice, cost: float) -> None:
        """What the choice cost. A cost that is not a number teaches nothing."""
        if cost != cost or cost in (float("inf"), float("-inf")):
            return
        key = (choice.context, choice.arm)
        count = min(self._count.get(key, 0.0) + 1.0, 1.0 / _FORGET)
        mean = self._mean.get(key, cost)
        self._count[key] = count
        self._mean[key] = mean + (cost - mean) / count

    def cost(self, context: Hashable, arm: int, price: float) -> float:
        """Learned cost, drawn towards the model's price as long as little was seen."""
        key = (context, arm)
        count = self._count.get(key, 0.0)
        return (self.prior_weight * price + count * self._mean.get(key, 0.0)) / (self.prior_weight + count)
