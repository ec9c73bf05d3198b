"""Online choice of a power limit or a clock for a training job, under a bound on its slowdown.

Each candidate is measured in short blocks beside blocks at the reference, in the order A B B A, so that drift of the
job or of the room cancels. A candidate is feasible only when the upper end of its slowdown's interval keeps the bound.
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
    sure: float = 2.8  # standard errors between the interval's middle and its ends
    hope: float = 2.0  # standard errors below its middle that a candidate's slowdown may turn out to be
    first_pairs: int = 3  # of blocks a candidate gets before the next one is looked at
    coarse: int = 9  # a knob with more settings is searched along a fitted curve instead of one by one
    misfit: float = 0.001  # of slowdown, allowed for what the curve cannot follow
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

    def setting_distance(self, reference: float) -> float:
        return abs(self.setting - reference)

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


def recheck(
    setting: float, *, reference: float, bound: float, pairs: int = 6, rules: Rules | None = None
) -> Generator[Trial, Block, bool]:
    """Whether a setting in use may stay: False when the job has changed and is now surely beyond the bound.

    To be run now and then (and after a change of batch size, data or sequence length), out of the same budget.
    """
    rule = rules or Rules()
    hunt = _Hunt([setting, reference], reference, bound, int(2 * pairs * rule.block_steps / rule.spent_ratio) + 1, rule)
    candidate = _Candidate(float(setting))
    for _ in range(pairs):
        yield from hunt.pair(candidate)
    return candidate.verdict(bound, rule) != "infeasible"


@dataclass(frozen=True, slots=True)
class Curve:
    """y = a u + b u**2 with u the distance from the reference; zero at the reference by construction."""

    reference: float
    a: float
    b: float
    covariance: tuple[float, float, float]  # of (a, a), (a, b), (b, b)

    def at(self, setting: float) -> float:
        u = abs(setting - self.reference)
        return self.a * u + self.b * u * u

    def error(self, setting: float) -> float:
        u = abs(setting - self.reference)
        aa, ab, bb = self.covariance
        return sqrt(max(u * u * aa + 2.0 * u**3 * ab + u**4 * bb, 0.0))


def fit_curve(points: Sequence[tuple[float, int]], values: Sequence[float], *, reference: float, sigma: float) -> Curve:
    """Least squares; each point is (setting, pairs of blocks), a pair having the standard error sigma."""
    s2 = s3 = s4 = t1 = t2 = 0.0
    for (setting, weight), value in zip(points, values, strict=True):
        u = abs(setting - reference)
        s2, s3, s4 = s2 + weight * u**2, s3 + weight * u**3, s4 + weight * u**4
        t1, t2 = t1 + weight * u * value, t2 + weight * u * u * value
    det = s2 * s4 - s3 * s3
    a, b = (t1 * s4 - t2 * s3) / det, (t2 * s2 - t1 * s3) / det
    rest = sum(
        weight * (value - a * abs(setting - reference) - b * (setting - reference) ** 2) ** 2
        for (setting, weight), value in zip(points, values, strict=True)
    )
    free = max(len(points) - 2, 1)
    scale = max(sigma**2, rest / free)  # points further from the curve than their noise: the curve is the worse for it
    return Curve(reference, a, b, (scale * s4 / det, -scale * s3 / det, scale * s2 / det))


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
        """Few settings: outwards until they are surely too slow, then what is still open. Many: along a curve."""
        if len(self._order) > self._rules.coarse:
            yield from self._along_curve()
        else:
            for side in (-1.0, 1.0):  # a batch size can be changed both ways, a limit below the default only one
                yield from self._outwards([one for one in self._order if (one - self._reference) * side > 0.0])
            yield from self._settle_open()

    def _along_curve(self) -> Generator[Trial, Block, None]:
        """Slowdown is smooth in a finely graded clock: all measurements together place its crossing of the bound."""
        count, most = len(self._order), self._rules.coarse
        for at in range(1, most + 1):
            candidate = self._candidate(self._order[round(at * (count - 1) / most)])
            for _ in range(2):
                if self._affordable():
                    yield from self.pair(candidate)
            if candidate.slower and candidate.middle() > 2.0 * log(1.0 + self._bound):
                break
        while self._affordable():
            hopeful = self._on_curve(sure=0.0)
            if hopeful is None or hopeful == self._on_curve(sure=self._rules.sure):
                return
            yield from self.pair(self._candidate(hopeful))

    def _on_curve(self, *, sure: float) -> float | None:
        """The setting of least fitted energy whose fitted slowdown, `sure` errors above it, keeps the bound."""
        curves = self._curves()
        if curves is None:
            return None
        slower, dearer = curves
        limit = log(1.0 + self._bound) - self._rules.misfit
        far = max(one.setting_distance(self._reference) for one in self._near())
        kept = [
            one
            for one in self._order
            if abs(one - self._reference) <= far and slower.at(one) + sure * slower.error(one) <= limit
        ]
        return min(kept, key=dearer.at, default=None)

    def _near(self) -> list[_Candidate]:
        """Measured candidates close enough to the bound for a curve of two terms."""
        most = 4.0 * log(1.0 + self._bound) + self._rules.misfit
        return [one for one in self._tried.values() if one.slower and one.middle() <= most]

    def _curves(self) -> tuple[Curve, Curve] | None:
        near = self._near()
        if len(near) < 3:
            return None
        sigma = [one.error(self._rules) * sqrt(len(one.slower)) for one in near]
        points = [(one.setting, len(one.slower)) for one in near]
        pooled = sqrt(sum(one * one for one in sigma) / len(sigma))
        return (
            fit_curve(points, [one.middle() for one in near], reference=self._reference, sigma=pooled),
            fit_curve(
                points, [sum(one.dearer) / len(one.dearer) for one in near], reference=self._reference, sigma=pooled
            ),
        )

    def _candidate(self, setting: float) -> _Candidate:
        return self._tried.setdefault(setting, _Candidate(setting))

    def _outwards(self, settings: Sequence[float]) -> Generator[Trial, Block, None]:
        misses = 0
        for setting in settings:
            candidate = self._candidate(setting)
            for _ in range(self._rules.first_pairs):
                if not self._affordable() or candidate.verdict(self._bound, self._rules) == "infeasible":
                    break
                yield from self.pair(candidate)
            if candidate.verdict(self._bound, self._rules) == "infeasible":
                misses += 1
                if misses == 2 or candidate.interval(self._rules)[0] > 2.0 * self._bound:
                    return
            else:
                misses = 0

    def _settle_open(self) -> Generator[Trial, Block, None]:
        """Candidates that might keep the bound, most saving first, while they promise more than the best sure one."""
        while self._affordable():
            best = self._best()
            floor = self._rules.worth + (best.saving() if best is not None else 0.0)
            unsure = [
                one for one in self._tried.values() if one.verdict(self._bound, self._rules) == "open" and one.slower
            ]
            unsure = [one for one in unsure if one.saving() > floor and self._decidable(one)]
            if not unsure:
                return
            yield from self.pair(max(unsure, key=_Candidate.saving))

    def _decidable(self, one: _Candidate) -> bool:
        """Whether the rest of the budget could show that it keeps the bound, were its slowdown at the hopeful end."""
        pairs = len(one.slower) + self._left / (2.0 * self._rules.block_steps)
        error = one.error(self._rules)
        reach = self._rules.sure * error * sqrt(len(one.slower) / pairs)
        return one.middle() - self._rules.hope * error + reach <= log(1.0 + self._bound)

    def pair(self, candidate: _Candidate) -> Generator[Trial, Block, None]:
        """One block at the reference and one at the candidate, the order turned round each time."""
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

    def _best(self) -> _Candidate | None:
        sure = [one for one in self._tried.values() if one.verdict(self._bound, self._rules) == "feasible"]
        sure = [one for one in sure if one.saving() > 0.0]
        return max(sure, key=_Candidate.saving, default=None)

    def choice(self) -> Choice:
        """The best sure candidate, else the reference."""
        spent = self._budget - self._left
        if len(self._order) > self._rules.coarse:
            return self._curve_choice(spent)
        best = self._best()
        measured = tuple(sorted(one.setting for one in self._tried.values() if one.slower))
        if best is None:
            return self._kept(spent, measured)
        return self._chosen(best.setting, best.middle(), best.interval(self._rules), best.saving(), spent, measured)

    def _curve_choice(self, spent: int) -> Choice:
        measured = tuple(sorted(one.setting for one in self._tried.values() if one.slower))
        setting, curves = self._on_curve(sure=self._rules.sure), self._curves()
        if setting is None or curves is None or curves[1].at(setting) >= 0.0:
            return self._kept(spent, measured)
        middle = curves[0].at(setting)
        reach = self._rules.sure * curves[0].error(setting) + self._rules.misfit
        interval = (exp(middle - reach) - 1.0, exp(middle + reach) - 1.0)
        return self._chosen(setting, middle, interval, 1.0 - exp(curves[1].at(setting)), spent, measured)

    def _kept(self, spent: int, measured: tuple[float, ...]) -> Choice:
        why = (
            f"no setting is surely within {self._bound:.1%} and cheaper"
            if measured
            else f"{self._budget} steps are too few for one comparison of {2 * self._rules.block_steps}"
        )
        return Choice(self._reference, 0.0, (0.0, 0.0), 0.0, spent, measured, f"{why}: the reference is kept")

    def _chosen(
        self,
        setting: float,
        middle: float,
        interval: tuple[float, float],
        saving: float,
        spent: int,
        measured: tuple[float, ...],
    ) -> Choice:
        slowdown, (low, high) = exp(middle) - 1.0, interval
        why = f"{saving:.1%} less energy at {slowdown:+.1%} time ({low:+.1%} to {high:+.1%}, bound {self._bound:.1%})"
        return Choice(setting, slowdown, interval, saving, spent, measured, why)


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
