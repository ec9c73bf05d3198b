"""The four strategies as a table of bounds, and the targets that follow from them.

A strategy is a latency bound, never a promised saving: the reference column is what the product aims at, what was saved
is always measured. Nothing here reads a clock, a file or a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Metric = Literal["tbt", "ttft", "e2e"]
METRICS: Final[tuple[Metric, ...]] = ("tbt", "ttft", "e2e")
POLICY_VERSION: Final = "bounds-1"
# Targets aim inside the bound: a histogram's buckets are 2.2 % wide, and a p99 that sits on a bound is beyond it half
# of the time.
AIM: Final = 0.985
# Below this share of the highest clock the published clock-to-power curves disagree with models by 10 points and more:
# no strategy goes there before a device of the same kind has been measured.
DEEPEST_SM_RATIO: Final = 0.60


@dataclass(frozen=True, slots=True)
class Bound:
    """How far one p99 may go: `ratio` against the hold-out's p99, or `slo_ms` milliseconds; both None = unbounded."""

    ratio: float | None = None
    slo_ms: float | None = None

    def target_ms(self, holdout_p99_ms: float | None, margin: float = 1.0) -> float | None:
        """What to steer for, in milliseconds: inside the limit; None where that is unknown."""
        limit = self.limit_ms(holdout_p99_ms)
        return None if limit is None else limit * AIM * margin

    def limit_ms(self, holdout_p99_ms: float | None) -> float | None:
        """The p99 that counts as kept, in milliseconds; None where it is unknown (no hold-out yet) or unbounded."""
        if self.slo_ms is not None:
            return self.slo_ms
        if self.ratio is None or holdout_p99_ms is None:
            return None
        return holdout_p99_ms * self.ratio


@dataclass(frozen=True, slots=True)
class Strategy:
    """One row of the table. `sm_floor_ratio` and `power_ceiling_ratio` are shares of the device's own values."""

    name: str
    tbt: Bound
    ttft: Bound
    e2e: Bound
    sm_floor_ratio: float  # lowest clock ever granted, of the highest
    power_ceiling_ratio: float  # ceiling, of the default limit; 1.0 = the limit is left alone
    reference_saving_ratio: float  # what the product aims at; never reported as a result

    def bound(self, metric: Metric) -> Bound:
        """The bound of one latency metric."""
        return {"tbt": self.tbt, "ttft": self.ttft, "e2e": self.e2e}[metric]

    def required(self) -> tuple[Metric, ...]:
        """Metrics that must have a target before anything is granted: first token and between tokens."""
        return tuple(m for m in ("tbt", "ttft") if self.bound(m) != Bound())


def _within(percent: float) -> Bound:
    return Bound(ratio=1.0 + percent / 100.0)


_BALANCED: Final = (_within(5), _within(5), _within(10))
STRATEGIES: Final[dict[str, Strategy]] = {
    s.name: s
    for s in (
        # No ceiling under a bound of a few percent: on the twin one at 95 % of the default limit saves no more than the
        # clock alone (7.4 % either way) and costs 1.4 points of first-token time (docs/models.md).
        Strategy("conservative", _within(5), _within(5), _within(5), 0.80, 1.0, 0.15),
        Strategy("balanced", *_BALANCED, DEEPEST_SM_RATIO, 1.0, 0.25),
        # Same bounds as balanced: learning may choose among what they allow, never widen them.
        Strategy("ml-driven", *_BALANCED, DEEPEST_SM_RATIO, 1.0, 0.35),
        Strategy("aggressive", Bound(slo_ms=100.0), Bound(slo_ms=2000.0), Bound(), DEEPEST_SM_RATIO, 0.90, 0.45),
    )
}
DEFAULT_STRATEGY: Final = "balanced"


def strategy(name: str) -> Strategy:
    """The strategy of a name; raises ValueError that lists the names."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy {name!r} does not exist; one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
