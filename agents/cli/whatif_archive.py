"""Reads from an archive what `eo whatif` replays: one series per serving stack, bounded in engines and in time.

Nothing is judged or simulated here. What is left out (broken files, engines with holes, time beyond the budget) is
noted; an archive that cannot be replayed at all is refused in one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agents.cli.base import FAILED, REFUSED, EoError
from agents.cli.whatif_frame import LEAST_S, Frame, Group
from models.whatif.series import Series

if TYPE_CHECKING:
    import duckdb

MOST_ENGINES: Final = 40
FEWER_ENGINES: Final = 24  # for a range that does not fit the bound: more time instead
MOST_CELLS: Final = 20_000_000  # engines times slots of one array: 160 MB
APART_NS: Final = 30 * 86_400 * 10**9  # rows further from all others are of another time, or of a clock that jumped
MEMORY: Final = "2GB"
VIEWS: Final = ["telemetry_node", "engine_reading", "power_desired"]
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


def read(
    archive: Path, *, start_ns: int | None, end_ns: int | None, engine_seconds: float, now_ns: int | None = None
) -> Material:
    """The material of a range; raises EoError when nothing in it can be replayed."""
    import duckdb

    from agents.cli.sql_run import is_data, one_line, unreadable
    from streams.sinks.archive_reader import open_reader

    if not archive.is_dir():
        raise EoError(f"{archive} is no folder; name the archive of a data folder, e.g. data/archive", REFUSED)
    broken: set[Path] = set()
    while True:
        try:
            opened = open_reader(archive, leave_out=broken, only=VIEWS, memory=MEMORY)
            with opened.connection as connection:
                if not opened.files:
                    lost = f": {len(opened.left_out)} files are broken" if opened.left_out else ""
                    raise EoError(f"{archive} holds no readable rows{lost}; `eo demo` fills an archive to try", REFUSED)
                left_out = [*opened.left_out]
                return _read(connection, archive, start_ns, end_ns, engine_seconds, left_out, now_ns or time_ns())
        except duckdb.OutOfMemoryException as error:
            raise EoError(
                f"the range needs more than {MEMORY} of memory; give a shorter one with --from and --to", FAILED
            ) from error
        except duckdb.Error as error:
            more = unreadable(archive, VIEWS) - broken if is_data(error) else set()
            if not more:  # each turn leaves out more files, so this ends
                raise EoError(
                    f"{archive} cannot be read: {one_line(error)}; `eo sql` asks it freely", FAILED
                ) from error
            broken |= more


def _read(
    connection: duckdb.DuckDBPyConnection,
    archive: Path,
    start_ns: int | None,
    end_ns: int | None,
    engine_seconds: float,
    left_out: list[tuple[Path, str]],
    now_ns: int,
) -> Material:
    start, end, odd = _range(connection, archive, start_ns, end_ns, broken=len(left_out))
    material = Material(cluster=_cluster(connection), start_ns=start, end_ns=end)
    material.notes += [f"left out {path}: {reason}" for path, reason in left_out] + odd
    if end > now_ns:
        material.notes.append(f"the range ends at {at(end)}, after now: the clock of whoever recorded it was ahead")
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
    connection: duckdb.DuckDBPyConnection, archive: Path, start_ns: int | None, end_ns: int | None, *, broken: int
) -> tuple[int, int, list[str]]:
    rows = connection.execute(
        "SELECT min(ts_ns), max(ts_ns), count(*) FROM engine_reading GROUP BY ts_ns // 3600000000000 ORDER BY 1"
    ).fetchall()
    hours = [(int(low), int(high), int(count)) for low, high, count in rows]
    if not hours:
        lost = f" ({broken} broken files are left out)" if broken else ""
        raise EoError(
            f"{archive} has no rows of a serving engine{lost}, so neither load nor latency is known; "
            "give the agents an engine (docs/user-guide.md) and record at least a minute",
            REFUSED,
        )
    asked = [one for one in hours if one[1] >= (start_ns or 0) and (end_ns is None or one[0] <= end_ns)]
    first, last, odd = _together(asked or hours)
    start, end = max(first, start_ns or first), min(last, end_ns or last)
    if (end - start) / 1e9 < LEAST_S:
        raise EoError(
            f"the range holds {max(end - start, 0) / 1e9:.0f} s of engine rows, {LEAST_S:.0f} s are needed; "
            f"the archive goes from {at(first)} to {at(last)}",
            REFUSED,
        )
    return start, end, odd


def _together(hours: list[tuple[int, int, int]]) -> tuple[int, int, list[str]]:
    """First and last moment of the rows that belong together, and what is left out: a clock that jumped for a while.

    Rows more than 30 days from all others are another stretch; the stretch of most rows is the range.
    """
    stretches: list[list[tuple[int, int, int]]] = [[hours[0]]]
    for before, here in pairwise(hours):
        if here[0] - before[1] > APART_NS:
            stretches.append([])
        stretches[-1].append(here)
    most = max(stretches, key=lambda one: sum(rows for *_, rows in one))
    odd = [
        f"left out {sum(rows for *_, rows in one)} engine rows from {at(one[0][0])} to {at(one[-1][1])}: more than 30 "
        "days from the others, as of a clock that jumped; --from and --to name a range"
        for one in stretches
        if one is not most
    ]
    return most[0][0], most[-1][1], odd


def at(ns: int) -> str:
    """A moment as users write it; a moment beyond the calendar in nanoseconds."""
    if not 0 <= ns < 253_402_300_800 * 10**9:
        return f"{ns} ns"
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cluster(connection: duckdb.DuckDBPyConnection) -> str:
    row = connection.execute("SELECT any_value(cluster) FROM engine_reading").fetchone()
    return str(row[0]) if row is not None and row[0] is not None else "default"


def _groups(connection: duckdb.DuckDBPyConnection, where: dict[str, Any]) -> list[Group]:
    """Engines by stack, workload and GPUs, each engine as it was in the range."""
    rows = connection.execute(
        "WITH once AS (SELECT DISTINCT ON (engine, ts_ns) engine, ts_ns, stack, workload, len(gpu_uuid) AS gpus "
        "FROM engine_reading WHERE ts_ns BETWEEN $start AND $end AND engine IS NOT NULL), "
        "stepped AS (SELECT *, ts_ns - lag(ts_ns) OVER (PARTITION BY engine ORDER BY ts_ns) AS gap_ns FROM once) "
        "SELECT engine, arg_max(stack, ts_ns), arg_max(workload, ts_ns), max(gpus), median(gap_ns) / 1e9 "
        "FROM stepped GROUP BY 1 ORDER BY 1",
        where,
    ).fetchall()
    found: dict[tuple[str, str, int], list[tuple[str, float]]] = {}
    for engine, stack, workload, gpus, gap in rows:
        if gap is not None and gpus:
            found.setdefault((str(stack), str(workload), int(gpus)), []).append((str(engine), float(gap)))
    return [
        Group(*key, tuple(name for name, _ in members), max(1.0, round(float(np.median([gap for _, gap in members])))))
        for key, members in sorted(found.items())
    ]


def _add(connection: duckdb.DuckDBPyConnection, material: Material, group: Group, *, seconds: float) -> None:
    """Reads one group into the material, or notes why not."""
    held, flagged = _holdout(connection, material, group)
    crowd = len(group.engines) * material.seconds_total > seconds
    engines = _chosen(group.engines, held, material.cluster, FEWER_ENGINES if crowd else MOST_ENGINES)
    slots = int((material.end_ns - material.start_ns) / 1e9 / group.step_s)
    if slots * len(engines) > MOST_CELLS:
        most_days = MOST_CELLS / len(engines) * group.step_s / 86_400
        raise EoError(
            f"{at(material.start_ns)} to {at(material.end_ns)} is too long a range for {len(engines)} engines that "
            f"report every {group.step_s:g} s; give at most {most_days:.1f} days with --from and --to",
            REFUSED,
        )
    frame = Frame(connection, group, engines=engines, held=held, start_ns=material.start_ns, end_ns=material.end_ns)
    why, series = frame.series(most_slots=max(int(seconds / len(engines) / group.step_s), 60))
    if series is None:
        material.notes.append(f"left out {len(group.engines)} engines of {group.stack}: {why}")
        return
    material.series.append(series)
    material.weights.append(len(group.engines) / len(series.engines))
    material.flagged.append(flagged)
    material.notes += frame.notes


def _holdout(connection: duckdb.DuckDBPyConnection, material: Material, group: Group) -> tuple[frozenset[str], bool]:
    """Engines that stay at default: as the archive's envelopes say, else by the hash that the product would use.

    A name goes with its engine from GPU to GPU, so one that was held out for a part of the range is no measure of it.
    """
    from models.policy import holdout

    rows = connection.execute(
        "SELECT engine, bool_and(holdout) FROM power_desired "
        "WHERE ts_ns BETWEEN $start AND $end AND list_contains($engines, engine) GROUP BY 1",
        {"start": material.start_ns, "end": material.end_ns, "engines": list(group.engines)},
    ).fetchall()
    held = frozenset(str(engine) for engine, flag in rows if flag)
    if rows and 0 < len(held) < len(group.engines):
        return held, True
    if len(group.engines) < 4:
        return frozenset(), False  # too few to spare one: the twin at default is the reference
    engines = dict.fromkeys(group.engines, holdout.Group(group.gpus))
    return holdout.choose(engines, material.cluster, ratio=0.15), False


def _chosen(engines: tuple[str, ...], held: frozenset[str], cluster: str, most: int) -> tuple[str, ...]:
    """At most `most`, the hold-out in proportion; by hash, so that every run takes the same."""
    from models.policy.holdout import share_of

    if len(engines) <= most:
        return engines
    order = sorted(engines, key=lambda name: share_of(cluster, name, "whatif"))
    kept = round(most * len(held) / len(engines))
    some = [name for name in order if name in held][: max(kept, 1 if held else 0)]
    return tuple(sorted([*some, *[name for name in order if name not in held][: most - len(some)]]))
