"""Reads from an archive what `eo whatif` replays: one series per serving stack, bounded in engines and in time.

Nothing is judged or simulated here. What is left out (broken files, engines with holes, time beyond the budget) is
noted; an archive that cannot be replayed at all is refused in one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agents.cli.base import FAILED, REFUSED, EoError
from models.whatif.series import BUCKETS, KINDS, Array, Bools, Hits, Ints, Kind, Machine, Series

if TYPE_CHECKING:
    import duckdb

MOST_ENGINES: Final = 40
FEWER_ENGINES: Final = 24  # for a range that does not fit the bound: more time instead
BLOCK_S: Final = 300.0
LEAST_S: Final = 60.0
GAP_SLOTS: Final = 3  # fewer silent slots are jitter of the readings
COVERED: Final = 0.8
MEMORY: Final = "2GB"
_QUALITIES: Final = ("measured", "estimated", "simulated")


@dataclass(slots=True)
class Material:
    """What was read: the series, and what the reader must be told about them."""

    cluster: str
    start_ns: int
    end_ns: int
    series: list[Series] = field(default_factory=list)
    flagged: list[bool] = field(default_factory=list)  # of each series: its hold-out stands in the archive
    weights: list[float] = field(default_factory=list)  # of each series: engines there are for each that is used
    others_w: float = 0.0  # default limits of GPUs without a replayed engine: their ceilings
    nodes: int = 0
    strategies: tuple[str, ...] = ()  # those that really ran
    quality: dict[str, float] = field(default_factory=dict)  # share of GPU rows
    engines_total: int = 0
    seconds_total: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Group:
    stack: str
    workload: str
    gpus: int
    engines: tuple[str, ...]
    step_s: float


def read(archive: Path, *, start_ns: int | None, end_ns: int | None, engine_seconds: float) -> Material:
    """The material of a range; raises EoError when nothing in it can be replayed."""
    import duckdb

    from streams.sinks.archive_reader import open_reader

    if not archive.is_dir():
        raise EoError(f"{archive} is no folder; name the archive of a data folder, e.g. data/archive", REFUSED)
    bad: set[Path] = set()
    for _ in range(2):
        opened = open_reader(
            archive, leave_out=bad, only=["telemetry_node", "engine_reading", "power_desired"], memory=MEMORY
        )
        with opened.connection as connection:
            if not opened.files:
                broken = f": {len(opened.left_out)} files are broken" if opened.left_out else ""
                raise EoError(f"{archive} holds no readable rows{broken}; `eo demo` fills an archive to try", REFUSED)
            try:
                return _read(connection, archive, start_ns, end_ns, engine_seconds, [*opened.left_out])
            except (duckdb.IOException, duckdb.InvalidInputException, duckdb.SerializationException) as error:
                bad |= _broken(archive) - bad
                if not bad:
                    raise EoError(f"{archive} cannot be read ({_line(error)}); `eo sql` names the file") from error
            except duckdb.OutOfMemoryException as error:
                raise EoError(
                    f"the range needs more than {MEMORY} of memory; give a shorter one with --from and --to", FAILED
                ) from error
    raise EoError(f"{archive} cannot be read even without {len(bad)} broken files; move them away", FAILED)


def _read(
    connection: duckdb.DuckDBPyConnection,
    archive: Path,
    start_ns: int | None,
    end_ns: int | None,
    engine_seconds: float,
    left_out: list[tuple[Path, str]],
) -> Material:
    start, end = _range(connection, archive, start_ns, end_ns)
    material = Material(cluster=_cluster(connection), start_ns=start, end_ns=end)
    material.notes += [f"left out {path}: {reason}" for path, reason in left_out]
    where = {"start": start, "end": end}
    rows = connection.execute(
        "SELECT quality, count(*) FROM telemetry_node WHERE ts_ns BETWEEN $start AND $end GROUP BY 1", where
    ).fetchall()
    total = sum(count for _, count in rows)
    if not total:
        raise EoError(
            f"the archive has engines but no GPU rows from {at(start)} to {at(end)}; nothing has watts", REFUSED
        )
    counted = {str(name): count for name, count in rows}
    material.quality = {name: counted.get(name, 0) / total for name in _QUALITIES}
    ran = connection.execute(
        "SELECT DISTINCT strategy FROM power_desired WHERE ts_ns BETWEEN $start AND $end "
        "AND mode IN ('canary', 'on') AND strategy IS NOT NULL ORDER BY 1",
        where,
    ).fetchall()
    material.strategies = tuple(str(name) for (name,) in ran)
    groups = _groups(connection, where)
    material.engines_total = sum(len(group.engines) for group in groups)
    material.seconds_total = (end - start) / 1e9
    share = engine_seconds / max(material.engines_total, 1)
    for group in groups:
        _add(connection, material, group, seconds=share * len(group.engines))
    material.others_w, material.nodes = _others(connection, material, where)
    if not material.series:
        raise EoError(
            f"no engine from {at(start)} to {at(end)} can be replayed: {'; '.join(material.notes) or 'no rows'}",
            REFUSED,
        )
    return material


def _others(connection: duckdb.DuckDBPyConnection, material: Material, where: dict[str, int]) -> tuple[float, int]:
    """Ceilings of the GPUs that no replayed stack holds, and the number of nodes."""
    stacks = [series.stack for series in material.series]
    row = connection.execute(
        "SELECT coalesce(sum(limit_w) FILTER (NOT held), 0), count(*) FILTER (limit_w IS NULL AND NOT held), "
        "count(DISTINCT node) FROM (SELECT uuid, any_value(node) AS node, max(limit_default_w) AS limit_w, "
        "coalesce(bool_or(list_contains($stacks, stack)), false) AS held FROM telemetry_node "
        "WHERE ts_ns BETWEEN $start AND $end GROUP BY uuid)",
        {**where, "stacks": stacks},
    ).fetchone()
    watts, unknown, nodes = row or (0.0, 0, 0)
    if unknown:
        material.notes.append(f"the default limit of {unknown} GPUs without a replayed engine is unknown: not budgeted")
    return float(watts), int(nodes)


def _range(
    connection: duckdb.DuckDBPyConnection, archive: Path, start_ns: int | None, end_ns: int | None
) -> tuple[int, int]:
    row = connection.execute("SELECT min(ts_ns), max(ts_ns) FROM engine_reading").fetchone()
    if row is None or row[0] is None:
        raise EoError(
            f"{archive} has no rows of a serving engine, so neither load nor latency is known; "
            "give the agents an engine (docs/user-guide.md) and record at least a minute",
            REFUSED,
        )
    first, last = int(row[0]), int(row[1])
    start, end = max(first, start_ns or first), min(last, end_ns or last)
    if (end - start) / 1e9 < LEAST_S:
        raise EoError(
            f"the range holds {max(end - start, 0) / 1e9:.0f} s of engine rows, {LEAST_S:.0f} s are needed; "
            f"the archive goes from {at(first)} to {at(last)}",
            REFUSED,
        )
    return start, end


def at(ns: int) -> str:
    """A moment as users write it."""
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cluster(connection: duckdb.DuckDBPyConnection) -> str:
    row = connection.execute("SELECT any_value(cluster) FROM engine_reading").fetchone()
    return str(row[0]) if row is not None and row[0] is not None else "default"


def _groups(connection: duckdb.DuckDBPyConnection, where: dict[str, Any]) -> list[_Group]:
    """Engines by stack, workload and GPUs, each engine as it was in the range."""
    rows = connection.execute(
        "SELECT engine, arg_max(stack, ts_ns), arg_max(workload, ts_ns), max(len(gpu_uuid)), "
        "(max(ts_ns) - min(ts_ns)) / 1e9 / nullif(count(DISTINCT ts_ns) - 1, 0) "
        "FROM engine_reading WHERE ts_ns BETWEEN $start AND $end AND engine IS NOT NULL GROUP BY 1 ORDER BY 1",
        where,
    ).fetchall()
    found: dict[tuple[str, str, int], list[tuple[str, float]]] = {}
    for engine, stack, workload, gpus, gap in rows:
        if gap is not None and gpus:
            found.setdefault((str(stack), str(workload), int(gpus)), []).append((str(engine), float(gap)))
    return [
        _Group(*key, tuple(name for name, _ in members), max(1.0, round(float(np.median([gap for _, gap in members])))))
        for key, members in sorted(found.items())
    ]


def _add(connection: duckdb.DuckDBPyConnection, material: Material, group: _Group, *, seconds: float) -> None:
    """Reads one group into the material, or notes why not."""
    held, flagged = _holdout(connection, material, group)
    crowd = len(group.engines) * material.seconds_total > seconds
    engines = _chosen(group.engines, held, material.cluster, FEWER_ENGINES if crowd else MOST_ENGINES)
    frame = _Frame(connection, material, group, engines, held)
    why, series = frame.series(most_slots=max(int(seconds / len(engines) / group.step_s), 60))
    if series is None:
        material.notes.append(f"left out {len(group.engines)} engines of {group.stack}: {why}")
        return
    material.series.append(series)
    material.weights.append(len(group.engines) / len(series.engines))
    material.flagged.append(flagged)
    material.notes += frame.notes


def _holdout(connection: duckdb.DuckDBPyConnection, material: Material, group: _Group) -> tuple[frozenset[str], bool]:
    """Engines that stay at default: as the archive's envelopes say, else by the hash that the product would use."""
    from models.policy.holdout import promote

    rows = connection.execute(
        "SELECT engine, bool_or(holdout) FROM power_desired "
        "WHERE ts_ns BETWEEN $start AND $end AND list_contains($engines, engine) GROUP BY 1",
        {"start": material.start_ns, "end": material.end_ns, "engines": list(group.engines)},
    ).fetchall()
    held = frozenset(str(engine) for engine, flag in rows if flag)
    if rows and 0 < len(held) < len(group.engines):
        return held, True
    if len(group.engines) < 4:
        return frozenset(), False  # too few to spare one: the twin at default is the reference
    return promote(dict.fromkeys(group.engines, group.gpus), material.cluster, ratio=0.15, promoted=frozenset()), False


def _chosen(engines: tuple[str, ...], held: frozenset[str], cluster: str, most: int) -> tuple[str, ...]:
    """At most `most`, the hold-out in proportion; by hash, so that every run takes the same."""
    from models.policy.holdout import share_of

    if len(engines) <= most:
        return engines
    order = sorted(engines, key=lambda name: share_of(cluster, name, "whatif"))
    kept = round(most * len(held) / len(engines))
    some = [name for name in order if name in held][: max(kept, 1 if held else 0)]
    return tuple(sorted([*some, *[name for name in order if name not in held][: most - len(some)]]))


class _Frame:
    """One group's arrays: every slot of the range first, then cut to what is covered and affordable."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        material: Material,
        group: _Group,
        engines: tuple[str, ...],
        held: frozenset[str],
    ) -> None:
        self._connection, self._group, self._held = connection, group, held
        self._engines = engines
        self._step_ns = int(group.step_s * 1e9)
        self._start_ns = material.start_ns
        self._count = (material.end_ns - material.start_ns) // self._step_ns + 1
        self._params: dict[str, Any] = {
            "start": material.start_ns,
            "end": material.end_ns,
            "engines": list(engines),
            "step": self._step_ns,
        }
        self.notes: list[str] = []

    def series(self, *, most_slots: int) -> tuple[str, Series | None]:
        """The series, or why there is none."""
        readings, gpus, machine = self._readings(), self._gpus(), self._machine()
        if isinstance(machine, str):
            return machine, None
        hits = {kind: self._hits(kind) for kind in KINDS}
        for kind in ("ttft", "tbt"):
            if len(hits[kind].slot) == 0:
                return f"no histogram of {kind}, so arrivals and latency are unknown", None
        if not np.isfinite(readings["prompt"]).any():
            return "no engine counts its prompt tokens, so the load is unknown", None
        seen = np.isfinite(readings["running"]) | np.isfinite(readings["prompt"])
        kept_engines = self._covered(seen)
        slots = _affordable(_present(seen[kept_engines]), most_slots, round(BLOCK_S / self._group.step_s))
        if len(slots) * self._group.step_s < LEAST_S or not kept_engines.any():
            return f"only {len(slots) * self._group.step_s:.0f} s without a gap, {LEAST_S:.0f} s are needed", None
        if len(slots) < self._count:
            self.notes.append(
                f"{self._group.stack}: {len(slots) * self._group.step_s:.0f} s of "
                f"{self._count * self._group.step_s:.0f} s are used, in blocks (gaps cut out, --engine-seconds is the "
                "bound)"
            )
        return "", self._cut(readings, gpus, machine, hits, kept_engines, slots)

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
            "WHERE ts_ns BETWEEN $start AND $end AND list_contains($engines, engine)), "
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
            "WHERE ts_ns BETWEEN $start AND $end AND list_contains($engines, engine)), "
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


def _broken(archive: Path) -> set[Path]:
    """Files whose pages cannot be read to the end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from streams.sinks import archive_files

    broken: set[Path] = set()
    for dataset, path in archive_files.each(archive):
        if dataset not in {"telemetry.node", "engine.reading", "power.desired"}:
            continue
        try:
            pq.read_table(path)
        except (OSError, pa.ArrowException):
            broken.add(path)
    return broken


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(". ")
