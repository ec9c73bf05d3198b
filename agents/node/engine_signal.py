"""From telemetry to what the local controller reads: state of an engine, throttle bits, what was observed. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from agents.node.misses import above, total
from models.control.types import EngineState, Observed, Targets
from models.control.types import Window as Span
from streams.contract.histogram import pool, quantile
from streams.contract.records import EngineReading, Histogram, NodeTelemetry

MOST_MS: Final = 1e9  # a bound beyond eleven days is none
USUAL: Final = 31  # windows from which is known what they usually are apart
KNOWN: Final = 8  # of them at least
NEAR: Final = (0.8, 1.25)
SLOW_GAP: Final = 1.03  # of the target: full chunks lie just below it, and a bucket of a histogram is 2.2 % wide


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

    def limit_w(self, rows: Sequence[int]) -> float | None:
        """The tightest power limit in force: that board sets the pace of the engine; None when none says."""
        column = None if self._gpu is None else self._gpu.limit_w
        return min((v for v in (column[row] for row in rows) if v is not None), default=None) if column else None

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


class Pace:
    """Whether an engine's readings carry the right time: its own tokens are a second clock.

    So many tokens, so long apart, by so many sequences at once take so many seconds. Engines that count gaps per step
    or per request are off by a factor that stays: what they usually are off by is no news.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=USUAL)  # seconds by the engine, by the stamps

    def engine_s(self, before: EngineReading, now: EngineReading, mean_ms: float, stamped_s: float) -> float | None:
        """How long the window was by the engine's own clock; None where it does not say."""
        made = _delta(before.generation_tokens_total, now.generation_tokens_total)
        running = (before.running or 0, now.running or 0)
        if not made or not min(running) > 0 or not mean_ms > 0.0:
            return None
        found = made * mean_ms / 1e3 / (sum(running) / 2.0)
        usual = self._usual()
        self._recent.append((found, stamped_s))
        return found / usual

    def _usual(self) -> float:
        """Sums, because what one stamp is late the next window is short of. Near one it is the load, no other unit."""
        own_s, stamped_s = sum(own for own, _ in self._recent), sum(stamped for _, stamped in self._recent)
        if len(self._recent) < KNOWN or not stamped_s > 0.0 or NEAR[0] < own_s / stamped_s < NEAR[1]:
            return 1.0
        return own_s / stamped_s


class Window:
    """What one engine showed between two of its readings; asked again about the same one, it repeats only the load."""

    def __init__(self) -> None:
        self._before: EngineReading | None = None
        self._rate: float | None = None
        self._pace = Pace()

    def observe(self, engine: EngineReading, columns: Columns, rows: Sequence[int], targets: Targets) -> Observed:
        """What the controller learns from, once per reading of the engine."""
        if self._before is not None and engine.ts_ns == self._before.ts_ns:
            return Observed(None, None, None, self._rate, limit_w=columns.limit_w(rows))
        before, self._before = self._before, engine
        tbt = engine.tbt
        count = 0 if tbt is None else sum(tbt.count)
        mean_ms, p99_ms = None, None
        if tbt is not None and count > 0:
            mean_ms, p99_ms = tbt.sum_ms / count, quantile(pool([tbt]), 0.99, tbt.scale)
        span = None if before is None or mean_ms is None else self._span(before, engine, mean_ms)
        self._rate = _tokens_per_s(before, engine)
        first, whole = _late(engine.ttft, targets.ttft_ms), _late(engine.e2e, targets.e2e_ms)
        gaps = _late(tbt, None if targets.tbt_ms is None else SLOW_GAP * targets.tbt_ms)
        power_w, mhz, limit_w = columns.power_w(rows), columns.sm_mhz(rows), columns.limit_w(rows)
        return Observed(mean_ms, mhz, power_w, self._rate, p99_ms, *first, *whole, *gaps, window=span, limit_w=limit_w)

    def _span(self, before: EngineReading, now: EngineReading, mean_ms: float) -> Span | None:
        passed_s, tokens = (now.ts_ns - before.ts_ns) / 1e9, _delta(before.prompt_tokens_total, now.prompt_tokens_total)
        own_s = self._pace.engine_s(before, now, mean_ms, passed_s)
        stamped_s = passed_s if passed_s > 0.0 else None
        known = tokens is not None and (stamped_s is not None or own_s is not None)
        return Span(float(tokens or 0), stamped_s, own_s) if known else None


def _late(histogram: Histogram | None, bound_ms: float | None) -> tuple[float | None, float | None]:
    """Samples, and those of them above the bound; unknown without a histogram or a bound that can be."""
    if histogram is None or bound_ms is None or not 0.0 < bound_ms < MOST_MS:
        return None, None
    count = total(histogram)
    return count, min(count, above(histogram, bound_ms))


def _tokens_per_s(before: EngineReading | None, now: EngineReading) -> float | None:
    """Prefill rate between two readings; None when unknown or when the counter began again."""
    if before is None or (tokens := _delta(before.prompt_tokens_total, now.prompt_tokens_total)) is None:
        return None
    seconds = (now.ts_ns - before.ts_ns) / 1e9
    return tokens / seconds if seconds > 0 else None


def _delta(before: int | None, now: int | None) -> int | None:
    """What a counter has counted; None when unknown or when it began again."""
    return None if before is None or now is None or now < before else now - before
