"""Which files of the archive hold a stretch of time, and their SQL. Nothing is read or written here."""

from __future__ import annotations

from pathlib import Path

from streams.sinks.parquet import HOUR_NS, hour_of


def files(archive: Path, dataset: str, *, start_ns: int | None = None, end_ns: int | None = None) -> list[Path]:
    """Parquet files of a dataset whose hour overlaps [start, end], oldest first."""
    found: list[Path] = []
    for folder in sorted((archive / f"topic={dataset}").glob("date=*/hour=*")):
        hour = hour_of(folder)
        if hour is None or (start_ns is not None and (hour + 1) * HOUR_NS <= start_ns):
            continue
        if end_ns is None or hour * HOUR_NS <= end_ns:
            found += sorted(folder.glob("*.parquet"))
    return found


def relation(paths: list[Path], *, row_numbers: bool = False) -> str:
    """The files as an SQL relation; a column that an older file lacks is null there.

    `row_numbers` adds file_row_number, which keeps the order of rows within one message.
    """
    names = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    options = "union_by_name = true, hive_partitioning = false" + (", file_row_number = true" if row_numbers else "")
    return f"read_parquet([{names}], {options})"
