"""The last two minutes of power per GPU and of token gaps per engine: what effects are measured on. Arithmetic only."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeVar

from streams.contract import histogram
from streams.contract.records import Histogram, NodeFeatures

KEEP_NS: Final = 120 * 10**9
MIN_GAPS: Final = 200  # a p99 of fewer token gaps says nothing
FEATURE: Final = "power_w_last"
T = TypeVar("T")


@dataclass(slots=True)
class NodeWindow:
    """One node's recent samples by their own time, in nanoseconds."""

    newest_ns: int = 0
    power: dict[str, deque[tuple[int, float]]] = field(default_factory=dict)
    gaps: dict[str, deque[tuple[int, Histogram]]] = field(default_factory=dict)
    engine_of: dict[str, str] = field(default_factory=dict)

    def add(self, record: NodeFeatures) -> None:
        """Takes one window end in; an older or repeated one is left out."""
        now = record.window_end_ns
        if now <= self.newest_ns:
            return
        self.newest_ns = now
        for uuid, watts in zip(record.uuid, record.features.get(FEATURE, ()), strict=False):
            if watts is not None:
                _push(self.power.setdefault(uuid, deque()), now, watts)
        for engine in record.engines:
            self.engine_of.update(dict.fromkeys(engine.gpu_uuid, engine.engine))
            if engine.tbt is not None and engine.tbt.index:
                _push(self.gaps.setdefault(engine.engine, deque()), now, engine.tbt)

    def mean_w(self, uuid: str, start_ns: int, end_ns: int) -> float | None:
        """Mean power of start < t <= end, None without a sample."""
        values = [w for t, w in self.power.get(uuid, ()) if start_ns < t <= end_ns]
        return sum(values) / len(values) if values else None

    def tbt_p99_ms(self, uuid: str, start_ns: int, end_ns: int) -> float | None:
        """p99 of the gaps between tokens of the GPU's engine in start < t <= end, None below MIN_GAPS samples."""
        found = [
            h for t, h in self.gaps.get(self.engine_of.get(uuid, ""), ()) if start_ns < t <= end_ns and h.scale == 5
        ]
        counts = histogram.pool(found)
        return histogram.quantile(counts, 0.99) if sum(counts.values()) >= MIN_GAPS else None


def _push(ring: deque[tuple[int, T]], now: int, value: T) -> None:
    ring.append((now, value))
    while ring[0][0] <= now - KEEP_NS:
        ring.popleft()
