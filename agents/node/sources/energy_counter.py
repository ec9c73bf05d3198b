"""A hardware energy counter that wraps, stands still or goes back, as one that only grows. Microjoules in and out.

It knows nothing of files. Two readings make a power; where the second proves nothing (the counter stood still, went
back, or may have wrapped more than once) the power is unknown and says why. Energy is never made up: a doubtful step
adds what the counter can prove, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PLAUSIBLE_W: Final = 2000.0  # no CPU package takes more; a step above it is a reset unless the counter moves so fast
LONG_GAP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """What one reading of the counter says: energy so far, and power since the reading before or why it is unknown."""

    energy_uj: int
    power_w: float | None
    reason: str = ""


class EnergyCounter:
    """One counter's memory: the last raw value and when, and the sum over all wraps since the first reading.

    The sum begins at the first raw value, so that it equals the hardware's own counter until that wraps.
    """

    __slots__ = ("_at_s", "_rate_w", "_raw", "_total")

    def __init__(self) -> None:
        self._raw: int | None = None
        self._at_s = 0.0
        self._total: int | None = None
        self._rate_w: float | None = None

    def lost(self) -> None:
        """The counter could not be read: the next value begins a new count, the sum stays."""
        self._raw = self._rate_w = None

    def step(self, raw: int, at_s: float, range_uj: int | None) -> Step:
        """Takes one raw value read at `at_s` (monotonic seconds); `range_uj` is where the hardware wraps."""
        before, since = self._raw, at_s - self._at_s
        self._raw, self._at_s = raw, at_s
        if self._total is None:
            self._total = raw
        if before is None:
            return Step(self._total, None, "power takes two readings of the energy counter; this was the first")
        delta = raw - before
        if delta < 0:
            delta = self._over_the_end(raw, before, since, range_uj)
        if delta < 0:
            self._rate_w = None
            return Step(self._total, None, f"the counter went back from {before} to {raw} uJ without reaching its end")
        self._total += delta
        return self._power(delta, since, range_uj)

    def _power(self, delta: int, since: float, range_uj: int | None) -> Step:
        assert self._total is not None
        if since <= 0:
            return Step(self._total, None, f"no time passed between two readings ({since:.6f} s)")
        if delta == 0:
            return Step(
                self._total, None, f"the counter did not move in {since:.3g} s: it stands still or is switched off"
            )
        power, known = delta / since / 1e6, self._rate_w
        self._rate_w = power
        most = PLAUSIBLE_W / 2 if known is None else max(PLAUSIBLE_W / 2, 4 * known)
        if range_uj and since > LONG_GAP_S and since * most * 1e6 > range_uj:
            return Step(self._total, None, f"{since:.0f} s since the last reading: the counter may have wrapped unseen")
        return Step(self._total, power)

    def _over_the_end(self, raw: int, before: int, since: float, range_uj: int | None) -> int:
        """The step over the wrap, or -1 when the counter rather began anew."""
        if not range_uj or not before <= range_uj:
            return -1
        delta = range_uj - before + raw
        fastest = max(PLAUSIBLE_W, 4 * self._rate_w) if self._rate_w is not None else PLAUSIBLE_W
        return delta if delta <= fastest * 1e6 * max(since, 0.001) else -1
