"""What was measured of a serving stack, and which numbers lean on more than that.

A profile is fitted to a range of batches at full clock; clocks are held to other GPUs' curves, and to none below 0.60
of the highest. Whoever prints a number that leaves the range says so with these words. It must not forbid anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from models.control.profiles import LLAMA_70B_H100X4
from models.policy.strategies import DEEPEST_SM_RATIO


@dataclass(frozen=True, slots=True)
class MeasuredRange:
    """Of one stack: sequences running at once, and prompt tokens of one prefill."""

    most_running: float
    source: str


MEASURED: Final[dict[str, MeasuredRange]] = {
    LLAMA_70B_H100X4.name: MeasuredRange(898.0, "ML.ENERGY leaderboard, batches 8 to 898"),
}


def beyond(stack: str, *, running: Iterable[float], clock_ratios: Iterable[float]) -> list[str]:
    """What leaves the measured range, in words for a reader; empty where nothing does.

    clock_ratios are shares of the highest clock. Fewer sequences than were measured cost no more than the fewest
    measured, so only more of them count.
    """
    found = []
    lowest = min(clock_ratios, default=1.0)
    if lowest < DEEPEST_SM_RATIO - 1e-9:
        found.append(f"clocks down to {lowest:.0%} of the highest, and no published curve holds below 60 %")
    known, most = MEASURED.get(stack), max(running, default=0.0)
    if known is not None and most > known.most_running:
        found.append(f"{most:.0f} sequences at once, and at most {known.most_running:.0f} were measured")
    return found


def deep(ratio: float | None) -> str:
    """A policy's mark where this share of its busy time lay below every published curve; nothing where none did."""
    return f"EXTRAPOLATED {max(ratio, 0.001):.1%}" if ratio else ""


def mark(found: list[str]) -> str:
    """One sentence, or nothing."""
    return f"Extrapolated: {'; '.join(found)}." if found else ""
