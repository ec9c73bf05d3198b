"""The pace of data-parallel training jobs over all nodes that this worker reads: how long their slowest rank is busy.

A node sees the ranks on it; who sets the pace may be elsewhere. The pace travels as the `e2e_ms` target of each rank
(of a training job: duration of a step). It is the busy time at the rank's own default, so that ranks which are slowed
do not become each other's reason. Nothing is granted here.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from streams.contract.records import EngineReading, LatencyTarget
from streams.contract.training import group_of

WINDOW_S: Final = 60.0  # some blocks of a search: those at the default are among them
FRESH_S: Final = 10.0  # a rank that says nothing for longer is at its default, and its pace is unknown
QUARTER: Final = 4
LEAST: Final = 8  # readings before a rank's pace is known


class RankPaces:
    """Busy milliseconds of each rank, and the slowest of each job."""

    def __init__(self) -> None:
        self._busy: dict[str, dict[str, deque[tuple[float, float]]]] = {}

    def add(self, now_s: float, engine: EngineReading) -> None:
        """Takes one reading of a rank; others, and those that cannot be, are left out."""
        group = group_of(engine.workload)
        busy_ms = _busy_ms(engine)
        if group is None or busy_ms is None:
            return
        kept = self._busy.setdefault(group, {}).setdefault(engine.engine, deque())
        kept.append((now_s, busy_ms))
        while kept[0][0] < now_s - WINDOW_S:
            kept.popleft()

    def target(self, now_s: float, engine: EngineReading) -> LatencyTarget:
        """The rank's target: the pace of its job; null where nobody else is known."""
        pace_ms = self._pace_ms(now_s, engine)
        return LatencyTarget(engine=engine.engine, e2e_ms=None if pace_ms is None else round(pace_ms, 3))

    def _pace_ms(self, now_s: float, engine: EngineReading) -> float | None:
        group = group_of(engine.workload)
        ranks = {} if group is None else self._busy.get(group, {})
        for name in [name for name, kept in ranks.items() if now_s - kept[-1][0] > FRESH_S]:
            del ranks[name]
        known = {name: _low(kept) for name, kept in ranks.items() if len(kept) >= LEAST}
        return max(known.values()) if len(known) > 1 and engine.engine in known else None


def _busy_ms(engine: EngineReading) -> float | None:
    """Busy milliseconds of a step at the rank's own default; None where it tells no steps, or not its waits."""
    steps = 0 if engine.e2e is None else sum(engine.e2e.count)
    if engine.e2e is None or engine.tbt is None or steps <= 0:
        return None
    busy_ms = (engine.e2e.sum_ms - engine.tbt.sum_ms) / steps
    slowed = None if engine.control is None else engine.control.slowdown_ratio
    return busy_ms / (1.0 + max(slowed or 0.0, 0.0)) if 0.0 < busy_ms < 1e9 else None


def _low(kept: deque[tuple[float, float]]) -> float:
    """The lower quartile: half of the window may be blocks in which a slower setting was measured."""
    return sorted(busy_ms for _, busy_ms in kept)[len(kept) // QUARTER]
