"""One row under one budget over time: nobody is raised before the others are known to be down.

Ceilings take time to arrive, and an old one may still hold on a node that has not answered. Each member therefore
counts with the highest ceiling that may be in force on it; what is free of the budget after that is all that may be
handed out. The sum of ceilings in force keeps the budget under any order of joins, leaves and lost messages. No clock,
no messages: both are arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Final

from models.policy.budget import HARD, SOFT, Allocation, Brake, BudgetTooLow, Member, allocate, ceiling_now

FORGET_S: Final = 3600.0  # a member that is silent for so long draws nothing any more
DEADBAND: Final = 0.03
SLACK_W: Final = 1e-6


@dataclass(frozen=True, slots=True)
class RowSettings:
    """One row: its budget for GPUs, after `overhead_w` per node (hosts, fans, losses) where the meter counts that."""

    name: str
    budget_w: float
    overhead_w: float = 0.0
    oversubscribe: float = 1.0


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Ceilings that may be issued now, the brake table, and how the row stands. `load_ratio` None: unknown."""

    name: str
    ceilings_w: dict[str, float]
    brakes: tuple[Brake, ...]
    reason: str
    refused: bool
    budget_w: float
    least_w: float
    outside_w: float  # members that no ceiling reaches, at their own limit, and overheads
    committed_w: float  # highest sum that may be in force, `outside_w` included
    load_ratio: float | None


@dataclass(slots=True)
class _Held:
    granted_w: float
    seen_s: float
    lowered_s: float = 0.0
    older: list[tuple[float, float]] = field(default_factory=list)  # (until_s, watts) of ceilings not yet replaced
    found: tuple[float, float] = (0.0, 0.0)  # (until_s, watts): its own limit, until the first answer

    def most_w(self) -> float:
        return max(self.granted_w, max((watts for _, watts in self.older), default=0.0))

    def drawn_w(self, now_s: float) -> float:
        """The most that it may draw. Its own limit takes no room from others: granting it anything lowers it."""
        return max(self.most_w(), self.found[1] if now_s < self.found[0] else 0.0)


class RowBook:
    """What each member of a row was granted and what may still be in force. Seconds are of the wall clock.

    Args:
        assumed_s: after so long a lower ceiling is taken to have arrived; None, as wherever ceilings are real: never
            before the node has said so.
    """

    def __init__(self, settings: RowSettings, *, assumed_s: float | None = None) -> None:
        self.settings = settings
        self._wait_s = inf if assumed_s is None else assumed_s
        self._held: dict[str, _Held] = {}
        self._allocation: Allocation | None = None
        self._braked: dict[str, float] = {}

    def recover(
        self, now_s: float, ceilings_w: Mapping[str, float], unsettled_w: Mapping[str, float] | None = None
    ) -> None:
        """What an earlier process granted: it may be in force, and so may a higher one that was not yet replaced."""
        for name, watts in ceilings_w.items():
            if isfinite(watts) and watts > 0.0 and name not in self._held:
                self._held[name] = held = _Held(watts, now_s)
                most_w = (unsettled_w or {}).get(name, 0.0)
                if isfinite(most_w) and most_w > watts:
                    held.older.append((now_s + self._wait_s, most_w))
                    held.lowered_s = now_s

    def granted(self) -> dict[str, float]:
        """Ceilings last issued, for the next process."""
        return {name: held.granted_w for name, held in self._held.items()}

    def holds(self, name: str) -> bool:
        """Whether it was granted anything."""
        return name in self._held

    def unsettled(self, now_s: float) -> dict[str, float]:
        """The highest limit that may be in force, where that is above the one last issued."""
        found = ((name, held.drawn_w(now_s), held.granted_w) for name, held in self._held.items())
        return {name: most_w for name, most_w, granted_w in found if most_w > granted_w}

    def in_force_w(self, now_s: float) -> float:
        """The highest sum of limits that may be in force."""
        return sum(held.drawn_w(now_s) for held in self._held.values())

    def release(self, names: Collection[str]) -> None:
        """Members that are another book's from now on."""
        for name in self._held.keys() & set(names):
            del self._held[name]
            self._braked.pop(name, None)

    def confirmed(self, name: str, watts: float | None, issued_s: float | None) -> None:
        """A node says which limit is in force, answering a command of `issued_s` (None: unasked).

        An answer to the newest ceiling ends older ones; a limit above what was granted counts until it is gone.
        """
        held = self._held.get(name)
        if held is None:
            return
        if issued_s is not None and issued_s >= held.lowered_s:
            held.older, held.found = [], (0.0, 0.0)
        if watts is not None and isfinite(watts) and watts > held.granted_w + SLACK_W:
            told = [seen for until, seen in held.older if until == inf]
            held.older = [(until, seen) for until, seen in held.older if until < inf] + [(inf, max(watts, *told, 0.0))]

    def step(
        self,
        now_s: float,
        members: Sequence[Member],
        *,
        outside_w: float = 0.0,
        drawn_w: float | None = None,
        load_budget_w: float | None = None,
        gone: Collection[str] = (),
    ) -> RowPlan:
        """What may be issued now.

        Args:
            members: those that report and may be granted a ceiling.
            outside_w: sum of the limits of GPUs that no ceiling reaches (hold-out, paused, foreign), and overheads.
            drawn_w: measured power of the row; None = unknown.
            load_budget_w: what `drawn_w` is a share of; None = the budget.
            gone: members that now count in `outside_w`: what was granted to them is not counted twice.
        """
        self._forget(now_s, {m.name for m in members}, gone)
        silent_w = sum(held.most_w() for name, held in self._held.items() if held.seen_s < now_s)
        room_w = self.settings.budget_w - outside_w - silent_w
        try:
            self._allocation = allocate(max(room_w, 0.0), members, oversubscribe=self.settings.oversubscribe)
        except BudgetTooLow as low:
            least = low.least_w + outside_w + silent_w
            return self._refused(now_s, members, least, outside_w, drawn_w)
        whole_w = self.settings.budget_w if load_budget_w is None else load_budget_w
        load = None if drawn_w is None or not isfinite(drawn_w) else drawn_w / whole_w
        goals = self._calmed({m.name: self._goal(m, load) for m in members}, room_w)
        issued = self._issue(now_s, members, goals, self.settings.budget_w * self.settings.oversubscribe - outside_w)
        return self._plan(now_s, issued, sum(m.floor_w for m in members) + outside_w + silent_w, outside_w, load)

    def _forget(self, now_s: float, present: set[str], gone: Collection[str]) -> None:
        for name in [n for n, held in self._held.items() if n in gone or now_s - held.seen_s > FORGET_S]:
            del self._held[name]
            self._braked.pop(name, None)
        for name in present & self._held.keys():
            held = self._held[name]
            held.seen_s = max(held.seen_s, now_s)
            held.older = [(until, watts) for until, watts in held.older if until > now_s]

    def _goal(self, m: Member, load: float | None) -> float:
        """The allocation, braked where the row leans on its brakes: an unknown load brakes then."""
        assert self._allocation is not None
        if self.settings.oversubscribe <= 1.0:
            return self._allocation.ceilings_w[m.name]
        ratio = float("nan") if load is None else load
        goal = ceiling_now(self._allocation, m.name, ratio, self._braked.get(m.name))
        self._braked[m.name] = goal
        return goal

    def _calmed(self, goals: dict[str, float], room_w: float) -> dict[str, float]:
        """What is granted already, where the goals differ by little: each change is a write to a device."""
        held = {name: self._held[name].granted_w for name in goals if name in self._held}
        near = len(held) == len(goals) and all(abs(goals[n] - w) <= DEADBAND * w for n, w in held.items())
        fits = sum(held.values()) <= room_w * self.settings.oversubscribe + SLACK_W
        return held if near and fits else goals

    def _issue(
        self, now_s: float, members: Sequence[Member], goals: Mapping[str, float], limit_w: float
    ) -> dict[str, float]:
        """Down at once; up and newcomers only into what no ceiling that may be in force takes, high classes first."""
        for m in members:
            held = self._held.get(m.name)
            if held is not None and goals[m.name] < held.granted_w - SLACK_W:
                held.older.append((now_s + self._wait_s, held.granted_w))
                held.granted_w, held.lowered_s = goals[m.name], now_s
        free = limit_w - sum(held.most_w() for held in self._held.values())
        order = {"high": 0, "normal": 1, "low": 2}
        for m in sorted(members, key=lambda one: order[one.priority]):
            held, goal = self._held.get(m.name), goals[m.name]
            if held is None:
                if m.floor_w <= min(goal, free):
                    found = (now_s + self._wait_s, m.found_w)
                    self._held[m.name] = _Held(min(goal, free), now_s, lowered_s=now_s, found=found)
                    free -= self._held[m.name].granted_w
            elif goal > held.granted_w:
                before = held.most_w()
                held.granted_w = min(goal, max(held.granted_w, before + max(free, 0.0)))
                free -= held.most_w() - before
        return {m.name: self._held[m.name].granted_w for m in members if m.name in self._held}

    def _plan(
        self, now_s: float, issued: dict[str, float], least_w: float, outside_w: float, load: float | None
    ) -> RowPlan:
        assert self._allocation is not None
        waiting = len(self._allocation.ceilings_w) - len(issued)
        reason = f"Row {self.settings.name}: {self._allocation.reason}"
        if outside_w > 0.0:
            reason += f" {outside_w:.0f} W more are outside its reach (hold-out, paused, foreign, overhead)."
        if waiting:
            reason += f" {waiting} newcomers wait until the others are known to be down."
        if load is not None and load >= SOFT and self.settings.oversubscribe > 1.0:
            who = "normal and low" if load >= HARD else "low"
            reason += f" The row draws {load:.0%} of its budget, so {who} brake."
        return RowPlan(
            self.settings.name,
            issued,
            self._allocation.brakes,
            reason,
            False,
            self.settings.budget_w,
            least_w,
            outside_w,
            outside_w + self.in_force_w(now_s),
            load,
        )

    def _refused(
        self, now_s: float, members: Sequence[Member], least_w: float, outside_w: float, drawn_w: float | None
    ) -> RowPlan:
        """Nobody is newly granted anything; whoever was granted something falls to its floor, the nearest to safe."""
        s = self.settings
        floors = {m.name: m.floor_w for m in members if m.name in self._held}
        self._issue(now_s, [m for m in members if m.name in floors], floors, 0.0)
        reason = (
            f"Row {s.name}: a budget of {s.budget_w:.0f} W cannot be kept: floors, and what is outside its reach, take "
            f"{least_w:.0f} W; give at least {least_w:.0f} W or power something off."
        )
        committed = outside_w + self.in_force_w(now_s)
        load = None if drawn_w is None or not isfinite(drawn_w) else drawn_w / s.budget_w
        return RowPlan(s.name, floors, (), reason, True, s.budget_w, least_w, outside_w, committed, load)
