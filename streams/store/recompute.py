"""Features computed again from archived telemetry, with the functions and windows of the stream: equal bit by bit.

For backfills of a new feature, for training data older than it, and as the check of the stream itself. Rows in, rows
out; `archived` is the only function that reads files, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.features.registry import FEATURES, compute_all
from models.features.window import COLUMNS, SPAN_NS, WIDTH, Floats, of_series
from streams.sinks.schemas import ENGINE, TELEMETRY
from streams.store.errors import NoFeatures, StoreError
from streams.store.files import files, relation
from streams.store.point_in_time import connect

IDENTITY: Final = ("node", "boot_id", "seq", "uuid", "ts_ns")
CHUNK: Final = 4096  # samples of one GPU computed at once: 64 windows' worth of columns stay in a few MB
Indices = npt.NDArray[np.int64]


def recompute(telemetry: pa.Table) -> pa.Table:
    """One feature row per telemetry row (one GPU and sample), each sample once, in the order of node, boot, GPU, seq.

    `telemetry` has node, boot_id, seq, uuid, ts_ns and the quantities of models.features.window.COLUMNS; one that is
    missing is unknown throughout. Result: those five columns, one per feature, and emitted_ns = ts_ns (known at once).

    Raises:
        StoreError: a column that identifies a sample is missing.
    """
    missing = [name for name in IDENTITY if name not in telemetry.column_names]
    if missing:
        raise StoreError(f"telemetry rows lack {', '.join(missing)}; read them with streams.store.recompute.archived")
    order, starts = _series(telemetry)
    rows = telemetry.select(IDENTITY).take(pa.array(order))
    stamps = telemetry["ts_ns"].to_numpy()[order]
    columns = {name: _floats(telemetry, name)[order] for name in COLUMNS if name in telemetry.column_names}
    values = {feature.name: np.full(len(order), np.nan) for feature in FEATURES}
    for start, end in pairwise([*starts, len(order)]):
        for at, ready, window_from in _chunks(int(start), int(end)):
            part = {name: column[window_from:ready] for name, column in columns.items()}
            found = compute_all(of_series(stamps[window_from:ready], part))
            for name, column in found.items():
                values[name][at:ready] = column[at - window_from :]
    rows = rows.append_column("emitted_ns", rows["ts_ns"])
    for name, column in values.items():
        rows = rows.append_column(name, pa.array(column, mask=np.isnan(column)))
    return rows


def _chunks(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(first row to compute, end, first row that its windows reach back to) over one GPU's series."""
    for at in range(start, end, CHUNK):
        yield at, min(at + CHUNK, end), max(start, at - WIDTH + 1)


def _series(telemetry: pa.Table) -> tuple[Indices, Indices]:
    """Row numbers sorted by (node, boot, GPU) and seq, each sample once, and where each series begins."""
    group = np.zeros(telemetry.num_rows, np.int64)
    for name in ("node", "boot_id", "uuid"):
        codes = telemetry[name].combine_chunks()
        codes = codes if isinstance(codes, pa.DictionaryArray) else codes.dictionary_encode()
        _, group = np.unique(group * (len(codes.dictionary) + 1) + codes.indices.to_numpy(), return_inverse=True)
    seq = telemetry["seq"].to_numpy()
    order = np.lexsort((seq, group))
    group, seq = group[order], seq[order]
    same = np.zeros(len(order), np.bool_)
    same[1:] = (group[1:] == group[:-1]) & (seq[1:] == seq[:-1])
    order, group = order[~same], group[~same]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = group[1:] != group[:-1]
    return order, np.flatnonzero(begins)


def _floats(telemetry: pa.Table, name: str) -> Floats:
    """A quantity as float64, NaN where it is null, rounded as the stream rounds it."""
    values: Any = telemetry[name].cast(pa.float64(), safe=False).to_numpy()
    return np.asarray(values, np.float64)


def archived(archive: Path, *, start_ns: int, end_ns: int) -> pa.Table:
    """Telemetry rows for `recompute` with start - 60 s < ts <= end, so that the first windows are whole.

    A GPU's `tokens` are its share of what its serving engine generated, as in the stream.

    Raises:
        NoFeatures: the archive has no telemetry in that time.
    """
    since_ns = start_ns - SPAN_NS
    gpus = files(archive, TELEMETRY.name, start_ns=since_ns, end_ns=end_ns)
    if not gpus:
        raise NoFeatures(f"the archive {archive} has no telemetry in that time; `eo worker archive` fills it")
    engines = files(archive, ENGINE.name, start_ns=since_ns, end_ns=end_ns)
    with connect() as connection:
        query = _telemetry_query(relation(gpus), relation(engines, row_numbers=True) if engines else None)
        return connection.sql(query, params={"since": since_ns, "end": end_ns}).to_arrow_table()


def _telemetry_query(gpus: str, engines: str | None) -> str:
    quantities = ", ".join(f"t.{name}" for name in COLUMNS if name != "tokens")
    identity = ", ".join(f"t.{name}" for name in IDENTITY)
    between = "ts_ns > $since AND ts_ns <= $end"
    if engines is None:
        return f"SELECT {identity}, {quantities}, NULL::DOUBLE AS tokens FROM {gpus} t WHERE {between}"
    # Two engines on one GPU: the later one in the message that knows its tokens counts, as in the stream.
    return f"""
        WITH reported AS (
            SELECT node, boot_id, seq, unnest(gpu_uuid) AS uuid, file_row_number AS place,
                generation_tokens_total / len(gpu_uuid) AS tokens
            FROM {engines} WHERE {between} AND generation_tokens_total IS NOT NULL
        ),
        share AS (SELECT node, boot_id, seq, uuid, arg_max(tokens, place) AS tokens FROM reported GROUP BY ALL)
        SELECT {identity}, {quantities}, share.tokens
        FROM {gpus} t LEFT JOIN share USING (node, boot_id, seq, uuid) WHERE {between}
    """
