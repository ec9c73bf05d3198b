"""Times of a recording or a rate curve: whether they can be seconds, how far they reach, and how far they are apart."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
DAY_S: Final = 86_400.0
MOST_DAYS: Final = 60.0  # of a recording or a rate curve: hours and seconds of it become arrays
LATEST_S: Final = 4.1e9  # of a clock that counts seconds since 1970: the year 2100 is just before it
EVEN: Final = 1.01  # a mean gap up to it times the usual one: evenly spaced, and rounded
_FINER: Final = (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))


def check_epoch(t_s: F8, what: str) -> None:
    """Refuses times that all lie beyond any clock in seconds: they are finer units."""
    first = float(t_s.min())
    if first <= LATEST_S:
        return
    unit, factor = next((one for one in _FINER if first / one[1] <= LATEST_S), ("", 0.0))
    step = f"divide these {unit} by {factor:,.0f}" if unit else "give seconds since 1970 or since the first row"
    raise ValueError(
        f"{what} begins at a time of {first:.13g}, beyond the year 2100 ({LATEST_S:.10g} s); timestamps are in "
        f"seconds, so {step}"
    )


def check_span(t_s: F8, what: str) -> None:
    """Refuses times that lie too far apart, before anything is as long as they are; names what lies apart."""
    days = (float(t_s.max()) - float(t_s.min())) / DAY_S
    if days <= MOST_DAYS:
        return
    before, after = widest_gap(np.sort(t_s, kind="stable"))
    raise ValueError(
        f"{what} spans {days:,.1f} days, over the bound of {MOST_DAYS:g}; timestamps are in seconds, so divide "
        f"milliseconds by 1,000, or take out what lies apart (the widest gap is from {before:.10g} to {after:.10g})"
    )


def widest_gap(t_s: F8) -> tuple[float, float]:
    """Where the widest gap of rising times begins and ends."""
    with np.errstate(over="ignore"):
        at = int(np.diff(t_s).argmax())
    return float(t_s[at]), float(t_s[at + 1])


def usual_gap_s(t_s: F8) -> float:
    """The gap between rising times: their mean where they are even, else the lower median, which no hole moves."""
    if len(t_s) < 2:
        return 0.0
    gaps = np.sort(np.diff(t_s))
    usual, mean = float(gaps[(len(gaps) - 1) // 2]), float(t_s[-1] - t_s[0]) / (len(t_s) - 1)
    return mean if mean <= EVEN * usual else usual
