"""`ml-driven`: which bounds the node's controller gets, learned inside what the model calls feasible, gated by its log.

A set point is a power ceiling with a lowest clock; point 0 is the strategy's own row, the incumbent. The shield: a
point whose ceiling breaks a latency bound even at the highest clock cannot be chosen. Costs are watts over the
hold-out's in the same minutes, so that load and weather cancel. Nothing but the incumbent is used until the log says
so, except in canary, where choices are random enough to be judged. No clock, no messages.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, Final

from models.control.forecast import LoadNow
from models.control.profiles import StackProfile
from models.policy.bandit import Choice, ShieldedBandit
from models.policy.off_policy import Estimate, Logged, doubly_robust, may_leave_recommend
from models.policy.outlook import Outlook, outlook
from models.policy.strategies import Metric, Strategy

BLOCK_S: Final = 600.0  # a choice holds this long: requests of one block disturb those of the next
SETTLE_S: Final = 60.0  # and its first minute still belongs to the one before
LEAST_SAMPLES: Final = 3
EXPLORE: Final = 0.30  # share of random choices in canary
EXPLOIT: Final = 0.25  # and once the gate is open: 5 % for each of five points, so that no weight must be clipped
LEAST_INCUMBENT: Final = 10.0  # effective samples of the incumbent: fewer are no comparison
SWITCHING: Final = 0.002  # of the hold-out's watts
LOG_MOST: Final = 1000
UNTRIED: Final = "Stays in recommend: nothing has been tried yet, which mode canary does."
GRID: Final = 9  # clocks tried per point
OFFERS: Final = ((0.95, 0.0), (0.90, 0.0), (0.85, 0.0), (1.0, 0.10))  # ceiling; how far above the strategy's floor


@dataclass(frozen=True, slots=True)
class SetPoint:
    """Shares of the device's default limit and highest clock."""

    ceiling_ratio: float
    floor_ratio: float


def offered(strategy: Strategy) -> tuple[SetPoint, ...]:
    """The incumbent first; none is looser than the strategy."""
    own = SetPoint(strategy.power_ceiling_ratio, strategy.sm_floor_ratio)
    more = [SetPoint(min(own.ceiling_ratio, ceiling), min(1.0, own.floor_ratio + above)) for ceiling, above in OFFERS]
    return tuple(dict.fromkeys([own, *more]))


def price(profile: StackProfile, load: LoadNow, point: SetPoint, allowed: Mapping[Metric, float]) -> float:
    """Predicted watts over those at default, at the lowest clock that keeps the bounds; infinite when none does."""
    default_w = profile.device.limit_default_w
    base = outlook(profile, 1.0, load, default_w)
    limit_w = max(profile.device.limit_min_w, default_w * point.ceiling_ratio)
    for k in range(GRID):
        found = outlook(profile, point.floor_ratio + (1.0 - point.floor_ratio) * k / (GRID - 1), load, limit_w)
        if _keeps(found, base, allowed):
            return found.power_w / base.power_w
    return inf


def _keeps(found: Outlook, base: Outlook, allowed: Mapping[Metric, float]) -> bool:
    ratios: dict[Metric, float] = {
        "tbt": found.tbt_ms / base.tbt_ms,
        "ttft": found.ttft_ms / base.ttft_ms,
        "e2e": found.e2e_ms / base.e2e_ms,
    }
    return all(ratios[metric] <= most for metric, most in allowed.items())


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether learning may act, from the log; `sentence` says why or why not. None: too little to say."""

    open: bool
    sentence: str
    rows: int
    candidate: Estimate | None = None
    incumbent: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {"open": self.open, "reason": self.sentence, "rows": self.rows}
        for name, one in (("candidate", self.candidate), ("incumbent", self.incumbent)):
            told[f"{name}_cost_ratio"] = None if one is None else one.mean
            told[f"{name}_interval"] = None if one is None else list(one.interval)
            told[f"{name}_effective_samples"] = None if one is None else one.effective
        return told


@dataclass(frozen=True, slots=True)
class Chosen:
    """The set point in force with its probability. `acting`: it may differ from the incumbent."""

    point: SetPoint
    arm: int
    propensity: float
    acting: bool
    reason: str


Row = tuple[int, tuple[float, ...], int, int, float, tuple[int, ...], float]  # see SetPointLearner.rows


@dataclass(slots=True)
class SetPointLearner:
    """One pool of one strategy.

    `rows`: load bucket, predicted prices, best arm then, arm, propensity, feasible arms, cost.
    """

    strategy: Strategy
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=LOG_MOST))
    gate: Gate = field(default_factory=lambda: Gate(False, UNTRIED, 0))
    _bandit: ShieldedBandit = field(init=False)
    _points: tuple[SetPoint, ...] = field(init=False)
    _choice: Choice | None = None
    _prices: tuple[float, ...] = ()
    _since_s: float = 0.0
    _costs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._points = offered(self.strategy)
        self._bandit = ShieldedBandit(epsilon=EXPLORE, switching=SWITCHING, rng=self.rng)

    def recall(self, rows: Sequence[Sequence[Any]]) -> None:
        """A log of an earlier process; a row that does not fit these set points is left out."""
        for row in rows:
            try:
                bucket, prices, best, arm, propensity, feasible, cost = row
                one: Row = (
                    int(bucket),
                    tuple(map(float, prices)),
                    int(best),
                    int(arm),
                    float(propensity),
                    tuple(map(int, feasible)),
                    float(cost),
                )
            except (TypeError, ValueError):
                continue
            if len(one[1]) == len(self._points) and one[3] in one[5] and 0.0 < one[4] <= 1.0 and isfinite(one[6]):
                self._learn(one)
        self._judge()

    def step(self, now_s: float, prices: Sequence[float], busy: float, cost: float | None, *, explore: bool) -> Chosen:
        """One slow step. `cost`: controlled watts over the hold-out's since the last step; None = unknown."""
        feasible = tuple(k for k, one in enumerate(prices) if isfinite(one) and one > 0.0)
        feasible = feasible if 0 in feasible else (0,)
        held = self._choice
        if held is not None and (held.arm not in feasible or now_s < self._since_s):
            held = self._choice = None  # out of the shield, or a clock that went back: what was seen is worth nothing
        settled = held is not None and now_s - self._since_s > SETTLE_S
        if settled and cost is not None and isfinite(cost) and cost > 0.0:
            self._costs.append(cost)
        if held is not None and now_s - self._since_s >= BLOCK_S:
            self._close(held)
            held = self._choice = None
        if not (explore or self.gate.open):
            self._choice = None
            return Chosen(self._points[0], 0, 1.0, False, f"Set point of {self.strategy.name}. {self.gate.sentence}")
        if held is None:
            held = self._begin(now_s, feasible, prices, busy, explore=explore)
        return self._told(held)

    def _begin(
        self, now_s: float, feasible: tuple[int, ...], prices: Sequence[float], busy: float, *, explore: bool
    ) -> Choice:
        self._bandit.epsilon = EXPLOIT if self.gate.open and not explore else EXPLORE
        self._prices = tuple(one if isfinite(one) and one > 0.0 else 1.0 for one in prices)
        bucket = min(3, max(0, int(busy * 4.0))) if isfinite(busy) else 0
        self._choice = self._bandit.choose(bucket, feasible, [self._prices[k] for k in feasible])
        self._since_s, self._costs = now_s, []
        return self._choice

    def _told(self, held: Choice) -> Chosen:
        point = self._points[held.arm]
        why = "cheapest by what is known" if held.greedy else "tried at random"
        ceiling = "the default limit" if point.ceiling_ratio >= 1.0 else f"{point.ceiling_ratio:.0%} of the limit"
        reason = (
            f"Set point {held.arm} of {len(held.feasible)} feasible ones, {why} (propensity {held.propensity:.2f}): "
            f"{ceiling}, clocks from {point.floor_ratio:.0%}."
        )
        return Chosen(point, held.arm, held.propensity, True, reason)

    def _close(self, held: Choice) -> None:
        if len(self._costs) < LEAST_SAMPLES:
            return
        cost = sum(self._costs) / len(self._costs)
        assert isinstance(held.context, int)
        self._learn((held.context, self._prices, held.best, held.arm, held.propensity, held.feasible, cost))
        self._judge()

    def _learn(self, row: Row) -> None:
        bucket, _, best, arm, propensity, feasible, cost = row
        self._bandit.learn(Choice(bucket, arm, propensity, feasible, arm == best, best), cost)
        self.rows.append(row)

    def _judge(self) -> None:
        """Doubly robust, judged as it went: each row's candidate is what was held best before that row was seen."""
        if not self.rows:
            return
        log = [Logged(row, row[3], row[4], row[5], row[6]) for row in self.rows]
        candidate = doubly_robust(log, lambda row, arm, _: float(arm == _row(row)[2]), _direct)
        incumbent = doubly_robust(log, lambda _row_, arm, _: float(arm == 0), _direct)
        passed, sentence = may_leave_recommend(candidate, incumbent)
        if passed and incumbent.effective < LEAST_INCUMBENT:
            passed = False
            sentence = (
                f"Stays in recommend: {incumbent.effective:.0f} effective samples of the incumbent, "
                f"{LEAST_INCUMBENT:.0f} are needed; leave it in canary for longer."
            )
        self.gate = Gate(passed, sentence, len(log), candidate, incumbent)


def _row(context: object) -> Row:
    assert isinstance(context, tuple)
    return context


def _direct(context: object, arm: int) -> float:
    """The model's own price of an arm in that row: the direct model."""
    return _row(context)[1][arm]
