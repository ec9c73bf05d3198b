"""One group of engines from SQL rows to arrays for `eo whatif`: gaps closed or cut out, counters made rises.

DuckDB aggregates to slots; nothing of single samples comes into memory. It must not judge whether the series is good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.whatif.series import BUCKETS, KINDS, Array, Bools, Hits, Ints, Kind, Machine, Series

if TYPE_CHECKING:
    import duckdb

BLOCK_S: Final = 300.0  # where only parts of a range are used
LEAST_S: Final = 60.0
GAP_SLOTS: Final = 3  # fewer silent slots are jitter of the readings
COVERED: Final = 0.8  # share of the range in which an engine must have reported


@dataclass(frozen=True, slots=True)
class Group:
    """Engines of one stack, workload and number of GPUs."""

    stack: str
    workload: str
    gpus: int
    engines: tuple[str, ...]
    step_s: float


class Frame:
    """One group's arrays: every slot of the range first, then cut to what is covered and affordable."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        group: Group,
        *,
        engines: tuple[str, ...],
        held: frozenset[str],
        start_ns: int,
        end_ns: int,
    ) -> None:
        self._connection, self._group, self._held = connection, group, held
        self._engines = engines
        self._step_ns = int(group.step_s * 1e9)
        self._start_ns = start_ns
        self._count = (end_ns - start_ns) // self._step_ns + 1
        self._params: dict[str, Any] = {
            "start": start_ns,
            "end": end_ns,
            "engines": list(engines),
            "step": self._step_ns,
        }
        self._within = "ts_ns BETWEEN $start AND $end"
        self.notes: list[str] = []

    def series(self, *, most_slots: int) -> tuple[str, Series | None]:
        """The series, or why there is none."""
        readings, machine = self._readings(), self._machine()
        if isinstance(machine, str):
            return machine, None
        if not np.isfinite(readings["prompt"]).any():
            return "no engine counts its prompt tokens, so the load is unknown", None
        seen = np.isfinite(readings["running"]) | np.isfinite(readings["prompt"])
        kept_engines = self._covered(seen)
        slots = _affordable(_present(seen[kept_engines]), most_slots, round(BLOCK_S / self._group.step_s))
        if len(slots) * self._group.step_s < LEAST_S or not kept_engines.any():
            return f"only {len(slots) * self._group.step_s:.0f} s without a gap, {LEAST_S:.0f} s are needed", None
        self._only(slots)
        hits = {kind: self._hits(kind) for kind in KINDS}
        for kind in ("ttft", "tbt"):
            if len(hits[kind].slot) == 0:
                return f"no histogram of {kind}, so arrivals and latency are unknown", None
        if len(slots) < self._count:
            self.notes.append(
                f"{self._group.stack}: {len(slots) * self._group.step_s:.0f} s of "
                f"{self._count * self._group.step_s:.0f} s are used, in blocks (gaps cut out, --engine-seconds is the "
                "bound)"
            )
        gpus = self._gpus()
        return "", self._cut(readings, gpus, machine, hits, kept_engines, slots)

    def _only(self, slots: Ints) -> None:
        """From here on, rows of these slots are read and no others: days of a large cluster do not fit into memory."""
        cuts = np.flatnonzero(np.diff(slots) > 1) + 1
        spans = [(int(part[0]), int(part[-1])) for part in np.split(slots, cuts)]
        # One slot more in front: a counter's rise needs the reading before.
        begin = [self._start_ns + (first - 1) * self._step_ns for first, _ in spans]
        end = [self._start_ns + (last + 1) * self._step_ns for _, last in spans]
        inside = " OR ".join(f"ts_ns BETWEEN {low} AND {high - 1}" for low, high in zip(begin, end, strict=True))
        self._within = f"ts_ns BETWEEN $start AND $end AND ({inside})"

    def _covered(self, seen: Bools) -> Bools:
        anybody = seen.any(axis=0)
        share = _filled(seen[:, anybody]).mean(axis=1) if anybody.any() else np.zeros(len(seen))
        kept: Bools = share >= COVERED
        if not kept.all():
            self.notes.append(
                f"left out {int((~kept).sum())} engines of {self._group.stack}: silent for more than "
                f"{1 - COVERED:.0%} of the range"
            )
        return kept

    def _cut(
        self,
        readings: dict[str, Array],
        gpus: dict[str, Array],
        machine: Machine,
        hits: dict[Kind, Hits],
        engines: Bools,
        slots: Ints,
    ) -> Series:
        names = tuple(name for name, kept in zip(self._engines, engines, strict=True) if kept)
        pick = np.ix_(np.flatnonzero(engines), slots)
        limit = _forward(gpus["limit"])[pick]
        lock = _in_force(gpus, _forward(readings["running"]), machine)[pick]
        return Series(
            stack=self._group.stack,
            workload=self._group.workload,
            machine=machine,
            engines=names,
            holdout=np.array([name in self._held for name in names]),
            step_s=self._group.step_s,
            start_ns=self._start_ns + slots * self._step_ns,
            seam=np.diff(slots, prepend=-2) > 1,
            prompt=_rise(readings["prompt"])[pick],
            generated=_rise(readings["generated"])[pick],
            finished=_rise(readings["finished"])[pick],
            running=_forward(readings["running"])[pick],
            power_w=gpus["power"][pick],
            lock_mhz=lock,
            limit_w=np.where(np.isfinite(limit), limit, machine.limit_default_w),
            hits={kind: _chosen_hits(found, engines, slots, self._count) for kind, found in hits.items()},
            kv_limit_tokens=_kv_limit(readings),
        )

    def _grid(self, sql: str, columns: tuple[str, ...]) -> dict[str, Array]:
        rows = self._connection.execute(sql, self._used(sql)).fetchnumpy()
        place = {name: index for index, name in enumerate(self._engines)}
        engine = np.array([place[str(name)] for name in rows["engine"]], dtype=np.int64)
        slot = np.asarray(rows["slot"], dtype=np.int64)
        grids: dict[str, Array] = {}
        for column in columns:
            grids[column] = np.full((len(self._engines), self._count), np.nan)
            grids[column][engine, slot] = np.ma.filled(np.ma.asarray(rows[column], dtype=np.float64), np.nan)
        return grids

    def _used(self, sql: str) -> dict[str, Any]:
        return {name: value for name, value in self._params.items() if f"${name}" in sql}

    def _readings(self) -> dict[str, Array]:
        return self._grid(
            "SELECT engine, (ts_ns - $start) // $step AS slot, arg_max(running, ts_ns) AS running, "
            "arg_max(prompt_tokens_total, ts_ns) AS prompt, arg_max(generation_tokens_total, ts_ns) AS generated, "
            "arg_max(requests_total, ts_ns) AS finished, arg_max(kv_tokens, ts_ns) AS kv_tokens, "
            "arg_max(kv_use_ratio, ts_ns) AS kv_use FROM engine_reading "
            "WHERE ts_ns BETWEEN $start AND $end AND list_contains($engines, engine) GROUP BY ALL",
            ("running", "prompt", "generated", "finished", "kv_tokens", "kv_use"),
        )

    def _gpus(self) -> dict[str, Array]:
        """The energy counter where it goes on without a hole, else the reading of power."""
        return self._grid(
            "WITH once AS (SELECT DISTINCT ON (uuid, ts_ns) engine, uuid, ts_ns, power_w, energy_mj, sm_mhz, "
            "sm_lock_mhz, limit_w, throttle, util_ratio FROM telemetry_node "
            f"WHERE {self._within} AND list_contains($engines, engine)), "
            "stepped AS (SELECT *, energy_mj - lag(energy_mj) OVER turn AS rise_mj, "
            "ts_ns - lag(ts_ns) OVER turn AS span_ns FROM once WINDOW turn AS (PARTITION BY uuid ORDER BY ts_ns)) "
            "SELECT engine, (ts_ns - $start) // $step AS slot, "
            "avg(CASE WHEN rise_mj > 0 AND span_ns BETWEEN 1 AND 3 * $step::BIGINT THEN rise_mj * 1e6 / span_ns "
            "ELSE power_w END) AS power, min(sm_mhz) AS sm, min(sm_lock_mhz) AS lock, "
            "min(limit_w) AS limit, bit_or(throttle) AS throttle, max(util_ratio) AS util FROM stepped GROUP BY ALL",
            ("power", "sm", "lock", "limit", "throttle", "util"),
        )

    def _machine(self) -> Machine | str:
        from models.policy.devices import device

        row = self._connection.execute(
            "SELECT mode(name), min(sm_max_mhz), min(limit_default_w), max(limit_min_w), min(limit_max_w) "
            "FROM telemetry_node WHERE ts_ns BETWEEN $start AND $end AND list_contains($engines, engine)",
            self._used("$start $end $engines"),
        ).fetchone()
        name, *values = row or (None, None, None, None, None)
        keys = ("sm_max_mhz", "limit_default_w", "limit_min_w", "limit_max_w")
        known = device(name, dict(zip(keys, values, strict=True)))
        if known.sm_max_mhz is None or known.limit_default_w is None:
            return f"highest clock and default limit of {name or 'its GPUs'} are unknown"
        low = known.limit_min_w if known.limit_min_w is not None else 0.5 * known.limit_default_w
        high = known.limit_max_w if known.limit_max_w is not None else known.limit_default_w
        if known.limit_min_w is None:
            self.notes.append(f"the lowest power limit of {name} is unknown; {low:.0f} W, half the default, is taken")
        return Machine(
            str(name or "unknown"), self._group.gpus, float(known.sm_max_mhz), known.limit_default_w, low, high
        )

    def _hits(self, kind: Kind) -> Hits:
        sql = (
            "WITH once AS (SELECT DISTINCT ON (engine, ts_ns) engine, ts_ns, "
            f"{kind}_scale AS scale, {kind}_index AS places, {kind}_count AS counts FROM engine_reading "
            f"WHERE {self._within} AND list_contains($engines, engine)), "
            "flat AS (SELECT engine, (ts_ns - $start) // $step AS slot, scale, unnest(places) AS place, "
            "unnest(counts) AS hits FROM once) "
            "SELECT engine, slot, bucket_at_scale_5(place, scale) AS bucket, sum(hits)::BIGINT AS hits FROM flat "
            "WHERE hits > 0 GROUP BY ALL ORDER BY ALL"
        )
        rows = self._connection.execute(sql, self._used(sql)).fetchnumpy()
        place = {name: index for index, name in enumerate(self._engines)}
        return Hits(
            engine=np.array([place[str(name)] for name in rows["engine"]], dtype=np.int64),
            slot=np.asarray(rows["slot"], dtype=np.int64),
            bucket=np.clip(np.asarray(rows["bucket"], dtype=np.int64), 0, BUCKETS - 1),
            count=np.asarray(rows["hits"], dtype=np.int64),
        )


def _filled(seen: Bools) -> Bools:
    """With holes up to GAP_SLOTS closed: readings jitter around the slots' edges."""
    out = seen.copy()
    for shift in range(1, GAP_SLOTS + 1):
        out[..., shift:] |= seen[..., :-shift]
    return out


def _present(seen: Bools) -> Ints:
    """Slots in which at least half of the engines report, small holes closed."""
    if len(seen) == 0:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(_filled(seen).mean(axis=0) >= 0.5).astype(np.int64)


def _affordable(slots: Ints, most: int, block: int) -> Ints:
    """All slots, or evenly spread blocks of them."""
    if len(slots) <= most:
        return slots
    block = max(min(block, most // 6), 1)
    blocks = max(most // block, 1)
    starts = np.unique(np.linspace(0, len(slots) - block, blocks).astype(np.int64))
    return slots[np.unique((starts[:, None] + np.arange(block)[None, :]).ravel())]


def _forward(grid: Array) -> Array:
    """Unknown slots take the value before them (the first known one at the beginning)."""
    known = np.isfinite(grid)
    place = np.maximum.accumulate(np.where(known, np.arange(grid.shape[1]), -1), axis=1)
    first = np.argmax(known, axis=1)[:, None]
    return np.asarray(np.take_along_axis(grid, np.where(place < 0, first, place), axis=1), dtype=np.float64)


def _rise(counter: Array) -> Array:
    """What a counter rose by in each slot; 0 where it began again (its engine restarted) and in the first slot."""
    rise = np.diff(_forward(counter), axis=1, prepend=np.nan)
    return np.where(rise >= 0, rise, 0.0)


def _in_force(gpus: dict[str, Array], running: Array, machine: Machine) -> Array:
    """Upper clock that held: our lock, or the clock of a busy engine that nothing else explains (a foreign lock)."""
    throttle = np.nan_to_num(gpus["throttle"]).astype(np.int64)
    busy = (np.nan_to_num(running) > 0) & (np.nan_to_num(gpus["util"], nan=1.0) > 0.5)
    foreign = busy & (throttle & ~0x3 == 0) & (gpus["sm"] < 0.98 * machine.sm_max_mhz)
    lock = np.where(np.isfinite(gpus["lock"]), gpus["lock"], np.where(foreign, gpus["sm"], np.nan))
    reported = np.isfinite(gpus["sm"])
    return np.nan_to_num(_forward(np.where(reported & ~np.isfinite(lock), 0.0, lock)))


def _kv_limit(readings: dict[str, Array]) -> float:
    used = readings["kv_use"] > 0.01
    return float(np.median(readings["kv_tokens"][used] / readings["kv_use"][used])) if used.any() else float("nan")


def _chosen_hits(hits: Hits, engines: Bools, slots: Ints, count: int) -> Hits:
    row = np.where(engines, np.cumsum(engines) - 1, -1)
    place = np.full(count, -1, dtype=np.int64)
    place[slots] = np.arange(len(slots))
    keep = (row[hits.engine] >= 0) & (place[hits.slot] >= 0)
    return Hits(row[hits.engine[keep]], place[hits.slot[keep]], hits.bucket[keep], hits.count[keep])
