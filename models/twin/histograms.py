"""Dense exponential histograms of all replicas, read out sparse: base 2, scale 5, milliseconds (2.2 % wide buckets)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PER_OCTAVE = 32  # scale 5
_BUCKETS = 24 * _PER_OCTAVE  # 1 ms to 4.6 hours


@dataclass(frozen=True, slots=True)
class SparseHist:
    """Counts of bucket i: 2**(i / 32) < milliseconds <= 2**((i + 1) / 32)."""

    index: tuple[int, ...]
    count: tuple[int, ...]
    sum_ms: float


class Histograms:
    """One histogram per replica."""

    def __init__(self, replicas: int) -> None:
        self._count = np.zeros((replicas, _BUCKETS), dtype=np.int64)
        self._sum_ms = np.zeros(replicas)

    def add(self, rows: NDArray[np.intp], value_s: NDArray[np.float64], weight: NDArray[np.float64] | float) -> None:
        """Counts value_s of each row `weight` times; a row may appear only once in a call."""
        value_ms = value_s * 1e3
        bucket = np.ceil(np.log2(value_ms) * _PER_OCTAVE).astype(np.int64) - 1
        bucket = np.minimum(np.maximum(bucket, 0), _BUCKETS - 1)
        self._count[rows, bucket] += np.asarray(weight, dtype=np.int64)
        self._sum_ms[rows] += value_ms * weight

    def take(self, row: int) -> SparseHist:
        """What a replica counted since it was last taken."""
        counts = self._count[row]
        index = np.flatnonzero(counts)
        taken = SparseHist(tuple(index.tolist()), tuple(counts[index].tolist()), float(self._sum_ms[row]))
        counts[index] = 0
        self._sum_ms[row] = 0.0
        return taken
