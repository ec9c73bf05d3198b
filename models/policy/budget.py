"""A power budget kept by the sum of ceilings, and the brake table that lies on the nodes for when it is not enough.

Ceilings, not readings: whatever the load does, the sum cannot pass the budget. Where more is granted than the budget
holds (oversubscription), the brake table says what each member falls to at which share of the budget, so that a node
needs no message to brake. High classes are filled first. Inside a class water is filled by marginal latency per watt
where the members' curves are known; where one is not, everybody gets the same share of its range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop
from itertools import pairwise
from math import isfinite
from typing import Final, Literal

Priority = Literal["high", "normal", "low"]
ORDER: Final[tuple[Priority, ...]] = ("high", "normal", "low")
SOFT: Final = 0.90  # of the budget: low classes lose half of their range
HARD: Final = 0.97  # of the budget: low classes fall to their floor, normal ones lose half of their range
RESTORE_STEP: Final = 0.05  # of the range, per step of the slow loop


Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A GPU or a group under the budget: the watts it may fall to and the watts it wants."""

    name: str
    floor_w: float
    wanted_w: float
    priority: Priority = "normal"
    curve: Curve = ()  # (watts, latency in any unit), falling; empty = unknown
    found_w: float = 0.0  # its own limit, which holds until it has answered its first ceiling


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
        share = min(1.0, max(0.0, left) / span) if span > 0.0 else 1.0
        ceilings |= _poured(group, share * span) if share < 1.0 and _known(group) else _shared(group, share)
        left -= share * span
        if share < 1.0 and not cut:
            how = ", by marginal latency per watt" if _known(group) else ""
            below = ORDER[ORDER.index(priority) + 1 :]
            rest = "; lower classes get their floor" if any(m.priority in below for m in members) else ""
            cut = f"; class {priority} gets {share:.0%} of its range{how}{rest}"
    total = sum(ceilings.values())
    cut = cut or "; everybody gets what it wants"
    reason = f"Ceilings of {total:.0f} W under a budget of {budget_w:.0f} W, by class{cut}."
    return Allocation(ceilings, brake_table(members, ceilings, budget_w), reason)


def _known(group: Sequence[Member]) -> bool:
    return all(m.curve for m in group if m.wanted_w > m.floor_w)


def _shared(group: Sequence[Member], share: float) -> dict[str, float]:
    return {m.name: m.floor_w + share * (m.wanted_w - m.floor_w) for m in group}


def _poured(group: Sequence[Member], watts: float) -> dict[str, float]:
    """Water filling: each next watt goes where it takes most latency away. Exact, as the curves are made convex."""
    found = {m.name: m.floor_w for m in group}
    steps = [(-gain, k, wide) for k, m in enumerate(group) for gain, wide in _segments(m)]
    heapify(steps)
    while steps and watts > 0.0:
        _, k, wide = heappop(steps)
        given = min(wide, watts)
        found[group[k].name] += given
        watts -= given
    return found


def _segments(m: Member) -> list[tuple[float, float]]:
    """(latency per watt, watts) of the lower convex hull between floor and wish, steepest first."""
    grid = [m.floor_w, *sorted(w for w, _ in m.curve if m.floor_w < w < m.wanted_w), m.wanted_w]
    hull: list[tuple[float, float]] = []
    for point in ((w, latency_at(m.curve, w)) for w in grid):
        while len(hull) >= 2 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return [(max(0.0, -_slope(a, b)), b[0] - a[0]) for a, b in pairwise(hull) if b[0] > a[0]]


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0]) if b[0] > a[0] else 0.0


def latency_at(curve: Curve, watts: float) -> float:
    """Linear between the points, flat beyond them."""
    before = curve[0]
    for point in curve:
        if watts <= point[0]:
            width = point[0] - before[0]
            return point[1] if width <= 0.0 else before[1] + (watts - before[0]) / width * (point[1] - before[1])
        before = point
    return before[1]


def brake_table(members: Sequence[Member], ceilings_w: dict[str, float], budget_w: float) -> tuple[Brake, ...]:
    """What each member falls to at SOFT and at HARD; a node keeps its own rows. At HARD the sum keeps the budget."""

    def level(m: Member, low: float, normal: float) -> float:
        keep = {"high": 1.0, "normal": normal, "low": low}[m.priority]
        return m.floor_w + keep * (ceilings_w[m.name] - m.floor_w)

    return (
        Brake(SOFT, {m.name: level(m, 0.5, 1.0) for m in members}),
        Brake(HARD, _fitted(members, {m.name: level(m, 0.0, 0.5) for m in members}, budget_w)),
    )


def _fitted(members: Sequence[Member], levels_w: dict[str, float], budget_w: float) -> dict[str, float]:
    """Levels whose sum keeps the budget: where halving one class was not enough, the lower classes give way first."""
    over = sum(levels_w.values()) - budget_w
    for priority in reversed(ORDER):
        group = [m for m in members if m.priority == priority]
        span = sum(levels_w[m.name] - m.floor_w for m in group)
        if over <= 0.0 or span <= 0.0:
            continue
        keep = max(0.0, 1.0 - over / span)
        levels_w = levels_w | {m.name: m.floor_w + keep * (levels_w[m.name] - m.floor_w) for m in group}
        over -= span * (1.0 - keep)
    return levels_w


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
        if not (0.0 <= m.floor_w <= m.wanted_w and isfinite(m.wanted_w)):
            raise ValueError(
                f"{m.name} wants {m.wanted_w:g} W above a floor of {m.floor_w:g} W; give 0 <= floor <= wanted"
            )
