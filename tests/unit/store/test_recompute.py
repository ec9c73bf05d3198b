"""Offline recomputation: equal bit by bit to windows kept message by message over all GPUs, as a stream keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.registry import FEATURES, compute_all
from models.features.window import COLUMNS, NEVER_NS, WIDTH, Window
from streams.contract import records as r
from streams.sinks.parquet import by_hour, write
from streams.sinks.rows import Batch, to_tables
from streams.store import recompute as recomputing
from streams.store.errors import NoFeatures, StoreError
from streams.store.recompute import archived, recompute
from tests.unit.store.makers import T0, S
from tests.unit.store.telemetry import GPUS, as_bytes, shares, telemetry


def stored(folder: Path, records: list[r.NodeTelemetry]) -> None:
    tables = to_tables(r.NodeTelemetry, Batch(0, list(range(len(records))), [None] * len(records), records))
    for dataset, table in tables.items():
        for hour, part in by_hour(table):
            write(folder, dataset, hour, partition=0, table=part)


class Rings:
    """The other way to the same windows: one place per message, pushed in from the right, all GPUs at once."""

    def __init__(self, count: int) -> None:
        self.ts_ns = np.full((count, WIDTH), NEVER_NS, np.int64)
        self.columns = {name: np.full((count, WIDTH), np.nan) for name in COLUMNS}

    def push(self, record: r.NodeTelemetry) -> dict[str, Any]:
        assert record.gpu is not None
        tokens = shares(record)
        self._shift(self.ts_ns, [record.ts_ns] * len(record.gpu.uuid))
        for name, ring in self.columns.items():
            values = [tokens.get(uuid) for uuid in record.gpu.uuid] if name == "tokens" else getattr(record.gpu, name)
            self._shift(ring, np.array(values, np.float64))
        window = Window(self.ts_ns, self.columns)
        return dict(compute_all(window))

    @staticmethod
    def _shift(ring: Any, values: Any) -> None:
        ring[:, :-1] = ring[:, 1:].copy()
        ring[:, -1] = values


def streamed(records: list[r.NodeTelemetry]) -> dict[tuple[str, int, str], dict[str, bytes]]:
    """Feature values as bytes by (boot, seq, GPU)."""
    out: dict[tuple[str, int, str], dict[str, bytes]] = {}
    rings: dict[str, Rings] = {}
    for record in records:
        values = rings.setdefault(record.boot_id, Rings(len(GPUS))).push(record)
        for index, uuid in enumerate(GPUS):
            out[record.boot_id, record.seq, uuid] = {name: as_bytes(column[index]) for name, column in values.items()}
    return out


def recomputed(table: pa.Table) -> dict[tuple[str, int, str], dict[str, bytes]]:
    names = [feature.name for feature in FEATURES]
    return {
        (row["boot_id"], row["seq"], row["uuid"]): {name: as_bytes(row[name]) for name in names}
        for row in table.to_pylist()
    }


def series(seconds: int, seed: int) -> list[r.NodeTelemetry]:
    generator = np.random.default_rng(seed)
    return [telemetry(seq, generator) for seq in range(seconds) if generator.random() > 0.05]


def test_recomputed_equals_streamed_bit_by_bit(tmp_path: Path) -> None:
    records = series(200, seed=1) + [
        telemetry(seq, np.random.default_rng(seq), boot_id="next", ts_ns=T0 + (200 + seq) * S) for seq in range(70)
    ]
    stored(tmp_path, records)
    rows = recompute(archived(tmp_path, start_ns=T0, end_ns=T0 + 3600 * S))
    assert recomputed(rows) == streamed(records)
    assert rows.num_rows == len(records) * len(GPUS)
    known = {feature.name: rows[feature.name].null_count < rows.num_rows for feature in FEATURES}
    assert all(known.values()), known


@given(seed=st.integers(0, 10**6), seconds=st.integers(1, 140), chunk=st.integers(1, 90))
@settings(max_examples=15, deadline=None)
def test_chunks_and_order_of_rows_change_no_bit(seed: int, seconds: int, chunk: int) -> None:
    records = series(seconds, seed) or [telemetry(0, np.random.default_rng(seed))]
    table = rows_of(records)
    shuffled = table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recomputing, "CHUNK", chunk)
        assert recomputed(recompute(shuffled)) == streamed(records)


def rows_of(records: list[r.NodeTelemetry]) -> pa.Table:
    """Telemetry rows without an archive; tokens joined by hand."""
    batch = Batch(0, list(range(len(records))), [None] * len(records), records)
    tokens = [shares(record).get(uuid) for record in records for uuid in GPUS]
    return to_tables(r.NodeTelemetry, batch)["telemetry.node"].append_column("tokens", pa.array(tokens, pa.float64()))


def test_a_sample_that_was_archived_twice_counts_once() -> None:
    records = series(80, seed=3)
    once = rows_of(records)
    assert recompute(pa.concat_tables([once, once.slice(0, 90)])).equals(recompute(once))


def test_a_stretch_needs_the_minute_before_it(tmp_path: Path) -> None:
    records = series(200, seed=4)
    stored(tmp_path, records)
    start, end = T0 + 100 * S, T0 + 150 * S
    part = recompute(archived(tmp_path, start_ns=start, end_ns=end))
    whole = streamed(records)
    inside = {key: value for key, value in recomputed(part).items() if 100 <= key[1] <= 150}
    assert inside == {key: value for key, value in whole.items() if 100 <= key[1] <= 150}


def test_a_quantity_that_is_missing_is_unknown() -> None:
    rows = recompute(rows_of(series(80, seed=5)).select(["node", "boot_id", "seq", "uuid", "ts_ns", "power_w"]))
    assert rows["waste_w"].null_count == rows.num_rows
    assert rows["power_w_mean_60s"].null_count < rows.num_rows
    assert rows["emitted_ns"].equals(rows["ts_ns"])


def test_an_archive_without_engines_has_no_tokens(tmp_path: Path) -> None:
    plain = [
        r.NodeTelemetry(**{**{f: getattr(t, f) for f in t.__struct_fields__}, "engines": ()}) for t in series(70, 6)
    ]
    stored(tmp_path, plain)
    rows = recompute(archived(tmp_path, start_ns=T0, end_ns=T0 + 100 * S))
    assert rows["j_per_token_60s"].null_count == rows.num_rows


def test_no_rows_give_no_rows() -> None:
    assert recompute(rows_of(series(1, seed=7) or [telemetry(0, np.random.default_rng(7))]).slice(0, 0)).num_rows == 0


def test_refusals_name_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="lack boot_id, seq"):
        recompute(pa.table({"node": ["n"], "uuid": ["g"], "ts_ns": [1]}))
    with pytest.raises(NoFeatures, match="has no telemetry"):
        archived(tmp_path, start_ns=T0, end_ns=T0 + S)
