"""Minute roll-ups beside the raw rows: one file for one raw file, so that a day of a fleet is answered from minutes.

A roll-up is a cache. It is made from a file that will not change any more, it is found by that file's name, and without
it the same SQL counts the raw rows. Its folder lies outside the raw files' glob.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

from streams.sinks import archive_files, archive_reader, sql_files
from streams.sinks.archive_files import HourFiles
from streams.sinks.parquet import TEMPORARY, FileName, fsync_folder

MEMORY: Final = "1GB"


def build(archive: Path, hour: HourFiles, dataset: str, *, files: list[Path]) -> int:
    """Makes the roll-ups of these raw files that are missing; returns how many were made.

    Raises:
        OSError, duckdb.Error: nothing half-made becomes visible.
    """
    made = 0
    for rollup in sql_files.load("rollups").values():
        if archive_reader.rollup_dataset(rollup).name != dataset:
            continue
        for path in files:
            target = archive_reader.rollup_path(archive, rollup, hour, path)
            if not target.exists() and archive_files.footer_fault(path) is None:
                _build_one(archive, rollup, path, target)
                made += 1
    return made


def _build_one(archive: Path, rollup: sql_files.SqlFile, source: Path, target: Path) -> None:
    import duckdb

    temporary = archive / TEMPORARY / f"rollup_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(":memory:", config={"threads": 1, "memory_limit": MEMORY}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        archive_reader.define_macros(connection)
        archive_reader.create_source(connection, "source_rows", archive_reader.rollup_dataset(rollup), [source])
        connection.execute(f"COPY ({rollup.sql}) TO '{_quoted(temporary)}' (FORMAT parquet, COMPRESSION zstd)")
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.rename(target)
    fsync_folder(target.parent)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def remove_stale(archive: Path, *, now_s: float, grace_s: float, partitions: frozenset[int] | None) -> int:
    """Removes roll-ups of a raw file that was merged into another, or of an older definition, after the grace time."""
    current = {archive_reader.rollup_folder(rollup) for rollup in sql_files.load("rollups").values()}
    live = {
        (hour.folder.parts[-2:], path.name.removesuffix(".staged"))
        for hours in archive_files.datasets(archive).values()
        for hour in hours
        for path in hour.files
    }
    removed = 0
    for path in (archive / archive_reader.ROLLUP).glob("*/date=*/hour=*/*.parquet"):
        name = FileName.parse(path.name)
        if name is None or (partitions is not None and name.partition not in partitions):
            continue
        wanted = path.parts[-4] in current and (path.parts[-3:-1], path.name) in live
        if not wanted and now_s - path.stat().st_mtime > grace_s:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
