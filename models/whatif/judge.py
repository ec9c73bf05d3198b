"""The twin held to what really ran, the verdict whether it may be used, and how sure a saving is. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.whatif.replay import Outcome
from models.whatif.series import KINDS, MIN_SAMPLES, Array, Bools, Kind, Series, quantile_ms

POWER_BOUND: Final = 0.15
P99_BOUND: Final = 0.25
BLOCK_S: Final = 20.0  # longer than most requests, so that blocks are nearly independent
_DRAWS: Final = 1000
_LEAST_BLOCKS: Final = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One quantity in the second part: measured, predicted, and whether the error keeps its bound. None = unknown."""

    quantity: str
    measured: float | None
    predicted: float | None
    error_ratio: float | None
    bound: float
    samples: int
    required: bool

    @property
    def passed(self) -> bool:
        """An unknown error passes only where the quantity may be unknown."""
        return not self.required if self.error_ratio is None else self.error_ratio <= self.bound


def check(series: Series, seen: Outcome, slots: Bools) -> list[Check]:
    """Mean watts, and the p99 of each latency over all engines."""
    known = int(np.isfinite(series.power_w[:, slots]).sum())
    found = [_row("power_w", series.mean_power_w(slots), _matched(series, seen, slots), POWER_BOUND, known, True)]
    for kind in KINDS:
        counts = series.hits[kind].within(slots)
        samples = int(counts.sum())
        enough = samples >= MIN_SAMPLES[kind]
        measured = quantile_ms(counts, 0.99) if enough else float("nan")
        # An engine that never reports durations leaves that p99 unknown; one that does must be predicted.
        required = kind != "e2e" or samples > 0
        found.append(_row(f"p99_{kind}_ms", measured, seen.p99_ms(kind, slots), P99_BOUND, samples, required))
    return found


def _matched(series: Series, seen: Outcome, slots: Bools) -> float:
    """Predicted mean watts of the very slots whose watts were measured."""
    known = np.isfinite(series.power_w[:, slots])
    values = seen.power_w[:, slots][known]
    return float(values.mean()) if len(values) else float("nan")


def _row(quantity: str, measured: float, predicted: float, bound: float, samples: int, required: bool) -> Check:
    error = abs(predicted / measured - 1.0) if measured > 0 else float("nan")
    return Check(quantity, _known(measured), _known(predicted), _known(error), bound, samples, required)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def objection(checks: list[Check]) -> str | None:
    """Why the twin may not be used, as the end of a sentence; None when every check holds."""
    for one in checks:
        if not one.passed and one.error_ratio is None:
            kind: Kind | None = next((kind for kind in KINDS if kind in one.quantity), None)
            needed = f" of {MIN_SAMPLES[kind]} needed" if kind else ""
            return f"{one.quantity} is unknown in the second part ({one.samples} samples{needed}); take a longer range"
    failed = [one for one in checks if not one.passed and one.error_ratio is not None]
    if not failed:
        return None
    worst = max(failed, key=lambda one: (one.error_ratio or 0.0) / one.bound)
    return (
        f"the twin predicts {worst.quantity} {worst.predicted:.4g} where {worst.measured:.4g} was measured, "
        f"an error of {worst.error_ratio:.0%} over the bound of {worst.bound:.0%}"
    )


def saving_interval(ours: Array, theirs: Array, *, step_s: float, seed: int = 0) -> tuple[float, float] | None:
    """95 % block bootstrap of 1 - sum(ours) / sum(theirs) over slots; None for fewer than three blocks."""
    size = max(round(BLOCK_S / step_s), 1)
    count = len(ours) // size
    if count < _LEAST_BLOCKS:
        return None
    a, b = (np.array([part.sum() for part in np.array_split(one, count)]) for one in (ours, theirs))
    picks = np.random.default_rng(seed).integers(0, count, (_DRAWS, count))
    savings = 1.0 - a[picks].sum(axis=1) / b[picks].sum(axis=1)
    low, high = np.quantile(savings, [0.025, 0.975])
    return float(low), float(high)
