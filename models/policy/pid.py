"""A PID on a power target, as the brief asks for it, and shown as what it is: blind to latency.

On the bench it saves less than a clock lock at the same latency (docs/benchmarks/control.md), so no strategy uses it.
Settings: PID_KP, PID_KI, PID_KD, GPU_POWER_FLOOR, GPU_POWER_CEILING, OPTIMIZATION_INTERVAL.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

KIND = "PID on a power target: it knows nothing of latency, a strategy does"


@dataclass(frozen=True, slots=True)
class PidSettings:
    """Gains in watts per watt, per watt-second and per watt/second; limits in watts; the interval in seconds."""

    kp: float = 0.5
    ki: float = 0.2
    kd: float = 0.0
    floor_w: float = 200.0
    ceiling_w: float = 700.0
    interval_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0.0 < self.floor_w <= self.ceiling_w:
            raise ValueError(
                f"GPU_POWER_FLOOR is {self.floor_w:g} W and GPU_POWER_CEILING {self.ceiling_w:g} W; "
                "give 0 < floor <= ceiling"
            )
        for name, gain in (("PID_KP", self.kp), ("PID_KI", self.ki), ("PID_KD", self.kd)):
            if not isfinite(gain) or gain < 0.0:
                raise ValueError(f"{name} is {gain:g}; gains are 0 or more")
        if not self.interval_s > 0.0:
            raise ValueError(f"OPTIMIZATION_INTERVAL is {self.interval_s:g} s; give seconds above 0")


class PowerPid:
    """One controlled limit: target in watts, measurement in, limit out. Anti-windup: the integral stays inside."""

    def __init__(self, settings: PidSettings, target_w: float) -> None:
        self._settings = settings
        self.target_w = min(settings.ceiling_w, max(settings.floor_w, target_w))
        self._integral_w = 0.0
        self._last: tuple[float, float] | None = None
        self.limit_w = settings.ceiling_w

    def step(self, now_s: float, power_w: float | None) -> float:
        """The limit from now on; an unknown measurement or a clock that does not move keeps the last one."""
        s = self._settings
        if power_w is None or not isfinite(power_w):
            return self.limit_w
        if self._last is None:
            self._last = (now_s, power_w)
            return self.limit_w
        span = now_s - self._last[0]
        if span < s.interval_s - 1e-9:
            return self.limit_w
        error = self.target_w - power_w
        slope = (power_w - self._last[1]) / span
        wanted = self.target_w + s.kp * error + self._integral_w + s.ki * error * span - s.kd * slope
        self.limit_w = min(s.ceiling_w, max(s.floor_w, wanted))
        if self.limit_w == wanted:
            self._integral_w += s.ki * error * span
        self._last = (now_s, power_w)
        return self.limit_w


@dataclass(frozen=True, slots=True)
class BatchBounds:
    """BATCH_MIN and BATCH_MAX: the sequences (or chunk tokens) that an engine may be asked for."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"BATCH_MIN is {self.low} and BATCH_MAX {self.high}; give 1 <= BATCH_MIN <= BATCH_MAX")

    def within(self, wanted: int) -> int:
        return min(self.high, max(self.low, wanted))
