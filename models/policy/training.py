"""Online choice of a power limit or a clock for a training job, under a bound on its slowdown.

Each candidate is measured in short blocks beside blocks at the reference, in the order A B B A, so that drift of the job
or of the room cancels. A candidate counts as feasible only when the upper end of its slowdown's interval keeps the bound.
The search is a coroutine: it asks for blocks and is sent what they measured. It must not touch a device or a clock.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log, sqrt
from statistics import median
from typing import Final, Literal

Verdict = Literal["feasible", "infeasible", "open"]

_TRIMMED: Final = 0.2  # of a block's steps at each end: checkpoints and data loading
_TRIM_LOSS: Final = 1.06  # standard error of such a mean against that of a plain one
_MAD: Final = 1.4826


@dataclass(frozen=True, slots=True)
class Rules:
    """How to search; tuned on half of the recorded sweeps, judged on the rest."""

    spent_ratio: float = 0.05  # of the run's steps that may be spent measuring
    block_steps: int = 16
    settle_steps: int = 2  # of each block, while the limit settles
    sure: float = 3.0  # standard errors between the interval's middle and its ends
    hope: float = 2.0  # standard errors below its middle that a candidate's slowdown may turn out to be
    first_pairs: int = 4  # of blocks a candidate gets before the next one is looked at
    coarse: int = 9  # settings tried first; between the best and its neighbours it is refined
    refine: int = 3
    worth: float = 0.003  # a candidate that promises less saving than this above the best is not pursued
    least_sigma: float = 0.002  # of a step's time: no job is steadier than this


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


@dataclass(frozen=True, slots=True)
class Choice:
    """The setting to run at. slowdown and saving are estimates against the reference, with their intervals."""

    setting: float
    slowdown: float
    slowdown_interval: tuple[float, float]
    saving: float
    steps: int
    measured: tuple[float, ...]
    reason: str


Search = Generator[Trial, Block, Choice]


@dataclass(slots=True)
class _Candidate:
    setting: float
    slower: list[float] = field(default_factory=list)  # log ratio of step times, one per pair of blocks
    dearer: list[float] = field(default_factory=list)  # log ratio of energies
    sigma: list[float] = field(default_factory=list)  # of one step, each block's own estimate
    counted: int = 0

    def middle(self) -> float:
        return sum(self.slower) / len(self.slower)

    def error(self, rules: Rules) -> float:
        sigma = max(median(self.sigma), rules.least_sigma)
        per_pair = _TRIM_LOSS * sigma * sqrt(2.0 / max(self.counted, 1))
        seen = _spread(self.slower) if len(self.slower) >= 4 else 0.0
        return max(per_pair, seen) / sqrt(len(self.slower))

    def saving(self) -> float:
        return 1.0 - exp(sum(self.dearer) / len(self.dearer))

    def interval(self, rules: Rules) -> tuple[float, float]:
        reach = rules.sure * self.error(rules)
        return exp(self.middle() - reach) - 1.0, exp(self.middle() + reach) - 1.0

    def verdict(self, bound: float, rules: Rules) -> Verdict:
        if not self.slower:
            return "open"
        low, high = self.interval(rules)
        return "feasible" if high <= bound else "infeasible" if low > bound else "open"


def search(
    settings: Sequence[float], *, reference: float, bound: float, run_steps: int, rules: Rules | None = None
) -> Search:
    """Finds the setting of least energy whose slowdown against `reference` keeps `bound`.

    Send it one Block per Trial; it returns a Choice. With a budget too small for one comparison it chooses the
    reference and says so.
    """
    _check(settings, reference=reference, bound=bound, run_steps=run_steps)
    hunt = _Hunt(settings, reference, bound, run_steps, rules or Rules())
    yield from hunt.look()
    return hunt.choice()


class _Hunt:
    """State of one search."""

    def __init__(self, settings: Sequence[float], reference: float, bound: float, run_steps: int, rules: Rules) -> None:
        self._reference, self._bound, self._rules = reference, bound, rules
        self._left = int(run_steps * rules.spent_ratio)
        self._budget = self._left
        # Away from the reference: the nearest first, because slowdown grows with the distance.
        self._order = sorted(
            {float(one) for one in settings} - {float(reference)}, key=lambda one: abs(one - reference)
        )
        self._tried: dict[float, _Candidate] = {}

    def look(self) -> Generator[Trial, Block, None]:
        """Coarse settings first, outwards until they are surely too slow; then between; then what is still open."""
        yield from self._outwards(self._coarse())
        for _ in range(self._rules.refine):
            between = self._between()
            if not between:
                break
            yield from self._outwards(between)
        yield from self._settle_open()

    def _outwards(self, settings: Sequence[float]) -> Generator[Trial, Block, None]:
        misses = 0
        for setting in settings:
            candidate = self._tried.setdefault(setting, _Candidate(setting))
            for _ in range(self._rules.first_pairs):
                if not self._affordable() or candidate.verdict(self._bound, self._rules) == "infeasible":
                    break
                yield from self._pair(candidate)
            if candidate.verdict(self._bound, self._rules) == "infeasible":
                misses += 1
                if misses == 2 or candidate.interval(self._rules)[0] > 2.0 * self._bound:
                    return
            else:
                misses = 0

    def _settle_open(self) -> Generator[Trial, Block, None]:
        """Candidates that might keep the bound, the most saving first, while they promise more than the best sure one."""
        while self._affordable():
            best = self._best()
            floor = self._rules.worth + (best.saving() if best is not None else 0.0)
            unsure = [
                one for one in self._tried.values() if one.verdict(self._bound, self._rules) == "open" and one.slower
            ]
            unsure = [one for one in unsure if one.saving() > floor and self._decidable(one)]
            if not unsure:
                return
            yield from self._pair(max(unsure, key=_Candidate.saving))

    def _decidable(self, one: _Candidate) -> bool:
        """Whether the rest of the budget could show that it keeps the bound, were its slowdown at the hopeful end."""
        pairs = len(one.slower) + self._left / (2.0 * self._rules.block_steps)
        error = one.error(self._rules)
        reach = self._rules.sure * error * sqrt(len(one.slower) / pairs)
        return one.middle() - self._rules.hope * error + reach <= log(1.0 + self._bound)

    def _pair(self, candidate: _Candidate) -> Generator[Trial, Block, None]:
        rules = self._rules
        settings = (self._reference, candidate.setting)
        backwards = len(candidate.slower) % 2 == 1
        found: dict[float, Block] = {}
        for setting in reversed(settings) if backwards else settings:
            self._left -= rules.block_steps
            found[setting] = yield Trial(setting, rules.block_steps, rules.settle_steps)
        base, tried = found[self._reference], found[candidate.setting]
        if not _usable(base) or not _usable(tried):
            return
        candidate.slower.append(log(_trimmed(tried.times_s) / _trimmed(base.times_s)))
        candidate.dearer.append(log(_trimmed(tried.energies_j) / _trimmed(base.energies_j)))
        candidate.sigma.extend((_relative_spread(base.times_s), _relative_spread(tried.times_s)))
        candidate.counted = min(len(base.times_s), len(tried.times_s))

    def _affordable(self) -> bool:
        return self._left >= 2 * self._rules.block_steps

    def _coarse(self) -> list[float]:
        count, most = len(self._order), self._rules.coarse
        if count <= most:
            return list(self._order)
        picked = {round((at + 1) * (count - 1) / most) for at in range(most)}
        return [self._order[at] for at in sorted(picked)]

    def _between(self) -> list[float]:
        """Untried settings half-way from the best one to its tried neighbours on both sides."""
        best = self._best()
        tried = [at for at, setting in enumerate(self._order) if setting in self._tried]
        at = self._order.index(best.setting) if best is not None else -1
        above, below = [one for one in tried if one > at], [one for one in tried if one < at]
        halves = [(at + above[0]) // 2] if above else []
        if at > 0:
            halves.append((at + (below[-1] if below else -1)) // 2)
        return [self._order[half] for half in halves if half >= 0 and self._order[half] not in self._tried]

    def _best(self) -> _Candidate | None:
        sure = [one for one in self._tried.values() if one.verdict(self._bound, self._rules) == "feasible"]
        sure = [one for one in sure if one.saving() > 0.0]
        return max(sure, key=_Candidate.saving, default=None)

    def choice(self) -> Choice:
        """The best sure candidate, else the reference."""
        spent, best = self._budget - self._left, self._best()
        measured = tuple(sorted(one.setting for one in self._tried.values() if one.slower))
        if best is None:
            why = (
                f"no setting is surely within {self._bound:.1%} and cheaper"
                if measured
                else f"{self._budget} steps are too few for one comparison of {2 * self._rules.block_steps}"
            )
            return Choice(self._reference, 0.0, (0.0, 0.0), 0.0, spent, measured, f"{why}: the reference is kept")
        low, high = best.interval(self._rules)
        slowdown, saving = exp(best.middle()) - 1.0, best.saving()
        why = f"{saving:.1%} less energy at {slowdown:+.1%} time ({low:+.1%} to {high:+.1%}, bound {self._bound:.1%})"
        return Choice(best.setting, slowdown, (low, high), saving, spent, measured, why)


def _check(settings: Sequence[float], *, reference: float, bound: float, run_steps: int) -> None:
    if not 0.0 <= bound < 10.0:
        raise ValueError(f"a slowdown bound of {bound:g} is outside [0, 10); 0.05 means five percent")
    if not any(float(one) == float(reference) for one in settings):
        raise ValueError(f"the reference {reference:g} is not among the {len(settings)} settings; add it")
    if run_steps < 1:
        raise ValueError(f"a run of {run_steps} steps cannot be measured; give its length in steps")


def _usable(block: Block) -> bool:
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
