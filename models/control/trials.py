"""Blocks of steps measured at the reference and at a candidate, and what they say of the candidate.

Values in, values out: the search that asks for the blocks is in `training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, inf, log, sqrt
from statistics import median
from typing import Final, Literal

from models.control.promise import DOWNWARDS, Prior, Shown, distance

Verdict = Literal["feasible", "infeasible", "open"]

_TRIMMED: Final = 0.2  # of a block's steps at each end: checkpoints and data loading
_TRIM_LOSS: Final = 1.06  # standard error of such a mean against that of a plain one
_MAD: Final = 1.4826
SPOILED: Final = 3  # pairs of blocks that measured nothing before a setting is left alone


@dataclass(frozen=True, slots=True)
class Rules:
    """How to search; tuned on half of the recorded sweeps, judged on the rest."""

    spent_ratio: float = 0.05  # of the run's steps that may be spent measuring
    block_steps: int = 16
    settle_steps: int = 2  # of each block, while the limit settles
    sure: float = 2.7  # standard errors between the interval's middle and its ends, before looks are counted
    cheaper: float = 2.0  # standard errors by which a setting must be cheaper: looked at often, luck alone shows some
    hope: float = 2.0  # standard errors below its middle that a candidate's slowdown may turn out to be
    first_pairs: int = 3  # of blocks a candidate gets before the next one is looked at
    coarse: int = 9  # a knob with more settings is searched along a fitted curve instead of one by one
    smooth: float = 0.003  # how far settings of such a knob lie off their curve
    misfit: float = 0.001  # of slowdown, allowed for what the curve cannot follow
    worth: float = 0.003  # a candidate that promises less saving than this above the best is not pursued
    hoped: float = 0.0003  # promised saving below which nothing is measured for the promise alone
    least_sigma: float = 0.002  # of a step's time: no job is steadier than this
    least_pairs: int = 2  # of blocks before a setting can be sure: one pair still holds the drift
    first_sigma: float = 0.03  # of a step's time, until the job has shown its own
    prior: Prior = DOWNWARDS  # other jobs' curves below the reference: where to look, not what is so


@dataclass(frozen=True, slots=True)
class Trial:
    """Run `steps` steps at `setting`; the first `settle` of them are not counted."""

    setting: float
    steps: int
    settle: int


@dataclass(frozen=True, slots=True)
class Block:
    """What a trial measured: seconds and joules of each step, settling steps left out."""

    times_s: Sequence[float]
    energies_j: Sequence[float]


def reach_sigma(rules: Rules, looks: float) -> float:
    """Standard errors asked for at the nth look: whoever looks again and again is fooled once, so each look asks more.

    The boundary of a normal mixture (Robbins), without its first term: it grows with the logarithm of the looks.
    """
    return sqrt(rules.sure**2 + log(max(looks, 1)))


@dataclass(slots=True)
class Noise:
    """How unsteady the job's steps are, from every block of every setting: two blocks alone would tell it badly."""

    rules: Rules
    blocks: list[float] = field(default_factory=list)  # each block's own estimate for one step
    counted: int = 0

    def pair_error(self) -> float:
        """Standard error of the log ratio of one pair of blocks."""
        sigma = max(median(self.blocks), self.rules.least_sigma) if self.blocks else self.rules.first_sigma
        counted = self.counted or self.rules.block_steps - self.rules.settle_steps
        return _TRIM_LOSS * sigma * sqrt(2.0 / max(counted, 1))


@dataclass(slots=True)
class Candidate:
    setting: float
    noise: Noise
    slower: list[float] = field(default_factory=list)  # log ratio of step times, one per pair of blocks
    dearer: list[float] = field(default_factory=list)  # log ratio of energies
    spoiled: int = 0  # pairs that measured nothing

    def take(self, base: Block, tried: Block) -> None:
        """One more pair of blocks, unless one of them measured nothing."""
        if not usable(base) or not usable(tried):
            self.spoiled += 1
            return
        self.slower.append(log(_trimmed(tried.times_s) / _trimmed(base.times_s)))
        self.dearer.append(log(_trimmed(tried.energies_j) / _trimmed(base.energies_j)))
        self.noise.blocks.extend((_relative_spread(base.times_s), _relative_spread(tried.times_s)))
        self.noise.counted = min(len(base.times_s), len(tried.times_s))

    def setting_distance(self, reference: float) -> float:
        return abs(self.setting - reference)

    def middle(self) -> float:
        return sum(self.slower) / len(self.slower)

    def error(self) -> float:
        seen = _spread(self.slower) if len(self.slower) >= 4 else 0.0
        return max(self.noise.pair_error(), seen) / sqrt(len(self.slower))

    def log_energy(self) -> float:
        return sum(self.dearer) / len(self.dearer)

    def saving(self) -> float:
        return 1.0 - exp(self.log_energy())

    def interval(self) -> tuple[float, float]:
        reach = reach_sigma(self.noise.rules, len(self.slower)) * self.error()
        return exp(self.middle() - reach) - 1.0, exp(self.middle() + reach) - 1.0

    def verdict(self, bound: float) -> Verdict:
        if len(self.slower) < self.noise.rules.least_pairs:
            return "open"
        low, high = self.interval()
        return "feasible" if high <= bound else "infeasible" if low > bound else "open"

    def shown(self, reference: float) -> Shown:
        away, pairs = distance(self.setting, reference), len(self.slower)
        return Shown(away, pairs, self.middle() if pairs else 0.0, self.log_energy() if pairs else 0.0)


def usable(block: Block) -> bool:
    """A block in which a step took no time or no energy measured nothing."""
    return (
        len(block.times_s) >= 3
        and all(0.0 < one < inf for one in block.times_s)
        and all(0.0 < one < inf for one in block.energies_j)
    )


def _trimmed(values: Sequence[float]) -> float:
    cut = int(_TRIMMED * len(values))
    kept = sorted(values)[cut : len(values) - cut]
    return sum(kept) / len(kept)


def _relative_spread(values: Sequence[float]) -> float:
    middle = median(values)
    return _MAD * median([abs(one - middle) for one in values]) / middle


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sqrt(sum((one - mean) ** 2 for one in values) / (len(values) - 1))
