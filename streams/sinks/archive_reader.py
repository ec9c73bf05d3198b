"""The archive as SQL: a DuckDB in memory with one view per dataset and the views of sql/views, read-only and offline.

It writes nothing and reads nothing outside the archive: after set-up, DuckDB itself is locked to the archive's folder.
A missing dataset is an empty view with the same columns; a file that is no whole Parquet is left out and named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streams.contract.layout import Layout
from streams.sinks import archive_files, schemas, sql_files
from streams.sinks.archive_files import HourFiles

if TYPE_CHECKING:
    import duckdb

ROLLUP: Final = "_rollup"
INTERNAL: Final = "internal"  # schema of helper tables, so that SHOW TABLES shows what is meant for users
MACROS: Final = (
    # The newest row, not the clock, is "now": an archive of last week answers as it did then.
    "CREATE MACRO since(hours) AS "
    "getvariable('newest_ts')::TIMESTAMPTZ - to_microseconds((hours * 3600000000)::BIGINT)",
    # date_trunc on a TIMESTAMPTZ goes through the calendar of the time zone and costs ten times as much.
    "CREATE MACRO start_of_hour(moment) AS to_timestamp(epoch_us(moment) // 3600000000 * 3600)",
    # A scale finer than 5 has several buckets per bucket; of a coarser one the upper edge is kept.
    "CREATE MACRO bucket_at_scale_5(bucket, scale) AS CASE WHEN scale >= 5 THEN bucket >> (scale - 5) "
    "ELSE ((bucket + 1) << (5 - scale)) - 1 END",
    # A training job (streams.contract.training): it is its own reference, and has no request's latency.
    "CREATE MACRO trains(workload) AS coalesce(starts_with(workload, 'training') OR starts_with(workload, 'rank-of:'), "
    "false)",
    # What a counter rose by within its samples, extended by one sample; unknown when it was reset.
    "CREATE MACRO counter_rise(first, last, highest, samples) AS CASE WHEN samples >= 2 AND last = highest AND "
    "last >= first THEN (last - first) * samples / (samples - 1)::DOUBLE END",
    # The value below which a share q lies, as streams.contract.histogram.quantile: interpolated inside its bucket.
    "CREATE MACRO bucket_ms(bucket, inside) AS pow(2.0, (bucket + inside) / 32.0)",
)


@dataclass(frozen=True, slots=True)
class Archive:
    """An opened archive. `left_out` names files that are not readable, each with the reason."""

    connection: duckdb.DuckDBPyConnection
    left_out: tuple[tuple[Path, str], ...]
    files: int
    newest: datetime


def open_archive(layout: Layout) -> duckdb.DuckDBPyConnection:
    """A data folder's archive as a locked DuckDB connection with all views; files that are cut off are left out."""
    return open_reader(layout.archive).connection


def open_reader(
    archive: Path, *, leave_out: Collection[Path] = (), only: Collection[str] | None = None, memory: str | None = None
) -> Archive:
    """The same with what was left out.

    `leave_out` names further files that proved unreadable; `only` the views that will be asked for, since each view
    reads the footers of its files when it is made.
    """
    archive = archive.absolute()
    faults: dict[Path, str] = dict.fromkeys(leave_out, "it could not be read")
    found: dict[str, list[HourFiles]] = {}
    for name, hours in archive_files.datasets(archive).items():
        found[name] = [_whole(hour, faults) for hour in hours]
    connection = _connect(memory)
    newest = _newest(connection, found)
    connection.execute("SET VARIABLE newest_ts = ?", [newest])
    define_macros(connection)
    wanted = None if only is None else needed(only)
    _create_views(connection, archive, found, wanted)
    lock(connection, archive)
    count = sum(len(hour.files) for hours in found.values() for hour in hours)
    return Archive(connection, tuple(faults.items()), count, newest)


def _create_views(
    connection: duckdb.DuckDBPyConnection, archive: Path, found: dict[str, list[HourFiles]], wanted: set[str] | None
) -> None:
    for dataset in schemas.DATASETS:
        if wanted is None or view_name(dataset.name) in wanted:
            files = [path for hour in found.get(dataset.name, []) for path in hour.files]
            create_source(connection, view_name(dataset.name), dataset, files)
    for rollup in sql_files.load("rollups").values():
        if wanted is None or rollup.name in wanted:
            _create_rollup(connection, archive, rollup, found)
    for view in sql_files.load("views").values():
        if wanted is None or view.name in wanted:
            connection.execute(f"CREATE VIEW {view.name} AS {view.sql}")


def needed(names: Collection[str]) -> set[str]:
    """These views and all that they are made of."""
    views = sql_files.load("views")
    wanted, waiting = set(names), [views[name] for name in names if name in views]
    while waiting:
        words = set(re.findall(r"\w+", waiting.pop().sql))
        new = {name for name in view_names() if name in words} - wanted
        wanted |= new
        waiting += [views[name] for name in new if name in views]
    return wanted


def view_names() -> list[str]:
    """Every view that an opened archive has: datasets, roll-ups, views."""
    datasets = [view_name(dataset.name) for dataset in schemas.DATASETS]
    return [*datasets, *sql_files.load("rollups"), *sql_files.load("views")]


def define_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """What the shipped SQL calls."""
    for macro in MACROS:
        connection.execute(macro)


def view_name(dataset: str) -> str:
    """`telemetry.node` -> `telemetry_node`."""
    return dataset.replace(".", "_")


def _whole(hour: HourFiles, faults: dict[Path, str]) -> HourFiles:
    """The hour without files that are certainly unreadable; they are noted in `faults`."""
    good: list[Path] = []
    for path in hour.files:
        if path in faults:
            continue
        if (fault := archive_files.footer_fault(path)) is None:
            good.append(path)
        else:
            faults[path] = fault
    return HourFiles(hour.hour, hour.folder, tuple(good))


def _connect(memory: str | None) -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    )
    connection.execute("SET TimeZone = 'UTC'")
    # What does not fit into memory fails: a reader leaves no temporary files behind.
    connection.execute("SET temp_directory = ''")
    if memory is not None:
        connection.execute("SET memory_limit = ?", [memory])
    return connection


def _newest(connection: duckdb.DuckDBPyConnection, found: dict[str, list[HourFiles]]) -> datetime:
    """The newest row's time: of the newest hour of telemetry, or else of any dataset; 1970 for an empty archive."""
    order = sorted(found, key=lambda name: name != schemas.TELEMETRY.name)
    for name in order:
        for hour in reversed(found[name]):
            if not hour.files:
                continue
            row = connection.execute(f"SELECT max(ts) FROM read_parquet({literal(hour.files)})").fetchone()
            if row is not None and isinstance(row[0], datetime):
                return row[0]
    return datetime.fromtimestamp(0, UTC)


def literal(files: Iterable[Path]) -> str:
    """A SQL list of paths."""
    return "[" + ", ".join("'" + str(path).replace("'", "''") + "'" for path in files) + "]"


def create_source(
    connection: duckdb.DuckDBPyConnection, view: str, dataset: schemas.Dataset, files: Iterable[Path]
) -> None:
    """A view over files of one dataset; columns that old files lack are null, and without files it is empty."""
    empty = f"{INTERNAL}.{view_name(dataset.name)}_columns"
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {INTERNAL}")
    connection.register("empty_rows", dataset.plain_schema.empty_table())
    connection.execute(f"CREATE TABLE IF NOT EXISTS {empty} AS SELECT * FROM empty_rows")
    connection.unregister("empty_rows")
    rows = f"SELECT * FROM {empty}"
    if listed := list(files):
        rows += f" UNION ALL BY NAME SELECT * FROM {_parquet(listed)}"
    connection.execute(f"CREATE VIEW {view} AS {rows}")


def _parquet(files: Iterable[Path]) -> str:
    return f"read_parquet({literal(files)}, union_by_name = true, hive_partitioning = false)"


def rollup_folder(rollup: sql_files.SqlFile) -> str:
    """A folder per definition: what an older definition counted is not read as if it were this one's."""
    return f"{rollup.name}-{hashlib.sha256(rollup.sql.encode()).hexdigest()[:8]}"


def rollup_path(archive: Path, rollup: sql_files.SqlFile, hour: HourFiles, source: Path) -> Path:
    """Where the roll-up of one raw file lies: it counts for that file only, so it can never count twice."""
    name = source.name.removesuffix(".staged")
    return archive / ROLLUP / rollup_folder(rollup) / Path(*hour.folder.parts[-2:]) / name


def _create_rollup(
    connection: duckdb.DuckDBPyConnection, archive: Path, rollup: sql_files.SqlFile, found: dict[str, list[HourFiles]]
) -> None:
    """A view of the ready roll-ups, and of the rest of the rows counted on the spot."""
    dataset = rollup_dataset(rollup)
    ready: list[Path] = []
    rest: list[Path] = []
    for hour in found.get(dataset.name, []):
        for path in hour.files:
            made = rollup_path(archive, rollup, hour, path)
            usable = made.exists() and archive_files.footer_fault(made) is None
            (ready if usable else rest).append(made if usable else path)
    uncounted = f"{INTERNAL}.{rollup.name}_rest"
    create_source(connection, uncounted, dataset, rest)
    counted = rollup.sql.replace("source_rows", uncounted)
    union = f" UNION ALL BY NAME SELECT * FROM {_parquet(ready)}" if ready else ""
    connection.execute(f"CREATE VIEW {rollup.name} AS SELECT * FROM ({counted}){union}")


def rollup_dataset(rollup: sql_files.SqlFile) -> schemas.Dataset:
    """The dataset that a roll-up counts."""
    return next(dataset for dataset in schemas.DATASETS if view_name(dataset.name) == rollup.source)


def lock(connection: duckdb.DuckDBPyConnection, archive: Path) -> None:
    """No file outside the archive, no extension, no setting can be reached from here on."""
    folder = str(archive).replace("'", "''")
    connection.execute(f"SET allowed_directories = ['{folder}']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
