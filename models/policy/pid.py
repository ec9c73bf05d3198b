"""A PID on a power target, as the brief asks for it, and shown as what it is: blind to latency.

On the bench it saves less than a clock lock at the same latency (docs/benchmarks/control.md), so no strategy uses it.
Settings: PID_KP, PID_KI, PID_KD, GPU_POWER_FLOOR, GPU_POWER_CEILING, OPTIMIZATION_INTERVAL.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Final

KIND: Final = "pid: blind to latency"
LONGEST_SPANS: Final = 3.0  # intervals


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
    """One controlled limit: target in watts, measurement in, limit out.

    Bumpless: it starts from the limit in force, and a new target moves the limit by its own controller only.
    Anti-windup: at a bound the integral is set back to what just reaches it, so that it leaves the bound when it may.
    """

    def __init__(self, settings: PidSettings, target_w: float, held_w: float | None = None) -> None:
        self._settings = settings
        self.target_w = self._within(target_w)
        self.limit_w = self._within(settings.ceiling_w if held_w is None else held_w)
        self._integral_w: float | None = None
        self._last: tuple[float, float] | None = None

    def _within(self, watts: float) -> float:
        if not isfinite(watts):
            return self._settings.ceiling_w
        return min(self._settings.ceiling_w, max(self._settings.floor_w, watts))

    def retarget(self, target_w: float) -> None:
        """A new target; the limit goes on from where it is."""
        old, self.target_w = self.target_w, self._within(target_w)
        if self._integral_w is not None:
            self._integral_w += (1.0 + self._settings.kp) * (old - self.target_w)

    def step(self, now_s: float, power_w: float | None) -> float:
        """The limit from now on; an unknown measurement or a clock that does not move keeps the last one."""
        s = self._settings
        if power_w is None or not isfinite(power_w) or power_w < 0.0 or not isfinite(now_s):
            return self.limit_w
        error = self.target_w - power_w
        if self._last is None or self._integral_w is None or now_s < self._last[0]:
            # The first reading, or a clock that went back: go on from the limit in force.
            self._last, self._integral_w = (now_s, power_w), self.limit_w - self.target_w - s.kp * error
            return self.limit_w
        span = now_s - self._last[0]
        if span < s.interval_s - 1e-9:
            return self.limit_w
        span = min(span, LONGEST_SPANS * s.interval_s)  # a pause is not minutes of error
        outside = self.target_w + s.kp * error - s.kd * (power_w - self._last[1]) / span
        self.limit_w = self._within(outside + self._integral_w + s.ki * error * span)
        self._integral_w = self.limit_w - outside
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
