"""Vectorised robust z-scores: each GPU against the median and MAD of its own recent past, for all metrics at once.

Silent until enough of the past is known. The newest value is scored before it joins the past. Nothing here knows a
clock: one call is one evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.anomaly.metrics import Metric

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
MAD_TO_SIGMA: Final = 1.4826  # of a normal distribution
GROW: Final = 256


class RobustZ:
    """State over all GPUs of a partition: rings of past values and bit histories of exceedances."""

    def __init__(
        self,
        metrics: Sequence[Metric],
        *,
        window: int = 64,
        warmup: int = 24,
        threshold: float = 8.0,
        k: int = 4,
        n: int = 5,
    ) -> None:
        """`window`, `warmup`, k and n count evaluations; the threshold is in robust standard deviations."""
        self.metrics, self.window, self.warmup = tuple(metrics), window, warmup
        self.threshold, self.k, self.n = threshold, k, n
        self._floor = np.array([m.scale_floor for m in metrics])
        self._both = np.array([m.both for m in metrics])
        self._ring: Floats = np.full((0, len(metrics), window), np.nan)
        self._base: Floats = np.full((0, len(metrics), 2), np.nan)  # median and scale from before a restart
        self._count: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._hits: NDArray[np.int64] = np.zeros((0, len(metrics)), dtype=np.int64)

    def reserve(self, rows: int) -> None:
        """Room for GPUs numbered below `rows`."""
        missing = rows - len(self._count)
        if missing <= 0:
            return
        more = max(missing, GROW)
        shape = (more, len(self.metrics))
        self._ring = np.concatenate([self._ring, np.full((*shape, self.window), np.nan)])
        self._base = np.concatenate([self._base, np.full((*shape, 2), np.nan)])
        self._count = np.concatenate([self._count, np.zeros(more, dtype=np.int64)])
        self._hits = np.concatenate([self._hits, np.zeros(shape, dtype=np.int64)])

    def update(self, rows: Rows, values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Scores `values` (len(rows), metrics), NaN = unknown, and takes them into the past.

        Returns:
            z (NaN while silent) and whether k of the last n evaluations lay above the threshold. Each GPU may be named
            once per call.
        """
        centre, scale = self._centre_and_scale(rows)
        z = (values - centre) / scale
        over = np.where(self._both, np.abs(z), z) > self.threshold
        hits = (self._hits[rows] << 1 | over) & ((1 << self.n) - 1)
        self._hits[rows] = hits
        self._ring[rows, :, self._count[rows] % self.window] = values
        self._count[rows] += 1
        return z, over & (np.bitwise_count(hits) >= self.k)

    def _centre_and_scale(self, rows: Rows) -> tuple[Floats, Floats]:
        past = self._ring[rows]
        known = np.isfinite(past).sum(axis=2)
        centre = _median(past, known)
        scale = _median(np.abs(past - centre[:, :, None]), known) * MAD_TO_SIGMA
        enough = known >= self.warmup
        base = self._base[rows]
        centre = np.where(enough, centre, base[:, :, 0])
        scale = np.where(enough, scale, base[:, :, 1])
        return centre, np.maximum(scale, self._floor)

    def baseline(self, rows: Rows) -> Floats:
        """Median and scale per GPU and metric, NaN where silent: what a restart needs to judge at once."""
        centre, scale = self._centre_and_scale(rows)
        out: Floats = np.stack([centre, np.where(np.isfinite(centre), scale, np.nan)], axis=2)
        return out

    def restore(self, rows: Rows, baseline: Floats) -> None:
        """Takes a baseline back; the GPUs' own new values replace it once the warm-up is over."""
        self._base[rows] = baseline

    def forget(self, rows: Rows) -> None:
        """A new GPU takes an old number over."""
        self._ring[rows], self._base[rows], self._count[rows], self._hits[rows] = np.nan, np.nan, 0, 0


def _median(values: Floats, known: NDArray[np.int64]) -> Floats:
    """Median over the last axis without NaN (sorted last); NaN where nothing is known. Faster than np.nanmedian."""
    ordered = np.sort(values, axis=2)
    low = np.maximum((known - 1) // 2, 0)[:, :, None]
    high = np.minimum(known // 2, values.shape[2] - 1)[:, :, None]
    both: Floats = np.take_along_axis(ordered, low, 2) + np.take_along_axis(ordered, high, 2)
    return both[:, :, 0] / 2.0
