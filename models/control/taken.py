"""Values from outside as the controller takes them: seconds, counts that can be, NaN where nothing is known."""

from __future__ import annotations

from math import inf, nan
from typing import Final

from models.control.release import MOST
from models.control.types import Observed

LEAST_MS: Final = 1e-3  # no engine makes a token in less than a microsecond


def seconds(value_ms: float | None) -> float:
    """A bound: absent is infinite, NaN stays NaN and never holds."""
    return inf if value_ms is None else value_ms / 1e3


def counted(observed: Observed | None) -> tuple[float, float, float, float, float, float]:
    """First tokens, answers and gaps with those of them that were late; a pair that cannot be is unknown."""
    if observed is None:
        return nan, nan, nan, nan, nan, nan
    return (
        *_pair(observed.first_tokens, observed.late_first_tokens),
        *_pair(observed.answers, observed.long_answers),
        *_pair(observed.gaps, observed.slow_gaps),
    )


def _pair(count: float | None, late: float | None) -> tuple[float, float]:
    return (count, late) if count is not None and late is not None and 0.0 <= late <= count <= MOST else (nan, nan)


def measured(value_ms: float | None) -> float:
    return value_ms / 1e3 if value_ms is not None and LEAST_MS <= value_ms < MOST else nan
