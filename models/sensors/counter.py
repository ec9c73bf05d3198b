"""Energy counters: wraps and resets told apart, and a counter's self-test against integrated power.

A counter is the better witness, because it counts all the time while a power reading looks at a part of it. It is
believed only while it moves, never goes back without reason, and stays within what the device can draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.sensors.bounds import MOST_W, Kind
from models.sensors.types import Belief

Event = Literal["ok", "first", "wrap", "reset", "implausible", "standing"]
AGREE_RATIO = 0.10  # counter and integral of sparse readings within this agree
LEAST_TEST_J = 5.0  # less energy than this tests nothing: the counter's own steps show
NEAR_TOP = 0.5  # a wrap comes from the upper half of the range; from below, a smaller value is a reset


@dataclass(frozen=True, slots=True)
class Step:
    """What happened between two reads. `delta_j` None = unknown: the first read, a reset, or an impossible leap."""

    delta_j: float | None
    event: Event


@dataclass(slots=True)
class Counter:
    """Turns a raw counter into energy since the first read.

    Args:
        range_j: value at which the hardware wraps to zero; None = it does not wrap (NVML's), so going back is a reset.
        kind: what is measured, for the plausible power.
    """

    range_j: float | None = None
    kind: Kind = "gpu"
    total_j: float = 0.0
    resets: int = 0
    wraps: int = 0
    _before: tuple[float, float] | None = None

    def step(self, now_s: float, raw_j: float) -> Step:
        """One read. After a reset the new value becomes the base and what was drawn in between stays unknown."""
        before, self._before = self._before, (now_s, raw_j)
        if before is None:
            return Step(None, "first")
        elapsed_s, delta_j = now_s - before[0], raw_j - before[1]
        event: Event = "ok"
        if delta_j < 0:
            wraps = self.range_j is not None and before[1] >= NEAR_TOP * self.range_j and raw_j <= self.range_j
            if not wraps or self.range_j is None:
                self.resets += 1
                return Step(None, "reset")
            delta_j, event = delta_j + self.range_j, "wrap"
        if elapsed_s <= 0 or delta_j > MOST_W[self.kind] * elapsed_s:
            if event == "wrap":
                self.resets += 1
            return Step(None, "implausible" if event == "ok" else "reset")
        self.wraps += event == "wrap"
        self.total_j += delta_j
        return Step(delta_j, "standing" if delta_j == 0 else event)


def believe_counter(counter_j: float | None, integral_j: float | None, *, elapsed_s: float) -> Belief:
    """Counter against the integral of power over the same time: the energy to use, and why."""
    if counter_j is None and integral_j is None:
        return Belief(
            value=None, unit="J", believed=None, quality="estimated", disagreement_ratio=None,
            reason="Neither the counter nor the power readings gave an energy.",
        )  # fmt: skip
    if counter_j is None:
        return _of(integral_j, "integral", None, "There is no usable counter: power readings were integrated.")
    if integral_j is None or integral_j < LEAST_TEST_J:
        return _of(counter_j, "counter", None, "Too little power was read to test the counter, which counts always.")
    apart = abs(counter_j - integral_j) / max(counter_j, integral_j)
    if counter_j <= 0:
        told = f"The counter stood still for {elapsed_s:.1f} s while {integral_j / elapsed_s:.0f} W were read."
        return _of(integral_j, "integral", apart, told)
    if apart <= AGREE_RATIO:
        told = f"Counter and integrated power agree within {apart:.1%}; the counter counts all the time."
        return _of(counter_j, "counter", apart, told)
    for name, factor in (("1,000 times too large", 1e-3), ("1,000 times too small", 1e3)):
        if abs(counter_j * factor - integral_j) <= 2 * AGREE_RATIO * integral_j:
            told = f"The counter is {name} beside the power readings: its unit is wrong at the source."
            return _of(integral_j, "integral", apart, told)
    if apart <= 0.5:
        told = (
            f"Counter and integrated power are {apart:.0%} apart; readings see a part of the time and alias on a "
            "pulsed load, so the counter is believed."
        )
        return _of(counter_j, "counter", apart, told)
    told = (
        f"Counter ({counter_j:.0f} J) and integrated power ({integral_j:.0f} J) contradict each other: neither is sure."
    )
    return _of(max(counter_j, integral_j), "the higher one", apart, told + " The higher one keeps a budget safe.")


def _of(value: float | None, believed: str, apart: float | None, reason: str) -> Belief:
    sure = believed == "counter" and (apart is None or apart <= AGREE_RATIO)
    return Belief(
        value=value,
        unit="J",
        believed=believed,
        quality="measured" if sure else "estimated",
        disagreement_ratio=apart,
        reason=reason,
    )
