"""Offline side of the feature store: features in the Parquet archive, read with DuckDB. It never writes.

Layout: `topic=features.gpu/date=YYYY-MM-DD/hour=HH/*.parquet`, one row per GPU and window end, one column per feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from streams.sinks.parquet import HOUR_NS
from streams.sinks.schemas import FEATURES, KNOWN_FEATURES
from streams.store.errors import NoFeatures, StoreError, UnknownFeature
from streams.store.files import files, relation
from streams.store.online import ttl_ns
from streams.store.point_in_time import as_of, connect, quoted

# Columns of the dataset that are no feature; whatever else a file has is one.
NOT_FEATURES: Final = frozenset({name for name, _, _ in FEATURES.columns} - set(KNOWN_FEATURES))
# A window may have been sent this much later than it ended and still be asked for: a day of backlog.
LATEST_BACKLOG_NS: Final = 24 * HOUR_NS


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One value of one feature of one GPU; `value` None = the window could not give it."""

    window_end_ns: int
    emitted_ns: int
    value: float | None
    quality: str
    node: str


class OfflineStore:
    """Feature rows below an archive folder."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive

    def files(self, start_ns: int | None = None, end_ns: int | None = None) -> list[Path]:
        """Parquet files whose hour overlaps [start, end], oldest first."""
        return files(self._archive, FEATURES.name, start_ns=start_ns, end_ns=end_ns)

    def features(self) -> tuple[str, ...]:
        """Names of the features that the newest file has; raises NoFeatures for an empty archive."""
        newest = self._some_files(None, None)[-1:]
        with connect() as connection:
            return _features_of(connection, relation(newest))

    def history(
        self, gpu_uuid: str, feature: str, *, start_ns: int | None = None, end_ns: int | None = None, limit: int = 1000
    ) -> list[HistoryRow]:
        """The newest `limit` values with start <= window end <= end, oldest first, each window once.

        Raises:
            NoFeatures: the archive has no features in that time.
            UnknownFeature: no file of that time has the feature.
        """
        source = relation(self._some_files(start_ns, end_ns))
        with connect() as connection:
            present = _features_of(connection, source)
            if feature not in present:
                raise UnknownFeature(f"feature {feature!r} is not in the archive, which has {', '.join(present)}")
            rows = connection.execute(
                f"""
                SELECT ts_ns, min(emitted_ns), any_value({quoted(feature)}), any_value(quality), any_value(node)
                FROM {source}
                WHERE uuid = $uuid AND ts_ns >= $start AND ts_ns <= $end
                GROUP BY ts_ns ORDER BY ts_ns DESC LIMIT $limit
                """,
                {
                    "uuid": gpu_uuid,
                    "start": 0 if start_ns is None else start_ns,
                    "end": 2**63 - 1 if end_ns is None else end_ns,
                    "limit": limit,
                },
            ).fetchall()
        return [HistoryRow(*row) for row in reversed(rows)]

    def gpus(self) -> tuple[str, ...]:
        """GPUs in the newest hour of the archive."""
        newest = self._some_files(None, None)[-1]
        with connect() as connection:
            rows = connection.execute(
                f"SELECT DISTINCT uuid FROM {relation(sorted(newest.parent.glob('*.parquet')))} ORDER BY uuid"
            ).fetchall()
        return tuple(row[0] for row in rows)

    def point_in_time(self, entities: pa.Table, ttl_s: Mapping[str, float]) -> pa.Table:
        """Entity rows (gpu_uuid, ts_ns, ...) with the value of each feature of `ttl_s` that was known at ts_ns.

        Raises:
            NoFeatures: the archive has no features at or before those times.
            StoreError: an entity column is missing, null, or has a name that the answer needs.
        """
        start_ns, end_ns = _span(entities, ttl_s)
        source = relation(self._some_files(start_ns, end_ns))
        with connect() as connection:
            present = _features_of(connection, source)
            return as_of(connection, entities, source=source, present=present, ttl_s=ttl_s)

    def _some_files(self, start_ns: int | None, end_ns: int | None) -> list[Path]:
        found = self.files(start_ns, end_ns)
        if not found:
            when = "" if start_ns is None and end_ns is None else " in that time"
            raise NoFeatures(f"the archive {self._archive} has no features{when}; run `eo worker` to fill it")
        return found


def _span(entities: pa.Table, ttl_s: Mapping[str, float]) -> tuple[int, int]:
    """The oldest window end that can matter and the newest."""
    if "ts_ns" not in entities.column_names or entities.num_rows == 0 or entities["ts_ns"].null_count:
        raise StoreError("entity rows need a ts_ns (ns since 1970, UTC) in every row, and at least one row")
    found = pc.min_max(entities["ts_ns"]).as_py()
    oldest_ns = int(found["min"]) - max(map(ttl_ns, ttl_s.values()), default=0)
    return oldest_ns - LATEST_BACKLOG_NS, int(found["max"])


def _features_of(connection: duckdb.DuckDBPyConnection, source: str) -> tuple[str, ...]:
    try:
        columns = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise StoreError(f"the archive cannot be read ({reason}); move that file away and ask again") from error
    return tuple(name for name, kind, *_ in columns if name not in NOT_FEATURES and kind == "DOUBLE")
