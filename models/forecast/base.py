"""What every forecaster is: it learns one value after another and says the next ones. No clock, no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

QUANTILES: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


class Forecaster(Protocol):
    """Learns in order of time; `forecast` changes nothing."""

    name: str

    def learn(self, value: float) -> None: ...

    def forecast(self, steps: int) -> list[float] | None:
        """The next values, None while too little was learned."""
        ...


class Diverged(ArithmeticError):
    """A model's forecast is no finite number any more."""


@dataclass(frozen=True, slots=True)
class Series:
    """Equally spaced values, oldest first; None = unknown. `season` is the steps of one period."""

    values: tuple[float | None, ...]
    step_s: float
    season: int


class TooShort(ValueError):
    """Too little history for a horizon; says how much there is and how much is needed."""
