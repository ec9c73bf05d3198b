"""Automatic rollback: the controlled group's p99 is held against the hold-out's, and targets tighten when it is worse.

The feedback can only be too careful: the margin is at most 1, shrinks in steps on confirmed violations, recovers slowly
on clean windows, and when shrinking does not help the whole group goes back to default for a while.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

Z_ONE_SIDED_95: Final = 1.645


@dataclass(frozen=True, slots=True)
class GuardRules:
    """k of n windows confirm a violation; margins are factors on the latency targets; times in nanoseconds."""

    k: int = 3
    n: int = 5
    shrink: float = 0.97
    recover: float = 1.003
    floor: float = 0.90  # below it targets would ask for less than default clocks can give: roll back instead
    rollback_ns: int = 300 * 10**9


@dataclass(frozen=True, slots=True)
class GuardState:
    """What the guard remembers of one pool of engines."""

    margin: float = 1.0
    recent: tuple[bool, ...] = ()
    default_until_ns: int = 0
    violations_total: int = 0

    def rolled_back(self, now_ns: int) -> bool:
        """Whether the group must stay at default now."""
        return now_ns < self.default_until_ns


def step(state: GuardState, violated: bool | None, now_ns: int, *, rules: GuardRules = GuardRules()) -> GuardState:
    """The state after one window; `violated` None = too few samples to say, which changes nothing."""
    if violated is None or state.rolled_back(now_ns):
        return state
    recent = (*state.recent, violated)[-rules.n :]
    if sum(recent) < rules.k:
        margin = state.margin if violated else min(1.0, state.margin * rules.recover)
        return replace(state, margin=margin, recent=recent)
    total, margin = state.violations_total + 1, state.margin * rules.shrink
    if margin >= rules.floor:
        return replace(state, margin=margin, recent=(), violations_total=total)
    return replace(
        state, margin=rules.floor, recent=(), default_until_ns=now_ns + rules.rollback_ns, violations_total=total
    )


def exceeds(over: int, controlled: int, holdout: int, *, q: float = 0.99, z: float = Z_ONE_SIDED_95) -> bool:
    """Whether more than a share 1 - q of the controlled samples lies above the bound, beyond what chance explains.

    Args:
        over: controlled samples above the bound.
        controlled: controlled samples in all.
        holdout: hold-out samples from which the bound was estimated; their own uncertainty widens the test.
    """
    if controlled == 0 or holdout == 0:
        return False
    share = 1.0 - q
    spread = math.sqrt(share * q * (1.0 / controlled + 1.0 / holdout))
    return over / controlled - share > z * spread
