"""Additive Holt-Winters with a damped trend: level, trend and one offset per place in the season.

An own form, because the trend must be damped: undamped, a momentary slope carried over a day leaves any bound.
"""

from __future__ import annotations

from typing import Final

DAMPING: Final = 0.9


class HoltWinters:
    """Starts from the mean and the offsets of the first season."""

    def __init__(self, season: int, *, alpha: float, beta: float, gamma: float) -> None:
        self.name = f"holt_winters(alpha={alpha:g}, beta={beta:g}, gamma={gamma:g})"
        self._season, self._alpha, self._beta, self._gamma = season, alpha, beta, gamma
        self._first: list[float] = []
        self._offsets: list[float] = []
        self._level = self._trend = 0.0
        self._place = 0

    def learn(self, value: float) -> None:
        if not self._offsets:
            self._first.append(value)
            if len(self._first) == self._season:
                self._begin()
            return
        offset, expected_level = self._offsets[self._place], self._level + DAMPING * self._trend
        level = self._alpha * (value - offset) + (1.0 - self._alpha) * expected_level
        self._trend = self._beta * (level - self._level) + (1.0 - self._beta) * DAMPING * self._trend
        if self._season > 1:
            self._offsets[self._place] = self._gamma * (value - level) + (1.0 - self._gamma) * offset
        self._level = level
        self._place = (self._place + 1) % self._season

    def _begin(self) -> None:
        self._level = sum(self._first) / self._season
        self._offsets = [value - self._level for value in self._first]

    def forecast(self, steps: int) -> list[float] | None:
        if not self._offsets:
            return None
        out, rise, damping = [], 0.0, 1.0
        for step in range(steps):
            damping *= DAMPING
            rise += damping * self._trend
            out.append(self._level + rise + self._offsets[(self._place + step) % self._season])
        return out
