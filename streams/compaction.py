"""Merges the many small files of an hour into one per partition, so that a query opens tens of files and not thousands.

Readers never see both or neither: the merged file waits outside the glob, a manifest points readers to it, the replaced
files stay for a grace time (a query that has listed them may still open them), then the merged file takes their place.
Each step can be cut off and is taken up by the next pass.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from streams.sinks import rollups
from streams.sinks.archive_files import HourFiles, Manifest, hour_folders, live_files, manifests, staged_path
from streams.sinks.parquet import (
    HOUR_NS,
    ROW_GROUP,
    FileName,
    files_of,
    fsync_folder,
    hour_of,
    make_folders,
    temporary_path,
)

GRACE_S: Final = 600.0  # longer than any query
CLOSED_S: Final = 900.0  # an hour counts as closed this long after its end; later rows are merged again
MANY: Final = 64  # small files of an hour that still grows, before they are merged
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Report:
    """What a pass did, in files."""

    merged: int = 0
    replaced: int = 0
    removed: int = 0
    rolled_up: int = 0


def compact(
    archive: Path,
    *,
    now_ns: int,
    partitions: frozenset[int] | None = None,
    grace_s: float = GRACE_S,
    closed_s: float = CLOSED_S,
    many: int = MANY,
    ending: Callable[[], bool] = lambda: False,
) -> Report:
    """One pass over the archive; `partitions` None = all of them. Safe beside readers and beside the archive job.

    `ending` is asked before each hour; when it says yes, the rest is left to the next pass.

    Raises:
        OSError: disk full or no right to write; what was not finished is invisible to readers.
    """
    report = Report()
    for folder in hour_folders(archive):
        if ending():
            return report
        closed = _closed(folder, now_ns, closed_s)
        pending = {manifest.partition: manifest for manifest in manifests(folder)}
        for partition in sorted(_partitions(folder) | set(pending)):
            if partitions is not None and partition not in partitions:
                continue
            if (manifest := pending.get(partition)) is not None:
                if now_ns - manifest.at_ns >= grace_s * 1e9:
                    report.removed += _advance(archive, folder, manifest, now_ns)
                continue
            chosen = _choose(folder, partition, closed=closed, many=many)
            if len(chosen) > 1 and (count := _merge(archive, folder, partition, chosen, now_ns=now_ns)):
                report.merged += 1
                report.replaced += count
        report.rolled_up += _roll_up(archive, folder, closed=closed, partitions=partitions)
    report.removed += rollups.remove_stale(archive, now_s=now_ns / 1e9, grace_s=grace_s, partitions=partitions)
    return report


def _roll_up(archive: Path, folder: Path, *, closed: bool, partitions: frozenset[int] | None) -> int:
    """Minute roll-ups of the files that will not change any more: merged ones, and all of a closed hour."""
    settled: list[Path] = []
    for path in live_files(archive, folder):
        name = FileName.parse(path.name.removesuffix(".staged"))
        ours = name is not None and (partitions is None or name.partition in partitions)
        if ours and (closed or "-m" in path.name):
            settled.append(path)
    hour = HourFiles(hour_of(folder) or 0, folder, tuple(settled))
    return rollups.build(archive, hour, folder.parts[-3].removeprefix("topic="), files=settled)


def _partitions(folder: Path) -> set[int]:
    names = (FileName.parse(path.name) for path in folder.glob("*.parquet"))
    return {name.partition for name in names if name is not None}


def _closed(folder: Path, now_ns: int, closed_s: float) -> bool:
    hour = hour_of(folder)
    return hour is not None and now_ns >= (hour + 1) * HOUR_NS + closed_s * 1e9


def _choose(folder: Path, partition: int, *, closed: bool, many: int) -> list[Path]:
    """All files of a closed hour; of a growing one the small ones, once there are many."""
    files = [path for _, path in files_of(folder, partition)]
    if closed:
        return files
    small = [path for path in files if "-m" not in path.stem]
    return small if len(small) >= many else []


def _merge(archive: Path, folder: Path, partition: int, files: list[Path], *, now_ns: int) -> int:
    """Writes the merged file and publishes its manifest; returns how many files it stands for."""
    readable = [path for path in files if _readable(path)]
    if len(readable) < 2:
        return 0
    names = [name for path in readable if (name := FileName.parse(path.name)) is not None]
    span = FileName(partition, min(name.first for name in names), max(name.last for name in names))
    merged = f"{span}-m{len(readable)}.parquet"
    while (folder / merged).exists():
        merged = merged.replace(".parquet", "m.parquet")
    target = staged_path(archive, folder, merged)
    make_folders(archive, target.parent)
    temporary = temporary_path(archive, "merge", partition)
    try:
        rows = _write_merged(temporary, readable)
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(target.parent)
    replaces = tuple(path.name for path in readable)
    Manifest(partition, merged, replaces, "staged", now_ns, rows).save(folder)
    return len(readable)


def _readable(path: Path) -> bool:
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        log.warning("%s cannot be read (%s) and is not merged; move it out of the archive", path, error)
        return False
    return True


def _write_merged(temporary: Path, files: list[Path]) -> int:
    """Row groups of full size in the order of the files; raises OSError when a row went missing."""
    schema = pa.unify_schemas([pq.read_schema(path) for path in files], promote_options="permissive")
    rows = 0
    with temporary.open("wb") as sink:
        with pq.ParquetWriter(sink, schema, compression="zstd", compression_level=3) as writer:
            for table in _groups(files, schema):
                writer.write_table(table, row_group_size=ROW_GROUP)
                rows += table.num_rows
        sink.flush()
        os.fsync(sink.fileno())
    expected = sum(pq.read_metadata(path).num_rows for path in files)
    if rows != expected:
        raise OSError(f"{temporary.name}: {rows} rows were written, {expected} were read; the originals stay")
    return rows


def _groups(files: list[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    count = 0
    for path in files:
        source = pq.ParquetFile(path)
        for index in range(source.num_row_groups):
            table = pa.concat_tables(
                [schema.empty_table(), source.read_row_group(index)], promote_options="permissive"
            ).unify_dictionaries()
            waiting.append(table)
            count += table.num_rows
            if count >= ROW_GROUP:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, count = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _advance(archive: Path, folder: Path, manifest: Manifest, now_ns: int) -> int:
    """The next step of a merge whose grace time is over; returns how many files were removed."""
    staged, final = staged_path(archive, folder, manifest.merged), folder / manifest.merged
    if manifest.phase == "moved":
        staged.unlink(missing_ok=True)
        manifest.path(folder).unlink(missing_ok=True)
        return 1
    if not final.exists():
        _link(staged, final)
        fsync_folder(folder)
    for name in manifest.replaces:
        (folder / name).unlink(missing_ok=True)
    Manifest(manifest.partition, manifest.merged, manifest.replaces, "moved", now_ns, manifest.rows).save(folder)
    return len(manifest.replaces)


def _link(staged: Path, final: Path) -> None:
    """The same file under its final name; without links, a copy that no glob takes before it is whole."""
    with suppress(OSError):
        os.link(staged, final)
        return
    copy = final.with_name(f".{final.name}.copy")
    with staged.open("rb") as source, copy.open("wb") as sink:
        shutil.copyfileobj(source, sink)
        sink.flush()
        os.fsync(sink.fileno())
    copy.rename(final)
