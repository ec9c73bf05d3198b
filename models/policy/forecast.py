"""What request rate to be ready for: same time yesterday and last week, trend, a reactive floor, and how wrong it was.

Memory is a ring of bins of a week. No clock and no files: the caller says what time it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Final

BIN_S: Final = 300.0
DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S
RECENT_S: Final = 120.0  # the present rate is a mean of about this long
TREND_S: Final = 900.0
BURST: Final = 2.0  # a minute this far above the expectation is a burst, and bursts come back
BURST_S: Final = 3600.0
KNOWN_BINS: Final = int(0.8 * DAY_S / BIN_S)  # so many make a day
UNJUDGED: Final = 0.12  # error of a forecast that has not been held against what came
NOISE: Final = 2.0  # standard deviations of a count


@dataclass(frozen=True, slots=True)
class Forecast:
    """Requests per second: now, expected at the highest of the horizon, and the upper bound to be ready for."""

    now: float
    expected: float
    upper: float
    error_ratio: float
    basis: str
    known: bool = True  # a day has been seen
    jump: float = 0.0  # requests/s by which the rate has come out above the expectation at most, in the last week
    jump_ratio: float = 1.0  # the same as a share of the expectation


@dataclass(slots=True)
class RateForecast:
    """Learns a pool's rate. `z`: how many standard errors above the expectation one must be ready for."""

    z: float = 2.0
    error_floor: float = 0.06
    past_weight: float = 1.0  # 0: reactive only
    _sum: dict[int, float] = field(default_factory=dict)
    _count: dict[int, int] = field(default_factory=dict)
    _recent: deque[tuple[float, float]] = field(default_factory=deque)
    _peaks: deque[tuple[float, float]] = field(default_factory=deque)  # falling: the highest of the last hour is first
    _now: float = 0.0
    _level: float = 1.0  # present rate over the same time yesterday
    _error2: float = UNJUDGED * UNJUDGED
    _waiting: deque[tuple[float, float]] = field(default_factory=deque)
    _seen_s: float | None = None
    _jumps: dict[int, tuple[float, float]] = field(default_factory=dict)  # by day: requests/s, and the ratio

    def observe(self, now_s: float, rate: float, span_s: float) -> None:
        """The mean rate of the last span_s seconds. The same time twice is taken as no time at all; behind a clock that
        goes back lies a future that has not been: what was remembered of its last hour goes, the bins of days stay.
        """
        if self._seen_s is not None and now_s <= self._seen_s:
            if now_s > self._seen_s - span_s:
                return
            for recent in (self._recent, self._peaks, self._waiting):
                recent.clear()
        first = self._seen_s is None
        self._seen_s = now_s
        share = 1.0 if first else min(1.0, span_s / RECENT_S)
        self._now += share * (rate - self._now)
        self._recent.append((now_s, rate))
        while self._recent and self._recent[0][0] < now_s - TREND_S:
            self._recent.popleft()
        while self._peaks and (self._peaks[0][0] < now_s - BURST_S or self._peaks[0][1] <= rate):
            self._peaks.popleft()
        while self._peaks and self._peaks[-1][1] <= rate:
            self._peaks.pop()
        self._peaks.append((now_s, rate))
        at = int(now_s // BIN_S)
        self._sum[at] = self._sum.get(at, 0.0) + rate
        self._count[at] = self._count.get(at, 0) + 1
        old = at - int((WEEK_S + DAY_S) // BIN_S)
        self._sum.pop(old, None)
        self._count.pop(old, None)
        before = self._past(now_s - DAY_S)
        if before is not None and before > 0.0:
            self._level += min(1.0, span_s / 1800.0) * (min(2.0, max(0.5, self._now / before)) - self._level)
        self._judge(now_s)

    def ahead(self, now_s: float, horizon_s: float) -> Forecast:
        """The rate to be ready for within the horizon."""
        expected, basis = self._now, "the present rate"
        slope = self._slope()
        trend = self._now + max(0.0, slope) * horizon_s * 0.5
        if trend > expected:
            expected, basis = trend, "the present rate and its trend"
        shape = self._shape(now_s, horizon_s)
        if shape is not None and self.past_weight > 0.0 and shape > expected:
            expected, basis = shape, "the same time of earlier days"
        error = max(self.error_floor, sqrt(self._error2))
        peak = max((rate for _, rate in self._peaks), default=0.0)
        if peak > BURST * expected:
            expected, basis = peak, "the highest minute of the last hour"
        self._waiting.append((now_s + horizon_s, expected))
        upper = expected * (1.0 + self.z * error)
        day = int(now_s // DAY_S)
        jumps = [found for at, found in self._jumps.items() if day - 8 < at <= day]
        jump, ratio = max((j for j, _ in jumps), default=0.0), max((r for _, r in jumps), default=1.0)
        return Forecast(self._now, expected, upper, error, basis, len(self._sum) >= KNOWN_BINS, jump, ratio)

    def remember(self) -> dict[str, object]:
        """What another process needs to go on: means by bin, and how wrong it was."""
        means = {str(at): float(f"{self._sum[at] / count:.4g}") for at, count in self._count.items() if count}
        jumps = {str(day): [float(f"{value:.4g}") for value in jump] for day, jump in self._jumps.items()}
        return {"bins": means, "level": self._level, "error2": self._error2, "jumps": jumps}

    def recall(self, memory: Mapping[str, object]) -> None:
        """Takes such a memory over; what is no finite number in it is left out."""
        bins = memory.get("bins")
        for at, mean in bins.items() if isinstance(bins, Mapping) else ():
            if isinstance(mean, int | float) and isfinite(mean) and mean >= 0.0 and str(at).isdecimal():
                self._sum.setdefault(int(at), float(mean))
                self._count.setdefault(int(at), 1)
        level, error2 = memory.get("level"), memory.get("error2")
        if isinstance(level, int | float) and 0.5 <= level <= 2.0:
            self._level = float(level)
        if isinstance(error2, int | float) and 0.0 <= error2 <= 1.0:
            self._error2 = float(error2)
        jumps = memory.get("jumps")
        for day, jump in jumps.items() if isinstance(jumps, Mapping) else ():
            if str(day).isdecimal() and _jump(jump):
                self._jumps.setdefault(int(day), (float(jump[0]), float(jump[1])))

    def _judge(self, now_s: float) -> None:
        """How far above the expectation the rate came out, as a slow mean square."""
        while self._waiting and self._waiting[0][0] <= now_s:
            _, expected = self._waiting.popleft()
            if expected > 0.0:
                self._jumped(now_s, expected)
                miss = max(0.0, self._now / expected - 1.0)
                self._error2 += 0.01 * (min(miss, 1.0) ** 2 - self._error2)

    def _jumped(self, now_s: float, expected: float) -> None:
        """Remembers by how much the rate came out above the expectation, beyond what counting few requests explains."""
        seen = self._now - NOISE * sqrt(self._now / RECENT_S)
        if seen > expected:
            day = int(now_s // DAY_S)
            jump, ratio = self._jumps.get(day, (0.0, 1.0))
            self._jumps[day] = max(jump, seen - expected), max(ratio, seen / expected)
            for old in [at for at in self._jumps if at <= day - 8]:
                del self._jumps[old]

    def _past(self, at_s: float) -> float | None:
        at = int(at_s // BIN_S)
        count = self._count.get(at, 0)
        return self._sum[at] / count if count else None

    def _shape(self, now_s: float, horizon_s: float) -> float | None:
        """The highest that the coming minutes were yesterday, scaled to today's level; last week where known."""
        found: list[float] = []
        ahead = 0.0
        while ahead <= horizon_s:
            day, week = self._past(now_s + ahead - DAY_S), self._past(now_s + ahead - WEEK_S)
            if week is not None:
                found.append(week)
            elif day is not None:
                found.append(day * self._level)
            ahead += BIN_S / 2
        if not found:
            return None
        return min(max(found), 1.6 * max(self._now, 1e-9))

    def _slope(self) -> float:
        """Requests per second per second over the last minutes, least squares."""
        count = len(self._recent)
        if count < 5:
            return 0.0
        mean_t = sum(t for t, _ in self._recent) / count
        mean_r = sum(r for _, r in self._recent) / count
        below = sum((t - mean_t) ** 2 for t, _ in self._recent)
        return sum((t - mean_t) * (r - mean_r) for t, r in self._recent) / below if below > 0.0 else 0.0


def _jump(value: object) -> bool:
    """A pair of requests/s and a ratio."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(isinstance(part, int | float) and isfinite(part) and part >= 0.0 for part in value)
