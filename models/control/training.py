"""Online choice of a power limit or a clock for a training job, under a bound on its slowdown.

Each candidate is measured in short blocks beside blocks at the reference, in the order A B B A, so that drift of the
job or of the room cancels. A candidate is feasible only when the upper end of its slowdown's interval keeps the bound.
The search is a coroutine: it asks for blocks and is sent what they measured. It must not touch a device or a clock.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log, sqrt

from models.control.curve import Curve, fit_curve
from models.control.promise import UPWARDS, Stakes, promise
from models.control.trials import SPOILED, Block, Candidate, Noise, Rules, Trial, reach_sigma

__all__ = ["Block", "Choice", "Known", "Rules", "Search", "Trial", "recheck", "search"]


@dataclass(frozen=True, slots=True)
class Known:
    """A setting that was measured, or lies on the curve of those that were; `at_most`: upper end of its slowdown."""

    setting: float
    slowdown: float
    at_most: float
    saving: float


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
    known: tuple[Known, ...] = ()  # all that is known of other settings, for a group that must choose again


Search = Generator[Trial, Block, Choice]


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
    candidate = Candidate(float(setting), hunt.noise)
    for _ in range(pairs):
        yield from hunt.pair(candidate)
    return candidate.verdict(bound) != "infeasible"


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
        # One curve has one side: a batch size that can go both ways is walked, however many there are.
        sides = {one > reference for one in self._order}
        self._fine = len(self._order) > rules.coarse and len(sides) == 1
        self._prior = rules.prior.smooth(rules.smooth) if self._fine else rules.prior
        self._tried: dict[float, Candidate] = {}
        self._at: float | None = None  # where the job runs now
        self.noise = Noise(rules)

    def look(self) -> Generator[Trial, Block, None]:
        """The most promising first; with what is left, outwards, so that no job's odd curve is missed.

        Outwards is one by one where settings are few, along a curve where they are many.
        """
        yield from self._promising()
        if self._fine:
            yield from self._along_curve()
        else:
            for side in (-1.0, 1.0):  # a batch size can be changed both ways, a limit below the default only one
                yield from self._outwards([one for one in self._order if (one - self._reference) * side > 0.0])
            yield from self._settle_open()
        yield from self._settle_cheaper()

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
            if hopeful is None or hopeful == self._on_curve(sure=self._curve_reach()):
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

    def _curve_reach(self) -> float:
        return reach_sigma(self._rules, sum(len(one.slower) for one in self._near()))

    def _near(self) -> list[Candidate]:
        """Measured candidates close enough to the bound for a curve of two terms."""
        most = 4.0 * log(1.0 + self._bound) + self._rules.misfit
        return [one for one in self._tried.values() if one.slower and one.middle() <= most]

    def _curves(self) -> tuple[Curve, Curve] | None:
        near = self._near()
        if len(near) < 3:
            return None
        sigma = [one.error() * sqrt(len(one.slower)) for one in near]
        points = [(one.setting, len(one.slower)) for one in near]
        pooled = sqrt(sum(one * one for one in sigma) / len(sigma))
        return (
            fit_curve(points, [one.middle() for one in near], reference=self._reference, sigma=pooled),
            fit_curve(
                points, [sum(one.dearer) / len(one.dearer) for one in near], reference=self._reference, sigma=pooled
            ),
        )

    def _candidate(self, setting: float) -> Candidate:
        return self._tried.setdefault(setting, Candidate(setting, self.noise))

    def _promising(self) -> Generator[Trial, Block, None]:
        """A pair at a time for the setting that promises most if all that is left were spent on it."""
        while self._affordable():
            hopes = [(self._promise(one), one) for one in map(self._candidate, self._order) if self._open(one)]
            most, candidate = max(hopes, key=lambda hope: hope[0], default=(0.0, None))
            if candidate is None or most < self._rules.hoped:
                return
            yield from self.pair(candidate)

    def _open(self, one: Candidate) -> bool:
        return one.spoiled < SPOILED and one.verdict(self._bound) == "open"

    def _promise(self, one: Candidate) -> float:
        best, left = self._best(), self._left // (2 * self._rules.block_steps)
        below = one.setting < self._reference
        stakes = Stakes(
            limit=log(1.0 + self._bound),
            best=best.log_energy() if best is not None else 0.0,
            pairs=left,
            pair_error=self.noise.pair_error(),
            sure=reach_sigma(self._rules, len(one.slower) + left),
        )
        others = [
            other.shown(self._reference)
            for other in self._tried.values()
            if other is not one and other.slower and (other.setting < self._reference) == below
        ]
        return promise(self._prior if below else UPWARDS, one.shown(self._reference), others, stakes)

    def _outwards(self, settings: Sequence[float]) -> Generator[Trial, Block, None]:
        misses = 0
        for setting in settings:
            candidate = self._candidate(setting)
            while len(candidate.slower) < self._rules.first_pairs and self._affordable() and self._open(candidate):
                yield from self.pair(candidate)
            if candidate.verdict(self._bound) == "infeasible":
                misses += 1
                if misses == 2 or candidate.interval()[0] > 2.0 * self._bound:
                    return
            else:
                misses = 0

    def _settle_open(self) -> Generator[Trial, Block, None]:
        """Candidates that might keep the bound, most saving first, while they promise more than the best sure one."""
        while self._affordable():
            best = self._best()
            floor = self._rules.worth + (best.saving() if best is not None else 0.0)
            unsure = [one for one in self._tried.values() if one.verdict(self._bound) == "open" and one.slower]
            unsure = [one for one in unsure if one.saving() > floor and self._decidable(one)]
            if not unsure:
                return
            yield from self.pair(max(unsure, key=Candidate.saving))

    def _settle_cheaper(self) -> Generator[Trial, Block, None]:
        """Candidates that surely keep the bound and may be cheaper than the best, while their energy does not say."""
        while self._affordable():
            best = self._best()
            least = 0.0 if best is None else best.log_energy()
            unsure = [
                one
                for one in self._tried.values()
                if one is not best
                and one.verdict(self._bound) == "feasible"
                and one.log_energy() - one.error() < least - self._rules.worth
            ]
            if not unsure:
                return
            yield from self.pair(min(unsure, key=Candidate.log_energy))

    def _decidable(self, one: Candidate) -> bool:
        """Whether the rest of the budget could show that it keeps the bound, were its slowdown at the hopeful end."""
        pairs = len(one.slower) + self._left / (2.0 * self._rules.block_steps)
        error = one.error()
        reach = reach_sigma(self._rules, pairs) * error * sqrt(len(one.slower) / pairs)
        return one.middle() - self._rules.hope * error + reach <= log(1.0 + self._bound)

    def pair(self, candidate: Candidate) -> Generator[Trial, Block, None]:
        """One block at the reference and one at the candidate, the order turned round each time."""
        rules = self._rules
        settings = (self._reference, candidate.setting)
        backwards = len(candidate.slower) % 2 == 1
        found: dict[float, Block] = {}
        for setting in reversed(settings) if backwards else settings:
            self._left -= rules.block_steps
            settle = 0 if setting == self._at else rules.settle_steps  # nothing has changed since the last block
            found[setting] = yield Trial(setting, rules.block_steps, settle)
            self._at = setting
        candidate.take(found[self._reference], found[candidate.setting])

    def _affordable(self) -> bool:
        return self._left >= 2 * self._rules.block_steps

    def _best(self) -> Candidate | None:
        sure = [one for one in self._tried.values() if one.verdict(self._bound) == "feasible"]
        sure = [one for one in sure if one.log_energy() < -self._rules.cheaper * one.error()]
        return max(sure, key=Candidate.saving, default=None)

    def choice(self) -> Choice:
        """The best sure candidate (of a fine knob, or what the curve says when that saves more), else the reference."""
        spent = self._budget - self._left
        measured = tuple(sorted(one.setting for one in self._tried.values() if one.slower))
        best, curve = self._best(), self._curve_choice(spent, measured) if self._fine else None
        if best is not None and (curve is None or best.saving() >= curve.saving):
            found = self._chosen(best.setting, best.middle(), best.interval(), best.saving(), spent, measured)
        else:
            found = curve or self._kept(spent, measured)
        return replace(found, known=self._known())

    def _known(self) -> tuple[Known, ...]:
        least = self._rules.least_pairs
        sure = [one for one in self._tried.values() if len(one.slower) >= least]
        found = {
            one.setting: Known(one.setting, exp(one.middle()) - 1.0, one.interval()[1], one.saving()) for one in sure
        }
        curves = self._curves() if self._fine else None
        if curves is not None:
            reach, far = self._curve_reach(), max(one.setting_distance(self._reference) for one in self._near())
            for one in self._order:
                if abs(one - self._reference) <= far and one not in found:
                    slower, error = curves[0].at(one), reach * curves[0].error(one) + self._rules.misfit
                    saving = 1.0 - exp(curves[1].at(one))
                    found[one] = Known(one, exp(slower) - 1.0, exp(slower + error) - 1.0, saving)
        return tuple(found[one] for one in sorted(found, reverse=True))

    def _curve_choice(self, spent: int, measured: tuple[float, ...]) -> Choice | None:
        setting, curves = self._on_curve(sure=self._curve_reach()), self._curves()
        if setting is None or curves is None or curves[1].at(setting) >= 0.0:
            return None
        middle = curves[0].at(setting)
        reach = self._curve_reach() * curves[0].error(setting) + self._rules.misfit
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
    if not all(0.0 < float(one) < inf for one in settings):
        raise ValueError(f"a setting of {min(settings):g} cannot be searched; give limits, clocks or sizes above 0")
    if not any(float(one) == float(reference) for one in settings):
        raise ValueError(f"the reference {reference:g} is not among the {len(settings)} settings; add it")
    if run_steps < 1:
        raise ValueError(f"a run of {run_steps} steps cannot be measured; give its length in steps")
