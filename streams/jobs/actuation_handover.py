"""Partitions that move between workers: nobody may raise a row before those who must lower it have.

The invariant: over all workers, the ceilings that may be in force on a row sum to its budget at most. In steady state
each keeps its share by partitions. A worker may have pooled its partitions unevenly, so after a move the parts in force
no longer match the shares: who is above comes down at once, who is below stays where it is. It may rise once `hold_s`
has passed, which outlasts a session, a lease and two slow steps, and the newest plans of all other workers say that
they are inside their shares. Members of whom nothing is known wait for `hold_s` too, and count with their own limit.
Pure; clock and plans are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from streams.errors import StreamsError

SLACK_W: Final = 1.0
AGAIN_S: Final = 10.0  # between two looks at the others' plans
Plans = Callable[[], Iterable[Mapping[str, Any]]]


@dataclass(slots=True)
class Handover:
    """What this worker's members had in force when its partitions last changed, by row, and for how long that binds."""

    hold_s: float
    plans: Plans
    owned: frozenset[int] = frozenset()
    _moved_s: float = 0.0
    _until_s: float | None = None
    _waits_for: str = ""
    _in_force_w: dict[str, float] = field(default_factory=dict)
    _admitted: set[str] = field(default_factory=set)

    @property
    def leases_live(self) -> bool:
        """Whether leases that nobody here knows of may still be in force."""
        return self._until_s is not None and not self._waits_for

    @property
    def active(self) -> bool:
        return self._until_s is not None

    def observe(self, now_s: float, owned: frozenset[int], partitions: int, in_force_w: Mapping[str, float]) -> None:
        """Call it before each step with what may be in force now; a move begins the wait anew.

        A worker that owns everything needs no wait: all that is in force is in its own book.
        """
        moved, self.owned = owned != self.owned, owned
        if len(owned) >= partitions:
            self._until_s = None
        elif moved:
            self._moved_s, self._until_s = now_s, now_s + self.hold_s
            self._in_force_w, self._waits_for, self._admitted = dict(in_force_w), "", set()
        elif self._until_s is not None and now_s >= self._until_s:
            self._waits_for = self._ask(partitions)
            self._until_s = now_s + AGAIN_S if self._waits_for else None
        elif self._until_s is not None and now_s < self._moved_s:
            self._moved_s, self._until_s = now_s, now_s + self.hold_s  # the wall clock went back

    def released(self) -> None:
        """A partition was let go: even the same ones are a move when they come back, others may have had them."""
        self.owned = frozenset()

    def _ask(self, partitions: int) -> str:
        try:
            return still_above(self.plans(), self.owned, partitions, int(self._moved_s * 1e9))
        except StreamsError as error:
            return f"the other workers' plans cannot be read ({error})"

    def admit(self, row: str, name: str, limit_w: float) -> None:
        """A member of which nothing was known: it is at its own limit, so a ceiling raises nothing."""
        if name not in self._admitted:
            self._admitted.add(name)
            self._in_force_w[row] = self._in_force_w.get(row, 0.0) + limit_w

    def budget_w(self, row: str, share_w: float, *, outside_w: float, oversubscribe: float) -> float:
        """This worker's budget of a row now: its share, and meanwhile no more than what it took over."""
        if not self.active:
            return share_w
        return min(share_w, outside_w + self._in_force_w.get(row, 0.0) / oversubscribe)

    def note(self, now_s: float) -> str:
        """A sentence for the plan while it waits."""
        if self._until_s is None:
            return ""
        if self._waits_for:
            return f" Partitions have moved: nothing rises, because {self._waits_for}."
        return f" Partitions have moved: nothing rises for {self._until_s - now_s:.0f} s, until other workers are down."


def still_above(plans: Iterable[Mapping[str, Any]], owned: frozenset[int], partitions: int, since_ns: int) -> str:
    """Why the others are not known to be inside their shares, half a sentence; "" = they all are.

    Only plans made since the move count, and each partition must be in one: nobody's partition may hold anything.
    """
    covered = set(owned)
    for plan in plans:
        theirs = set(plan.get("partitions") or ())
        if theirs & owned or not plan.get("ts_ns", 0) > since_ns:
            continue
        for row in plan.get("rows") or ():
            most_w, share_w = row.get("committed_w"), row.get("share_w")
            if most_w is None or share_w is None or not most_w <= share_w + SLACK_W:
                who = ", ".join(map(str, sorted(theirs)[:8]))
                return f"partitions {who} may still draw {most_w or 0:.0f} W of their {share_w or 0:.0f} W"
        covered |= theirs
    missing = sorted(set(range(partitions)) - covered)
    return f"no newer plan tells of partitions {', '.join(map(str, missing[:8]))}" if missing else ""
