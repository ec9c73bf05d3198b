"""Cumulative Prometheus histograms into the contract's delta records. Plain Python, no numpy.

An engine counts requests in some fixed, wide buckets since its start; the contract has narrow exponential buckets and
counts since the record before. What lies inside a wide bucket is unknown, so a rule places it:

- the bucket that holds the interval's 99th percentile, and all above, count at their upper edge: p99 is never told too
  low, and too high by no more than that bucket's width (at 2.2 % wide target buckets, rounding adds up to 1.1 %);
- below it, counts are spread evenly over the bucket, in up to eight places: a quantile there is wrong by less than the
  bucket's width, in either direction;
- above the last finite edge there is no upper edge: counts go to the mean that the sum leaves for them, at least that
  edge; `sum_ms` is the engine's own, so that means stay exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streams.contract.records import Histogram

SCALE: Final = 5
PLACES: Final = 8  # of one source bucket: an eighth of its width, and few entries in the record
MOST_BUCKETS: Final = 512  # more is no engine's histogram
MOST_COUNT: Final = 2**53
TAIL: Final = 0.99
OVERFLOW: Final = 2.0  # times the last finite edge, where the sum tells nothing
FIRST_FLOOR: Final = 1 / 16  # of its upper edge: where the first bucket, which begins at zero, is taken to begin
LEAST_MS: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Cumulative:
    """One histogram as an engine gives it, in milliseconds: counts per bucket (not added up), the last one open."""

    edge_ms: tuple[float, ...]  # finite upper edges, rising
    count: tuple[int, ...]  # one more than edges: what lies above the last edge
    sum_ms: float | None = None

    @property
    def total(self) -> int:
        return sum(self.count)

    def empty(self) -> Cumulative:
        """The same buckets at the engine's start."""
        return Cumulative(self.edge_ms, (0,) * len(self.count), None if self.sum_ms is None else 0.0)


def cumulative(
    buckets: Mapping[float, float], *, count: float | None, total: float | None, factor: float
) -> Cumulative | None:
    """From `le` -> cumulative count; None when it is no histogram: no finite edge, counts that fall, or absurd ones.

    Args:
        buckets: upper edge -> count up to it; +Inf may be missing when `count` is there.
        count: the `_count` series.
        total: the `_sum` series.
        factor: milliseconds per unit of the edges and of the sum.
    """
    edges = sorted(edge for edge in buckets if math.isfinite(edge) and edge > 0)
    if not edges or len(edges) > MOST_BUCKETS:
        return None
    known = [buckets[edge] for edge in edges]
    last = buckets.get(math.inf, count if count is not None else known[-1])
    counts, before = [], max(0.0, *(buckets[e] for e in buckets if e <= 0)) if any(e <= 0 for e in buckets) else 0.0
    for n, value in enumerate([*known, max(last, known[-1])]):
        if not math.isfinite(value) or value < before or value > MOST_COUNT:
            return None
        counts.append(round(value) - round(before) if n else round(value))
        before = value
    sum_ms = total * factor if total is not None and math.isfinite(total) and total >= 0 else None
    return Cumulative(tuple(edge * factor for edge in edges), tuple(counts), sum_ms)


def delta(before: Cumulative | None, now: Cumulative | None) -> Histogram | None:
    """What happened between two readings.

    None for the first reading, which counts since the engine's start, and where the histogram is unknown. After a
    reset (a count that fell, other buckets) the new counts are what happened since.
    """
    if now is None or before is None:
        return None
    fresh = before.edge_ms != now.edge_ms or any(n < b for n, b in zip(now.count, before.count, strict=False))
    fresh = fresh or (now.sum_ms is not None and before.sum_ms is not None and now.sum_ms < before.sum_ms)
    base = (0,) * len(now.count) if fresh else before.count
    counts = [n - b for n, b in zip(now.count, base, strict=True)]
    base_ms = 0.0 if fresh else before.sum_ms
    sum_ms = None if now.sum_ms is None or base_ms is None else now.sum_ms - base_ms
    return _placed(now.edge_ms, counts, sum_ms)


def _placed(edge_ms: tuple[float, ...], counts: list[int], sum_ms: float | None) -> Histogram:
    total = sum(counts)
    if total == 0:
        return Histogram()
    placed: dict[int, int] = {}
    seen, tail_from = 0, math.ceil(TAIL * total)
    mass_ms = 0.0
    for n, count in enumerate(counts[:-1]):
        if count == 0:
            continue
        seen += count
        high = edge_ms[n]
        low = edge_ms[n - 1] if n else high * FIRST_FLOOR
        mass_ms += count * low
        if seen >= tail_from:
            _add(placed, high, count)
        else:
            _spread(placed, low, high, count)
    if over := counts[-1]:
        left_ms = OVERFLOW * edge_ms[-1] if sum_ms is None else (sum_ms - mass_ms) / over
        _add(placed, max(edge_ms[-1] * 1.03, left_ms), over)
    index = sorted(placed)
    middle_ms = sum_ms if sum_ms is not None else sum(placed[i] * 2 ** ((i + 0.5) / 32) for i in index)
    return Histogram(scale=SCALE, index=tuple(index), count=tuple(placed[i] for i in index), sum_ms=round(middle_ms, 3))


def _spread(placed: dict[int, int], low: float, high: float, count: int) -> None:
    places = min(count, PLACES)
    each, rest = divmod(count, places)
    for k in range(places):
        # The remainder goes to the upper places: rather too slow than too fast.
        _add(placed, low + (high - low) * (k + 0.5) / places, each + (k >= places - rest))


def _add(placed: dict[int, int], value_ms: float, count: int) -> None:
    """Into the bucket whose upper edge is nearest: a quantile at an engine's edge must not read 2 % above it."""
    index = round(math.log2(max(value_ms, LEAST_MS)) * (1 << SCALE)) - 1
    placed[index] = placed.get(index, 0) + count
