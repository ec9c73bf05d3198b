"""From telemetry to what the local controller reads: state of an engine, throttle bits, what was observed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agents.node.misses import above, total
from models.control.types import EngineState, Observed, Targets
from streams.contract.histogram import pool, quantile
from streams.contract.records import EngineReading, Histogram, NodeTelemetry

MOST_MS: Final = 1e9  # a bound beyond eleven days is none


class Columns:
    """The GPU columns of one telemetry record, looked up by UUID once."""

    def __init__(self, telemetry: NodeTelemetry) -> None:
        self._gpu, self.ts_ns = telemetry.gpu, telemetry.ts_ns
        uuids = () if self._gpu is None else self._gpu.uuid
        self._row = {uuid: row for row, uuid in enumerate(uuids)}

    def rows(self, uuids: Sequence[str]) -> tuple[int, ...]:
        """Positions of the GPUs that this node reports; others are left out."""
        return tuple(self._row[uuid] for uuid in uuids if uuid in self._row)

    def throttle(self, rows: Sequence[int]) -> int:
        """All clock event reasons that any of the GPUs shows; unknown counts as none."""
        column = None if self._gpu is None else self._gpu.throttle
        bits = 0
        for row in rows:
            bits |= 0 if column is None else column[row] or 0
        return bits

    def sm_max_mhz(self, rows: Sequence[int]) -> int | None:
        """The clock that all of the GPUs can reach."""
        return _least(None if self._gpu is None else self._gpu.sm_max_mhz, rows)

    def sm_mhz(self, rows: Sequence[int]) -> int | None:
        """The slowest clock: it sets the pace of an engine that spans several GPUs."""
        return _least(None if self._gpu is None else self._gpu.sm_mhz, rows)

    def limit_min_w(self, rows: Sequence[int]) -> float | None:
        """The lowest power limit that all of the GPUs take; None when none says."""
        column = None if self._gpu is None else self._gpu.limit_min_w
        return max((v for v in (column[row] for row in rows) if v is not None), default=None) if column else None

    def power_w(self, rows: Sequence[int]) -> float | None:
        """Mean watts of one GPU; None when any is unknown."""
        column = None if self._gpu is None else self._gpu.power_w
        values = [] if column is None else [column[row] for row in rows]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def energy_j(self, rows: Sequence[int]) -> float | None:
        """Energy counters of all of the GPUs, summed; None when any is unknown."""
        column = None if self._gpu is None else self._gpu.energy_mj
        values = [] if column is None else [column[row] for row in rows]
        known = [value for value in values if value is not None]
        return sum(known) / 1e3 if known and len(known) == len(values) else None


def _least(column: Sequence[int | None] | None, rows: Sequence[int]) -> int | None:
    values = [] if column is None else [column[row] for row in rows]
    known = [value for value in values if value is not None]
    return min(known) if known and len(known) == len(values) else None


def state_of(engine: EngineReading, age_s: float) -> EngineState:
    return EngineState(age_s, engine.running, engine.waiting, engine.waiting_tokens, engine.kv_tokens)


class Window:
    """What one engine showed between two of its readings; asked again about the same one, it repeats only the load."""

    def __init__(self) -> None:
        self._before: EngineReading | None = None
        self._rate: float | None = None

    def observe(self, engine: EngineReading, columns: Columns, rows: Sequence[int], targets: Targets) -> Observed:
        """What the controller learns from, once per reading of the engine."""
        if self._before is not None and engine.ts_ns == self._before.ts_ns:
            return Observed(None, None, None, self._rate)
        self._rate, self._before = _tokens_per_s(self._before, engine), engine
        tbt = engine.tbt
        count = 0 if tbt is None else sum(tbt.count)
        mean_ms, p99_ms = None, None
        if tbt is not None and count > 0:
            mean_ms, p99_ms = tbt.sum_ms / count, quantile(pool([tbt]), 0.99, tbt.scale)
        first, whole = _late(engine.ttft, targets.ttft_ms), _late(engine.e2e, targets.e2e_ms)
        return Observed(mean_ms, columns.sm_mhz(rows), columns.power_w(rows), self._rate, p99_ms, *first, *whole)


def _late(histogram: Histogram | None, bound_ms: float | None) -> tuple[float | None, float | None]:
    """Samples, and those of them above the bound; unknown without a histogram or a bound that can be."""
    if histogram is None or bound_ms is None or not 0.0 < bound_ms < MOST_MS:
        return None, None
    count = total(histogram)
    return count, min(count, above(histogram, bound_ms))


def _tokens_per_s(before: EngineReading | None, now: EngineReading) -> float | None:
    """Prefill rate between two readings; None when unknown or when the counter began again."""
    if before is None or before.prompt_tokens_total is None or now.prompt_tokens_total is None:
        return None
    seconds, tokens = (now.ts_ns - before.ts_ns) / 1e9, now.prompt_tokens_total - before.prompt_tokens_total
    return tokens / seconds if seconds > 0 and tokens >= 0 else None
