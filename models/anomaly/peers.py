"""Each GPU beside its peers: the GPUs of the same serving engine, which run in step. Vectorised over a whole batch."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST_PEERS: Final = 3  # a median of fewer GPUs is one of them


class Peers:
    """Groups of rows; group -1 means no engine, and such rows have no peers."""

    def __init__(self, group: NDArray[np.int64]) -> None:
        self._rows = len(group)
        order = np.argsort(group, kind="stable")
        order = order[group[order] >= 0]
        numbers, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
        widest = int(sizes.max(initial=0))
        place = starts[:, None] + np.arange(widest)
        self._inside = np.arange(widest) < sizes[:, None]
        self._members = order[np.minimum(place, max(len(order) - 1, 0))] if len(order) else place
        self._groups = len(numbers)

    def median(self, values: Floats) -> Floats:
        """Per row and column (rows, columns) the median of its group; NaN without LEAST_PEERS known values."""
        out = np.full(values.shape, np.nan)
        if not self._groups:
            return out
        picked = np.where(self._inside[:, :, None], values[self._members], np.nan)
        ordered = np.sort(picked, axis=1)
        known = np.isfinite(picked).sum(axis=1)
        low, high = np.maximum((known - 1) // 2, 0)[:, None], np.minimum(known // 2, picked.shape[1] - 1)[:, None]
        middle = (np.take_along_axis(ordered, low, 1) + np.take_along_axis(ordered, high, 1))[:, 0] / 2.0
        middle = np.where(known >= LEAST_PEERS, middle, np.nan)
        spread = np.broadcast_to(middle[:, None, :], picked.shape)
        out[self._members[self._inside]] = spread[self._inside]
        return out
