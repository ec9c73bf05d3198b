"""Rollback to default clocks when over one request in a hundred missed the SLO within an hour: nothing is worth that.

A rollback ends when the hour's share is below that again. One that follows within a day shows that the load does this
to lower clocks: it lasts two hours, the next one four, up to a day.

One source for the node agent and the bench. It counts; what a missed request is, and what default clocks are, is the
caller's matter. Pure: time and counters are arguments, and counters only rise.
"""

from __future__ import annotations

from typing import Final

GUARD_S: Final = 3600.0
GUARD_LEAST: Final = 50.0  # requests below which a share says nothing
GUARD_SHARE: Final = 0.01
FORGIVE_S: Final = 86_400.0  # a rollback within so long of the one before lasts twice as long, up to as long
KEPT_S: Final = 60.0  # between two counts that are remembered: sixty of them make an hour
# What a missed request is where nobody says otherwise: first token, mean gap between tokens.
SLO_TTFT_MS: Final = 2000.0
SLO_TBT_MS: Final = 100.0


class MissGuard:
    """The share of missed requests over the last hour, and whether it forbids lower clocks."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._seen: list[tuple[float, float, float]] = [(start_s, 0.0, 0.0)]
        self._held = False
        self._lasts_s = 0.0  # what the rollback in force, or the last one, lasts at least
        self._began_s = self._ended_s = start_s - FORGIVE_S

    def holds(self, now_s: float, requests: float, missed: float) -> bool:
        """Whether default clocks must be kept, after these totals since the start at now_s (any rising clock)."""
        seen = self._seen
        now_s = max(now_s, seen[-1][0])
        newest = (now_s, requests, missed)
        if len(seen) > 1 and now_s - seen[-2][0] < KEPT_S:
            seen[-1] = newest
        else:
            seen.append(newest)
        while seen[0][0] < now_s - GUARD_S:
            seen.pop(0)
        self._hold(now_s)
        return self._held

    def _hold(self, now_s: float) -> None:
        counted, over = self._counted()
        broken = counted >= GUARD_LEAST and over > GUARD_SHARE * counted
        if broken and not self._held:
            again = now_s - self._ended_s < FORGIVE_S
            self._lasts_s = min(FORGIVE_S, 2.0 * max(GUARD_S, self._lasts_s)) if again else 0.0
            self._held, self._began_s = True, now_s
        elif self._held and not broken and now_s >= self._began_s + self._lasts_s:
            self._held, self._ended_s = False, now_s

    def left_s(self, now_s: float) -> float:
        """Seconds that a repeated rollback still lasts at least; 0 without one."""
        return max(0.0, self._began_s + self._lasts_s - now_s) if self._held else 0.0

    @property
    def missed_ratio(self) -> float | None:
        """Share of the last hour's requests; None below the number that says something."""
        counted, over = self._counted()
        return over / counted if counted >= GUARD_LEAST else None

    def _counted(self) -> tuple[float, float]:
        first, last = self._seen[0], self._seen[-1]
        return last[1] - first[1], last[2] - first[2]
