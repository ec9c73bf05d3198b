"""River's SNARIMAX on values that are scaled to the first season: a linear model of recent and seasonal lags.

River learns one value at a time by gradient steps, so the scale of the input decides whether it converges.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

from models.forecast.base import Diverged

RUNAWAY: Final = 2.0  # forecasts further outside what was ever seen than this many times its range are no forecasts


class Snarimax:
    """p recent lags, sp seasonal lags of `season` steps; the seasonal difference is left to the lags."""

    def __init__(self, season: int, *, p: int, sp: int) -> None:
        self.name = f"snarimax(p={p}, sp={sp}, m={season})"
        self._season, self._p, self._sp = season, p, sp
        self._first: list[float] = []
        self._mean, self._spread = 0.0, 1.0
        self._model: Any = None
        self._learned = 0
        self._low, self._high = float("inf"), float("-inf")

    def learn(self, value: float) -> None:
        self._low, self._high = min(self._low, value), max(self._high, value)
        if self._model is None:
            self._first.append(value)
            if len(self._first) >= max(self._season, 8):
                self._begin()
            return
        self._model.learn_one((value - self._mean) / self._spread)
        self._learned += 1

    def _begin(self) -> None:
        from river import linear_model, optim, preprocessing, time_series

        self._mean = sum(self._first) / len(self._first)
        self._spread = (sum((v - self._mean) ** 2 for v in self._first) / len(self._first)) ** 0.5 or 1.0
        regressor = preprocessing.StandardScaler() | linear_model.LinearRegression(
            optimizer=optim.SGD(0.02), intercept_init=0.0, intercept_lr=0.02, l2=1e-4
        )
        self._model = time_series.SNARIMAX(p=self._p, d=0, q=0, m=self._season, sp=self._sp, sq=0, regressor=regressor)
        for value in self._first:
            self._model.learn_one((value - self._mean) / self._spread)
            self._learned += 1

    def forecast(self, steps: int) -> list[float] | None:
        """Raises Diverged when the gradient steps have left the numbers."""
        if self._learned < self._sp * self._season + self._p + 1:
            return None
        out = [self._mean + self._spread * float(value) for value in self._model.forecast(horizon=steps)]
        # Fed with its own outputs for a whole horizon it may run away: then it says nothing that could be used.
        room = RUNAWAY * (self._high - self._low)
        if not all(isfinite(value) and self._low - room <= value <= self._high + room for value in out):
            raise Diverged(f"{self.name} diverged after {self._learned} values")
        return out
