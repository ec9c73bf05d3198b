"""Whether a node's controller goes on missing what an engine does: ADWIN on the size of its prediction errors.

The node itself gives default clocks back after two or three bad windows and learns anew within seconds. What is found
here is what that does not mend: errors that rose and stayed. "Stayed" is a length of time, not a number of records:
those of a backlog come in a bunch, those of a node short of time are few, and a gap between them is unknown. It must
not decide what follows; a verdict does.
"""

from __future__ import annotations

from collections import deque
from math import isfinite, log
from typing import Final, NamedTuple

from river import drift

STAYED_S: Final = 30.0  # what "stayed" means, by the node's own clock
GAP_S: Final = 10.0  # errors further apart than this are not known to be of one stay
LONGEST_S: Final = 2.0  # that one error speaks for: a bunch weighs no more than the time that it covers
LEAST: Final = 15  # errors of a stay; at one a second half of them may be missing
MOST: Final = 300  # that are kept: ten a second
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
        self._kept: deque[tuple[float, float, float]] = deque(maxlen=MOST)  # (when, size, seconds) of the last STAYED_S
        self._begun_s: float | None = None  # of the stay: since then no gap
        self._newest_s: float | None = None
        self._changed_s: float | None = None  # when ADWIN found a rise
        self.drifted = False

    def observe(self, time_error_ratio: float, at_s: float) -> Found | None:
        """Takes one error (measured / predicted - 1); what is found for as long as it lasts, else None.

        `at_s`: the node's time of the record. One that was seen already changes nothing; a clock that was set back
        by more than a gap begins a new stay.
        """
        if not isfinite(time_error_ratio) or time_error_ratio <= -1.0:
            return None
        if self._newest_s is not None and self._newest_s - GAP_S <= at_s <= self._newest_s:
            return None
        size = min(LARGEST, abs(log(1.0 + time_error_ratio)))
        self._keep(size, at_s)
        before = self._adwin.estimation
        self._adwin.update(min(1.0, size / FULL))
        if self._changed_s is None and self._adwin.drift_detected and self._adwin.estimation > before:
            self._changed_s = at_s
        return self._judge(at_s)

    def _keep(self, size: float, at_s: float) -> None:
        if self._newest_s is None or abs(at_s - self._newest_s) > GAP_S:
            self._kept.clear()
            self._begun_s = at_s
            self._changed_s = None if self._changed_s is None else min(self._changed_s, at_s)
        step_s = 1.0 if self._newest_s is None else min(abs(at_s - self._newest_s), LONGEST_S)
        self._newest_s = at_s
        self._kept.append((at_s, size, step_s))
        while self._kept[0][0] <= at_s - STAYED_S:
            self._kept.popleft()

    def _judge(self, at_s: float) -> Found | None:
        stayed = self._begun_s is not None and at_s - self._begun_s >= STAYED_S - 1.0
        if not stayed or len(self._kept) < LEAST:
            return None
        mean = sum(size * step_s for _, size, step_s in self._kept) / sum(step_s for _, _, step_s in self._kept)
        risen = self._changed_s is not None and at_s - self._changed_s >= STAYED_S
        if risen and mean < RISEN and not self.drifted:
            self._changed_s = None  # learned anew: it was a change, and it is over
        bound = RISEN if risen or self.drifted else GROSS
        self.drifted = mean >= (CALM * RISEN if self.drifted else bound)
        return Found(mean, bound) if self.drifted else None
