"""Arithmetic on the contract's sparse exponential histograms: build, pool, quantile. Plain Python, for the node too."""

from __future__ import annotations

import math
from collections.abc import Iterable

from streams.contract.records import Histogram


def bucket(value_ms: float, scale: int = 5) -> int:
    """Index of the bucket that holds a positive value: 2**(index / 2**scale) < value <= 2**((index + 1) / 2**scale)."""
    return math.ceil(math.log2(value_ms) * (1 << scale)) - 1


def pool(histograms: Iterable[Histogram | None]) -> dict[int, int]:
    """Counts by bucket over histograms of one scale; raises ValueError when scales differ."""
    counts: dict[int, int] = {}
    scale: int | None = None
    for histogram in histograms:
        if histogram is None:
            continue
        scale = histogram.scale if scale is None else scale
        if histogram.scale != scale:
            raise ValueError(f"histograms of scale {scale} and {histogram.scale} cannot be pooled; re-bucket one")
        for index, count in zip(histogram.index, histogram.count, strict=True):
            counts[index] = counts.get(index, 0) + count
    return counts


def quantile(counts: dict[int, int], q: float, scale: int = 5) -> float | None:
    """The value below which a share q lies, interpolated inside its bucket; None for an empty histogram."""
    total = sum(counts.values())
    if total == 0:
        return None
    rank, seen = q * total, 0
    filled = sorted(index for index, count in counts.items() if count > 0)
    for index in filled:
        seen += counts[index]
        if seen >= rank:
            return _value(index + 1.0 - (seen - rank) / counts[index], scale)
    return _value(filled[-1] + 1.0, scale)


def _value(position: float, scale: int) -> float:
    # A record may carry any index; beyond a double's exponent the answer is the largest one, not an OverflowError.
    return float(2.0 ** min(position / (1 << scale), 1023.0))
