"""Which setting of a knob is worth measuring next: what other jobs' sweeps say of it, and what this job has shown.

It only says where to look. Whether a setting keeps the bound is decided by its own measurements alone, so that a job
unlike all others costs steps, never time. Distances are logarithms of setting over reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import erfc, exp, log, pi, sqrt
from statistics import median
from typing import Final, Protocol

from models.control.curve import Belief, Seen, fit_curve

NEAR: Final = 0.6  # distances that the prior is learned from: beyond, clock floors take over
LEAST_SWEEPS: Final = 4
LEAST_SCATTER: Final = 0.005


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of a job's curves before it was measured: logarithms of step time and of energy."""

    slower: Belief
    dearer: Belief

    def smooth(self, scatter: float) -> Prior:
        """The same for a finely graded knob, whose settings lie closer to their curve."""
        return Prior(replace(self.slower, scatter=scatter), replace(self.dearer, scatter=scatter))


class Table(Protocol):
    """A recorded sweep."""

    @property
    def settings(self) -> Sequence[float]: ...
    @property
    def reference(self) -> float: ...
    def slowdown(self, setting: float) -> float: ...
    def saving(self, setting: float) -> float: ...


# Learned by `learn` from the tuned half of the shipped sweeps (86 of limits downwards, 53 of batch sizes upwards);
# `eo bench limit` learns it anew without a device and reports what that changes.
DOWNWARDS: Final = Prior(
    Belief((0.013, 0.243), (0.068, -0.102, 0.385), 0.019), Belief((-0.367, 0.110), (0.175, -0.253, 0.517), 0.021)
)
UPWARDS: Final = Prior(
    Belief((0.553, 0.004), (0.049, -0.016, 0.011), 0.037), Belief((-0.311, 0.085), (0.050, -0.014, 0.008), 0.025)
)


def distance(setting: float, reference: float) -> float:
    """How far a setting is from the reference."""
    return abs(log(setting / reference))


def learn(tables: Sequence[Table], *, otherwise: Prior = DOWNWARDS) -> Prior:
    """The spread of the curves of several sweeps below their reference; `otherwise` where they are too few."""
    slower: list[tuple[float, float]] = []
    dearer: list[tuple[float, float]] = []
    rests: tuple[list[float], list[float]] = ([], [])
    for table in tables:
        near = [one for one in table.settings if 0.0 < log(table.reference / one) < NEAR]
        if len(near) < 3:
            continue
        away = [distance(one, table.reference) for one in near]
        for found, rest, values in (
            (slower, rests[0], [log(1.0 + table.slowdown(one)) for one in near]),
            (dearer, rests[1], [log(1.0 - table.saving(one)) for one in near]),
        ):
            curve = fit_curve([(u, 1) for u in away], values, reference=0.0, sigma=LEAST_SCATTER)
            found.append((curve.a, curve.b))
            rest += [value - curve.at(u) for u, value in zip(away, values, strict=True)]
    if len(slower) < LEAST_SWEEPS:
        return otherwise
    return Prior(_spread(slower, rests[0]), _spread(dearer, rests[1]))


def _spread(terms: Sequence[tuple[float, float]], rest: Sequence[float]) -> Belief:
    count = len(terms)
    a, b = sum(one[0] for one in terms) / count, sum(one[1] for one in terms) / count
    covariance = (
        sum((one[0] - a) ** 2 for one in terms) / count,
        sum((one[0] - a) * (one[1] - b) for one in terms) / count,
        sum((one[1] - b) ** 2 for one in terms) / count,
    )
    typical = (median([one[0] for one in terms]), median([one[1] for one in terms]))
    return Belief(typical, covariance, max(sqrt(sum(one * one for one in rest) / len(rest)), LEAST_SCATTER))


@dataclass(frozen=True, slots=True)
class Shown:
    """What one setting has shown: pairs of blocks measured and their mean logarithms."""

    distance: float
    pairs: int
    slower: float
    dearer: float


@dataclass(frozen=True, slots=True)
class Stakes:
    """What measuring is for: the bound and the best saving so far as logarithms, and what is left to spend."""

    limit: float  # log(1 + bound)
    best: float  # log energy of the best sure setting, 0 for the reference
    pairs: int  # of blocks that can still be paid
    pair_error: float  # standard error of one pair
    sure: float  # standard errors that a decision asks for


def promise(prior: Prior, one: Shown, others: Sequence[Shown], stakes: Stakes) -> float:
    """Saving to be hoped for if all that is left were spent on this setting: chance of being sure times gain."""
    variance = stakes.pair_error**2
    slow, slow_variance = _believed(prior.slower, one, others, variance, "slower")
    dear, dear_variance = _believed(prior.dearer, one, others, variance, "dearer")
    total = one.pairs + stakes.pairs
    mean = (one.pairs * one.slower + stakes.pairs * slow) / total
    spread = stakes.pairs / total * sqrt(slow_variance + variance / stakes.pairs)
    chance = _normal((stakes.limit - stakes.sure * stakes.pair_error / sqrt(total) - mean) / spread)
    return sqrt(chance) * _hoped(stakes.best - dear, sqrt(dear_variance))


def _believed(belief: Belief, one: Shown, others: Sequence[Shown], variance: float, what: str) -> tuple[float, float]:
    seen = [Seen(other.distance, getattr(other, what), variance / other.pairs) for other in others]
    own = Seen(one.distance, getattr(one, what), variance / one.pairs) if one.pairs else None
    return belief.given(seen).at(one.distance, own)


def _hoped(gain: float, sigma: float) -> float:
    """Mean of what is above zero of a normal variable."""
    z = gain / sigma
    return sigma * exp(-0.5 * z * z) / sqrt(2.0 * pi) + gain * _normal(z)


def _normal(z: float) -> float:
    return 0.5 * erfc(-z / sqrt(2.0))
