"""What a partition's new owner must know about rows already in the archive. Reads files; decides nothing about Kafka.

Two questions, asked when the first record after an assignment is seen. Was this very record (offset and time) archived
before its offset was committed? Was this node's message (boot_id, seq) archived from an earlier offset, because its
sender sent it twice?
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streams.sinks import schemas
from streams.sinks.parquet import FileName, files_of, hour_folder

MARK_FILES: Final = 64  # newest files that are read for marks
MARK_ROWS: Final = 1_000_000
PLACE: Final = ("offset", "ts_ns", "sent_ms")  # one record, even where a topic was made anew and counts from 0 again
Place = tuple[Any, ...]
log = logging.getLogger(__name__)


def places(archive: Path, dataset: str, hour: int, *, partition: int, base: int) -> frozenset[Place]:
    """Records at or above offset `base` that this hour's folder holds."""
    found: set[Place] = set()
    for name, path in files_of(archive / hour_folder(dataset, hour), partition):
        if name.last < base or (table := _read(path, list(PLACE))) is None:
            continue
        grouped = table.group_by(list(PLACE)).aggregate([])
        found.update(zip(*(grouped[column].to_pylist() for column in PLACE), strict=True))
    return frozenset(place for place in found if place[0] >= base)


def load_marks(
    archive: Path, dataset: str, columns: Sequence[str], *, partition: int, base: int, after: int = -1
) -> Iterator[tuple[object, ...]]:
    """The named columns of archived rows with offsets in (after, base), oldest first, from the newest files."""
    rows = 0
    chosen: list[pa.Table] = []
    first_gpu = "gpu_index" in {name for name, _, _ in schemas.BY_NAME[dataset].columns}
    for name, path in _newest(archive, dataset, partition):
        if name.last <= after or name.first >= base:
            continue
        table = _read(path, [*columns, "offset", *(["gpu_index"] if first_gpu else [])])
        if table is None:
            continue
        chosen.append(table.filter(pc.equal(table["gpu_index"], 0)) if first_gpu else table)
        rows += table.num_rows
        if len(chosen) >= MARK_FILES or rows >= MARK_ROWS:
            break
    for table in reversed(chosen):
        for *values, offset in zip(*(table[name].to_pylist() for name in (*columns, "offset")), strict=True):
            if after < offset < base:
                yield tuple(values)


def _newest(archive: Path, dataset: str, partition: int) -> Iterator[tuple[FileName, Path]]:
    """A partition's files, newest hour and highest offset first."""
    for folder in sorted(archive.glob(f"topic={dataset}/date=*/hour=*"), reverse=True):
        yield from reversed(files_of(folder, partition))


def _read(path: Path, columns: list[str]) -> pa.Table | None:
    """None for a file that is not readable: its rows cannot be vouched for, and `eo sql` names it."""
    try:
        return pq.ParquetFile(path).read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        log.warning("%s cannot be read (%s); its rows count as not archived. Move it out of the archive", path, error)
        return None
