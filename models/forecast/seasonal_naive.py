"""The value of one season ago: the forecast that every other one must beat."""

from __future__ import annotations

from collections import deque


class SeasonalNaive:
    """Repeats the last season; with a season of one step it repeats the last value."""

    def __init__(self, season: int) -> None:
        self.name = "seasonal_naive"
        self._season = season
        self._last: deque[float] = deque(maxlen=season)

    def learn(self, value: float) -> None:
        self._last.append(value)

    def forecast(self, steps: int) -> list[float] | None:
        if len(self._last) < self._season:
            return None
        return [self._last[step % self._season] for step in range(steps)]
