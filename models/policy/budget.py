"""A power budget kept by the sum of ceilings, and the brake table that lies on the nodes for when it is not enough.

Ceilings, not readings: whatever the load does, the sum cannot pass the budget. Where more is granted than the budget
holds (oversubscription), the brake table says what each member falls to at which share of the budget, so that a node
needs no message to brake. High classes are filled first; inside a class everybody gets the same share of its range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Priority = Literal["high", "normal", "low"]
ORDER: Final[tuple[Priority, ...]] = ("high", "normal", "low")
SOFT: Final = 0.90  # of the budget: low classes lose half of their range
HARD: Final = 0.97  # of the budget: low classes fall to their floor, normal ones lose half of their range
RESTORE_STEP: Final = 0.05  # of the range, per step of the slow loop


@dataclass(frozen=True, slots=True)
class Member:
    """A GPU or a group under the budget: the watts it may fall to and the watts it wants."""

    name: str
    floor_w: float
    wanted_w: float
    priority: Priority = "normal"


@dataclass(frozen=True, slots=True)
class Brake:
    """From this share of the budget on, these ceilings hold."""

    from_ratio: float
    ceilings_w: dict[str, float]


@dataclass(frozen=True, slots=True)
class Allocation:
    """Ceilings whose sum keeps the budget, the brake table, and why."""

    ceilings_w: dict[str, float]
    brakes: tuple[Brake, ...]
    reason: str


class BudgetTooLow(ValueError):
    """The floors alone pass the budget; `least_w` is the least that can be kept."""

    def __init__(self, budget_w: float, least_w: float) -> None:
        super().__init__(
            f"a budget of {budget_w:.0f} W is below the floors of {least_w:.0f} W; "
            f"give at least {least_w:.0f} W or power something off"
        )
        self.least_w = least_w


def allocate(budget_w: float, members: Sequence[Member], *, oversubscribe: float = 1.0) -> Allocation:
    """Ceilings by class; `oversubscribe` above 1 grants more than the budget and leans on the brakes."""
    _check(members, oversubscribe)
    floors = sum(m.floor_w for m in members)
    if not floors <= budget_w:
        raise BudgetTooLow(budget_w, floors)
    left = budget_w * oversubscribe - floors
    ceilings = {m.name: m.floor_w for m in members}
    cut = ""
    for priority in ORDER:
        group = [m for m in members if m.priority == priority]
        span = sum(m.wanted_w - m.floor_w for m in group)
        share = min(1.0, left / span) if span > 0.0 else 1.0
        for m in group:
            ceilings[m.name] = m.floor_w + share * (m.wanted_w - m.floor_w)
        left -= share * span
        if share < 1.0 and not cut:
            cut = f"; class {priority} gets {share:.0%} of its range and lower ones their floor"
    total = sum(ceilings.values())
    cut = cut or "; everybody gets what it wants"
    reason = f"Ceilings of {total:.0f} W under a budget of {budget_w:.0f} W, by class{cut}."
    return Allocation(ceilings, brake_table(members, ceilings), reason)


def brake_table(members: Sequence[Member], ceilings_w: dict[str, float]) -> tuple[Brake, ...]:
    """What each member falls to at SOFT and at HARD; a node keeps its own rows."""

    def level(m: Member, low: float, normal: float) -> float:
        keep = {"high": 1.0, "normal": normal, "low": low}[m.priority]
        return m.floor_w + keep * (ceilings_w[m.name] - m.floor_w)

    return (
        Brake(SOFT, {m.name: level(m, 0.5, 1.0) for m in members}),
        Brake(HARD, {m.name: level(m, 0.0, 0.5) for m in members}),
    )


def ceiling_now(allocation: Allocation, name: str, load_ratio: float, held_w: float | None = None) -> float:
    """A node's own ceiling at a row load (share of the budget): down at once, up by RESTORE_STEP of the range."""
    goal = allocation.ceilings_w[name]
    for brake in allocation.brakes:
        if not load_ratio < brake.from_ratio:
            goal = min(goal, brake.ceilings_w[name])
    if held_w is None or goal <= held_w:
        return goal
    lowest = min(brake.ceilings_w[name] for brake in allocation.brakes)
    return min(goal, held_w + RESTORE_STEP * max(1.0, allocation.ceilings_w[name] - lowest))


def _check(members: Sequence[Member], oversubscribe: float) -> None:
    if not 1.0 <= oversubscribe <= 2.0:
        raise ValueError(f"oversubscribe is {oversubscribe:g}; give a factor in [1, 2]")
    names = [m.name for m in members]
    if len(set(names)) != len(names):
        raise ValueError("two members of a budget have the same name; name each once")
    for m in members:
        if not 0.0 <= m.floor_w <= m.wanted_w:
            raise ValueError(
                f"{m.name} wants {m.wanted_w:g} W above a floor of {m.floor_w:g} W; give 0 <= floor <= wanted"
            )
