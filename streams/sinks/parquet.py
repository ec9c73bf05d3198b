"""One Parquet file of the archive, written so that a reader sees all of it or nothing, whatever dies when.

The temporary lies outside every reader's glob (`topic=*/date=*/hour=*/*.parquet`): one unreadable file would fail a
whole query. Order: write, fsync, rename, fsync of the folder. Nothing here knows Kafka.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streams.contract.failpoints import hit

HOUR_NS: Final = 3_600_000_000_000
ROW_GROUP: Final = 131_072  # rows; DuckDB skips whole groups by their time range
TEMPORARY: Final = "_tmp"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAME: Final = re.compile(r"p(?P<partition>\d+)-(?P<first>\d+)-(?P<last>\d+)(?:-\w+)?\.parquet")


@dataclass(frozen=True, slots=True)
class FileName:
    """What a file's name says: one partition and the range of offsets inside."""

    partition: int
    first: int
    last: int

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """None for a name that this product did not give."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(*(int(found[part]) for part in ("partition", "first", "last")))

    def __str__(self) -> str:
        return f"p{self.partition}-{self.first}-{self.last}"


def hour_folder(dataset: str, hour: int) -> Path:
    """Folder of a dataset's hour (hours since 1970 UTC), relative to the archive."""
    start = _EPOCH + timedelta(hours=hour)
    return Path(f"topic={dataset}") / f"date={start:%Y-%m-%d}" / f"hour={start:%H}"


def hour_of(folder: Path) -> int | None:
    """The reverse of hour_folder; None for a folder of another shape."""
    try:
        day = datetime.strptime(folder.parent.name, "date=%Y-%m-%d").replace(tzinfo=UTC)
        return int((day - _EPOCH).total_seconds()) // 3600 + int(folder.name.removeprefix("hour="))
    except ValueError:
        return None


def by_hour(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The table cut by the hour of its own ts_ns (hours since 1970)."""
    hours = np.asarray(table["ts_ns"]) // HOUR_NS
    if len(hours) and hours[0] == hours[-1] and (hours == hours[0]).all():
        yield int(hours[0]), table
        return
    for hour in np.unique(hours):
        yield int(hour), table.filter(pa.array(hours == hour))


def write(
    archive: Path,
    dataset: str,
    hour: int,
    *,
    partition: int,
    table: pa.Table,
    before_rename: Callable[[], None] | None = None,
) -> Path:
    """Writes one file of one hour and returns its path once it would survive a power cut.

    `before_rename` may raise to give up: the temporary is removed and nothing becomes visible.

    Raises:
        OSError: disk full, no right to write; nothing became visible.
    """
    offsets = pc.min_max(table["offset"]).as_py()
    name = FileName(partition, offsets["min"], offsets["max"])
    folder = archive / hour_folder(dataset, hour)
    make_folders(archive, folder)
    temporary = temporary_path(archive, dataset, partition)
    try:
        with temporary.open("wb") as sink:
            write_table(sink, table)
            sink.flush()
            os.fsync(sink.fileno())
        if before_rename is not None:
            before_rename()
        hit("archive.before_rename")
        final = free_path(folder, str(name))
        temporary.rename(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(folder)
    hit("archive.after_rename_before_commit")
    return final


def write_table(sink: object, table: pa.Table) -> None:
    """zstd-3, dictionaries, row groups of ROW_GROUP."""
    with pq.ParquetWriter(sink, table.schema, compression="zstd", compression_level=3) as writer:
        for start in range(0, max(table.num_rows, 1), ROW_GROUP):
            writer.write_table(table.slice(start, ROW_GROUP), row_group_size=ROW_GROUP)
            hit("archive.mid_rowgroup")
        hit("archive.before_footer")


def temporary_path(archive: Path, dataset: str, partition: int) -> Path:
    """A new temporary whose name tells the partition, so that the partition's next owner can remove it."""
    return archive / TEMPORARY / f"p{partition}_{dataset}_{os.getpid()}_{uuid.uuid4().hex[:8]}"


def remove_temporaries(archive: Path, dataset: str, partition: int) -> int:
    """Removes what an earlier owner of the partition left unfinished; returns how many."""
    found = list((archive / TEMPORARY).glob(f"p{partition}_{dataset}_*"))
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def free_path(folder: Path, stem: str) -> Path:
    """A name that is not taken. A topic that was made anew counts from 0 again and must not overwrite older rows."""
    path, turn = folder / f"{stem}.parquet", 1
    while path.exists():
        turn += 1
        path = folder / f"{stem}-r{turn}.parquet"
    return path


def make_folders(archive: Path, folder: Path) -> None:
    """Makes the temporary folder and an hour's folder, each new entry durable."""
    (archive / TEMPORARY).mkdir(parents=True, exist_ok=True)
    missing = [path for path in (folder, *folder.parents) if archive in path.parents and not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """A small file replaced as a whole, durable before it becomes visible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    with temporary.open("w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    temporary.rename(path)
    fsync_folder(path.parent)


def files_of(folder: Path, partition: int) -> list[tuple[FileName, Path]]:
    """Files of a partition in an hour's folder, by offset."""
    found = ((FileName.parse(path.name), path) for path in folder.glob(f"p{partition}-*.parquet"))
    return sorted(
        ((name, path) for name, path in found if name is not None), key=lambda pair: (pair[0].last, pair[0].first)
    )
