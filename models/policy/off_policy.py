"""Judging a policy from another policy's log: doubly robust, the twin as direct model, with an effective sample size.

`ml-driven` stays in "recommend" until the lower 95 % bound of its saving here is above zero. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

LEAST_EFFECTIVE: Final = 100.0  # fewer effective samples judge nothing
WEIGHT_MAX: Final = 20.0  # heavier weights are clipped, which biases towards the direct model


@dataclass(frozen=True, slots=True)
class Logged:
    """One logged decision: what was seen, what was done with which probability, what it cost."""

    context: object
    arm: int
    propensity: float
    feasible: tuple[int, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean cost of a policy on the log's contexts. `interval`: 95 %."""

    mean: float
    interval: tuple[float, float]
    effective: float  # samples
    clipped: int


Probability = Callable[[object, int, tuple[int, ...]], float]
Model = Callable[[object, int], float]


def doubly_robust(log: Sequence[Logged], probability: Probability, model: Model) -> Estimate:
    """Direct model plus the weighted error of that model on what was really done."""
    if not log:
        raise ValueError("the log is empty; run the policy in recommend or canary first")
    values, weights, clipped = [], [], 0
    for row in log:
        if not 0.0 < row.propensity <= 1.0:
            raise ValueError(f"a logged propensity is {row.propensity:g}; it must lie in (0, 1]")
        direct = sum(probability(row.context, arm, row.feasible) * model(row.context, arm) for arm in row.feasible)
        weight = probability(row.context, row.arm, row.feasible) / row.propensity
        clipped += weight > WEIGHT_MAX
        weight = min(weight, WEIGHT_MAX)
        weights.append(weight)
        values.append(direct + weight * (row.cost - model(row.context, row.arm)))
    count = len(values)
    mean = sum(values) / count
    spread = sqrt(sum((v - mean) ** 2 for v in values) / max(count - 1, 1) / count)
    squares = sum(w * w for w in weights)
    effective = sum(weights) ** 2 / squares if squares > 0.0 else 0.0
    return Estimate(mean, (mean - 1.96 * spread, mean + 1.96 * spread), effective, clipped)


def may_leave_recommend(candidate: Estimate, incumbent: Estimate) -> tuple[bool, str]:
    """Whether the candidate is surely cheaper than the incumbent, and the sentence that says why or why not."""
    if candidate.effective < LEAST_EFFECTIVE:
        return False, (
            f"Stays in recommend: {candidate.effective:.0f} effective samples, {LEAST_EFFECTIVE:.0f} are needed; "
            "collect more or explore more."
        )
    if candidate.interval[1] >= incumbent.interval[0]:
        return False, (
            f"Stays in recommend: its cost of {candidate.mean:.4g} (up to {candidate.interval[1]:.4g}) is not surely "
            f"below the incumbent's {incumbent.mean:.4g} (down to {incumbent.interval[0]:.4g})."
        )
    return True, (
        f"May leave recommend: at most {candidate.interval[1]:.4g} against at least {incumbent.interval[0]:.4g}, "
        f"{candidate.effective:.0f} effective samples."
    )
