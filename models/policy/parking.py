"""Which replicas may be drained and then go off, as a record that an orchestrator can follow. Nothing is switched here.

The planner says how many are enough; this says which, one at a time: never a hold-out, never below what the load, one
lost replica and the warm minimum ask for, never soon after something was called back. What the load asks for comes back
at once, replicas that still drain before those that are off. Called with the planner's step; everything is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Do = Literal["drain", "off", "start"]
HOLD_OFF_S: Final = 600.0  # after anything was called back
IDLE_S: Final = 30.0  # without a request for so long: drained
FORGET_S: Final = 86_400.0  # an engine that was not seen for so long has gone for good


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine of a pool. `idle` None = it does not say what it has to do; `live` False = silent."""

    engine: str
    node: str
    live: bool
    idle: bool | None = None
    holdout: bool = False
    gpus: tuple[str, ...] = ()


@dataclass(slots=True)
class Mark:
    """What is asked of one engine, and since when; an engine without a mark serves."""

    do: Do
    node: str
    since_s: float
    idle_s: float | None = None  # since when it has had nothing to do


@dataclass(slots=True)
class Parking:
    """The marks of one pool."""

    marks: dict[str, Mark] = field(default_factory=dict)
    hold_off_s: float = HOLD_OFF_S
    held_until_s: float = 0.0
    changed_s: float | None = None
    reason: str = "Every replica serves."

    def away(self, replicas: Iterable[Replica]) -> int:
        """Live replicas that are asked to serve no more: they count as gone."""
        return sum(one.live and self._leaves(one.engine) for one in replicas)

    def _leaves(self, engine: str) -> bool:
        mark = self.marks.get(engine)
        return mark is not None and mark.do != "start"

    def step(self, now_s: float, replicas: Sequence[Replica], want: int | None, least: int) -> None:
        """Follows the planner's number; `least` is what must serve whatever it says. None = the load is unknown."""
        known = {one.engine: one for one in replicas}
        self._follow(now_s, known)
        if want is None:
            self._call_back(now_s, known, sum(m.do == "drain" for m in self.marks.values()), "the load is unknown")
            return
        serving = [one for one in replicas if one.live and not self._leaves(one.engine)]
        floor = max(want, least)
        if len(serving) < floor:
            self._call_back(now_s, known, floor - len(serving), f"{floor} must serve and {len(serving)} do")
        elif len(serving) > floor and now_s >= self.held_until_s:
            self._drain_one(now_s, serving, floor)

    def _follow(self, now_s: float, known: Mapping[str, Replica]) -> None:
        """What has become of what was asked for."""
        for engine in list(self.marks):
            one, mark = known.get(engine), self.marks[engine]
            if one is None:
                if now_s - mark.since_s > FORGET_S:
                    del self.marks[engine]
            elif one.holdout or (mark.do == "start" and one.live):
                del self.marks[engine]  # held out by now, or back
            elif mark.do == "start":
                continue
            elif not one.live:
                self._turn(mark, "off", now_s)
            elif not one.idle:
                mark.idle_s = None
                self._turn(mark, "drain", now_s)  # it still has requests, or got new ones
            else:
                mark.idle_s = now_s if mark.idle_s is None else min(mark.idle_s, now_s)
                if now_s - mark.idle_s >= IDLE_S:
                    self._turn(mark, "off", now_s)

    def _turn(self, mark: Mark, do: Do, now_s: float) -> None:
        if mark.do != do:
            mark.do, mark.since_s, self.changed_s = do, now_s, now_s

    def _call_back(self, now_s: float, known: Mapping[str, Replica], count: int, why: str) -> None:
        """Draining ones first, then those that are on, then those that must boot; the newest of each first."""
        order: dict[Do, int] = {"drain": 0, "off": 1, "start": 2}
        live = {engine for engine, one in known.items() if one.live}
        leaving = [(e, m) for e, m in self.marks.items() if m.do != "start"]
        leaving.sort(key=lambda item: (order[item[1].do], item[0] not in live, -item[1].since_s, item[0]))
        for engine, mark in leaving[:count]:
            if engine in live:
                del self.marks[engine]
            else:
                self._turn(mark, "start", now_s)
        if leaving[:count]:
            self.changed_s, self.held_until_s = now_s, now_s + self.hold_off_s
            self.reason = f"{', '.join(e for e, _ in leaving[:count][:4])} called back: {why}."

    def _drain_one(self, now_s: float, serving: Sequence[Replica], floor: int) -> None:
        """One at a time, where it frees a whole node soonest."""
        if any(mark.do == "drain" for mark in self.marks.values()):
            return
        held = {one.node for one in serving if one.holdout}
        left = {node: sum(one.node == node for one in serving) for node in {one.node for one in serving}}
        free = [one for one in serving if not one.holdout]
        if not free:
            self.reason = f"{floor} would be enough, but the other replicas are held out."
            return
        best = min(free, key=lambda one: (one.node in held, left[one.node], not one.idle, one.engine))
        self.marks[best.engine] = Mark("drain", best.node, now_s)
        self.changed_s = now_s
        self.reason = f"{best.engine} drains: {floor} of {len(serving)} replicas are enough."

    def gpus_off(self, replicas: Iterable[Replica]) -> set[str]:
        """GPUs of engines that may be off, for whoever knows what else is on their nodes."""
        off = {engine for engine, mark in self.marks.items() if mark.do == "off"}
        return {uuid for one in replicas if one.engine in off for uuid in one.gpus}

    def remember(self) -> list[list[Any]]:
        return [[engine, m.do, m.node, m.since_s] for engine, m in sorted(self.marks.items())]

    def recall(self, rows: Iterable[Sequence[Any]], now_s: float) -> None:
        """Marks of an earlier process; the hold-off begins anew, since nobody knows what it called back."""
        for row in rows:
            if len(row) == 4 and row[1] in ("drain", "off", "start") and isinstance(row[3], int | float):
                self.marks[str(row[0])] = Mark(row[1], str(row[2]), float(row[3]))
        self.held_until_s = now_s + self.hold_off_s
