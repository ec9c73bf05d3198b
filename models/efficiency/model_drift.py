"""Whether a node's controller goes on missing what an engine does: ADWIN on the size of its prediction errors.

The node itself gives default clocks back after two or three bad windows and learns anew within seconds. What is found
here is what that does not mend: errors that rose and stayed. It must not decide what follows; a verdict does.
"""

from __future__ import annotations

from collections import deque
from math import isfinite, log
from typing import Final, NamedTuple

from river import drift

KEPT: Final = 30  # newest errors, one a second: what "stayed" means
RISEN: Final = 0.06  # mean error after a change that ADWIN has found
GROSS: Final = 0.18  # mean error that is too large even if it was never smaller
CALM: Final = 0.5  # of RISEN: below it the model predicts again
DELTA: Final = 1e-4
FULL: Final = 0.2  # ADWIN's bounds are for values from 0 to 1: this error counts as 1
LARGEST: Final = 2.0  # an error counts as at most this: one absurd reading must not fill a mean


class Found(NamedTuple):
    """The mean error (size of a logarithm: 0.1 is about 10 %) against its bound."""

    score: float
    threshold: float


class ModelDrift:
    """One engine's errors."""

    def __init__(self) -> None:
        self._adwin = drift.ADWIN(delta=DELTA, clock=8, grace_period=16)
        self._kept: deque[float] = deque(maxlen=KEPT)
        self._since_change: int | None = None  # errors since ADWIN found a rise
        self.drifted = False

    def observe(self, time_error_ratio: float) -> Found | None:
        """Takes one error (measured / predicted - 1); what is found for as long as it lasts, else None."""
        if not isfinite(time_error_ratio) or time_error_ratio <= -1.0:
            return None
        size = min(LARGEST, abs(log(1.0 + time_error_ratio)))
        before = self._adwin.estimation
        self._adwin.update(min(1.0, size / FULL))
        self._kept.append(size)
        if self._since_change is not None:
            self._since_change += 1
        if self._since_change is None and self._adwin.drift_detected and self._adwin.estimation > before:
            self._since_change = 0
        return self._judge()

    def _judge(self) -> Found | None:
        mean = sum(self._kept) / len(self._kept)
        if len(self._kept) < KEPT:
            return None
        risen = self._since_change is not None and self._since_change >= KEPT
        if risen and mean < RISEN and not self.drifted:
            self._since_change = None  # learned anew: it was a change, and it is over
        bound = RISEN if risen or self.drifted else GROSS
        self.drifted = mean >= (CALM * RISEN if self.drifted else bound)
        return Found(mean, bound) if self.drifted else None
