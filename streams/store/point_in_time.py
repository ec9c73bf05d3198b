"""Point-in-time reads: for each entity row (GPU, time), the feature values that were known then, never later ones.

Known means: the window had ended AND the features job had sent it. A backlog that is worked off an hour late was not
known in between, so a model trained on such rows sees what it would have seen in service. A value older than its
feature's time to live is null. Only SQL text and one query; files are chosen by offline.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import duckdb
import pyarrow as pa

from streams.store.errors import StoreError
from streams.store.online import ttl_ns

ENTITY_COLUMNS: Final = ("gpu_uuid", "ts_ns")
RESULT_COLUMNS: Final = ("window_end_ns", "age_s", "quality")
# Nothing may be fetched from the network because a query mentions a format or a function.
SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}


def connect() -> duckdb.DuckDBPyConnection:
    """A private in-memory DuckDB that downloads no extension; close it after use."""
    connection = duckdb.connect(":memory:", config=SETTINGS)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def as_of(
    connection: duckdb.DuckDBPyConnection,
    entities: pa.Table,
    *,
    source: str,
    present: Sequence[str],
    ttl_s: Mapping[str, float],
) -> pa.Table:
    """The entity rows in their order, with window_end_ns, age_s, quality and one column per feature of `ttl_s`.

    `source` is the SQL of a relation with uuid, ts_ns, emitted_ns, seq, quality and the features in `present`; a
    feature that it does not have is null. Further columns of the entities pass through.

    Raises:
        StoreError: gpu_uuid or ts_ns is missing, or a column's name is taken.
    """
    _check(entities, ttl_s)
    connection.register("entity_rows", entities)
    try:
        return connection.sql(_query(source, entities, present=present, ttl_s=ttl_s)).to_arrow_table()
    finally:
        connection.unregister("entity_rows")


def _check(entities: pa.Table, ttl_s: Mapping[str, float]) -> None:
    missing = [name for name in ENTITY_COLUMNS if name not in entities.column_names]
    if missing:
        raise StoreError(f"entity rows lack {', '.join(missing)}; give gpu_uuid (text) and ts_ns (ns since 1970, UTC)")
    taken = [name for name in entities.column_names if name in {*RESULT_COLUMNS, *ttl_s, "entity_row"}]
    if taken:
        raise StoreError(f"entity rows already have a column {', '.join(taken)}; rename it")


def _query(source: str, entities: pa.Table, *, present: Sequence[str], ttl_s: Mapping[str, float]) -> str:
    own = [f"e.{quoted(name)}" for name in entities.column_names]
    values = [_value(name, ttl_ns(ttl), name in present) for name, ttl in ttl_s.items()]
    result = [*own, "f.ts_ns AS window_end_ns", "(e.ts_ns - f.ts_ns) / 1e9 AS age_s", "f.quality", *values]
    kept = ["uuid", "ts_ns", "quality", *(quoted(name) for name in ttl_s if name in present)]
    # Windows worked off together may share emitted_ns: the last of them was the latest known. A window that was sent
    # again, after younger ones, is not news.
    return f"""
        WITH asked AS (SELECT *, row_number() OVER () AS entity_row FROM entity_rows),
        sent AS (
            SELECT {", ".join(kept)}, boot_id, seq, greatest(ts_ns, emitted_ns) AS known_ns
            FROM {source}
            WHERE uuid IN (SELECT gpu_uuid FROM asked) AND greatest(ts_ns, emitted_ns) <= (SELECT max(ts_ns) FROM asked)
        ),
        known AS (
            SELECT {", ".join(kept)}, known_ns FROM sent
            QUALIFY row_number() OVER (PARTITION BY uuid, known_ns ORDER BY ts_ns DESC, seq DESC) = 1
            AND seq > coalesce(max(seq) OVER (
                PARTITION BY uuid, boot_id ORDER BY known_ns RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), -1)
        )
        SELECT {", ".join(result)}
        FROM asked e ASOF LEFT JOIN known f ON e.gpu_uuid = f.uuid AND e.ts_ns >= f.known_ns
        ORDER BY e.entity_row
    """


def _value(name: str, ttl: int, present: bool) -> str:
    if not present:
        return f"NULL::DOUBLE AS {quoted(name)}"
    return f"CASE WHEN e.ts_ns - f.ts_ns <= {ttl} THEN f.{quoted(name)} END AS {quoted(name)}"
