"""Decoded records of one partition to Arrow tables, column by column. Pure: no file, no clock, no Kafka.

A column is concatenated over all records and handed to Arrow once; node-level values are spread by index. No dictionary
is made per row. Measured shares stand in docs of the archive bench.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Final, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.contract import records as r
from streams.sinks import schemas as s

R = TypeVar("R", bound=r.Record)
Indices = npt.NDArray[np.int64]
Tables = dict[str, pa.Table]


@dataclass(frozen=True, slots=True)
class Batch:
    """Decoded records of one partition with their places; the three sequences are equally long."""

    partition: int
    offsets: Sequence[int]
    sent_ms: Sequence[int | None]
    records: Sequence[r.Record]

    def one(self, index: int) -> Batch:
        """The batch of one record, to find the one that cannot be stored."""
        cut = slice(index, index + 1)
        return Batch(self.partition, self.offsets[cut], self.sent_ms[cut], self.records[cut])


class _Columns:
    """Collects the columns of one dataset; `record` says for each row which record it came from."""

    def __init__(self, dataset: s.Dataset, batch: Batch, lengths: Sequence[int] | None) -> None:
        self.kinds = {name: kind for name, kind, _ in dataset.columns}
        self._dataset, self._batch, self._lengths = dataset, batch, lengths
        count = len(batch.records)
        self.record: Indices | None = None if lengths is None else np.repeat(np.arange(count), lengths)
        self.rows = count if self.record is None else len(self.record)
        self.arrays: dict[str, pa.Array] = {}

    def spread(self, name: str, values: Sequence[object]) -> None:
        """One value per record, repeated for each of its rows."""
        array = pa.array(values, self.kinds[name])
        self.arrays[name] = array if self.record is None else array.take(pa.array(self.record))

    def stack(self, name: str, parts: Sequence[Sequence[object] | None], kind: pa.DataType | None = None) -> None:
        """One sequence per record, laid end to end; a missing one is null for all its rows."""
        kind = kind or self.kinds[name]
        if all(part is None for part in parts):
            self.arrays[name] = pa.nulls(self.rows, kind)
            return
        lengths = self._lengths or ()
        filled = (part if part is not None else (None,) * n for part, n in zip(parts, lengths, strict=True))
        self.arrays[name] = pa.array(list(chain.from_iterable(filled)), kind)

    def fields(self, names: Iterable[str], parts: Sequence[object]) -> None:
        """Each named attribute of `parts` (one part per record), stacked."""
        for name in names:
            get = attrgetter(name)
            self.stack(name, [None if part is None else get(part) for part in parts])

    def attributes(self, names: Iterable[str]) -> None:
        """Each named attribute of the records, spread."""
        for name in names:
            self.spread(name, [getattr(record, name) for record in self._batch.records])

    def origin(self, ts_ns: Sequence[int]) -> None:
        """Time and place of the rows: ts, ts_ns, partition, offset, sent_ms."""
        stamps = pa.array(ts_ns, pa.int64())
        micros = pa.array(np.asarray(stamps) // 1000).cast(s.UTC_US)
        for name, array in (
            ("ts", micros),
            ("ts_ns", stamps),
            ("offset", pa.array(self._batch.offsets, pa.int64())),
            ("sent_ms", pa.array(self._batch.sent_ms, pa.int64())),
        ):
            self.arrays[name] = array if self.record is None else array.take(pa.array(self.record))
        self.arrays["partition"] = pa.array(np.full(self.rows, self._batch.partition, np.int32))

    def gpu_index(self) -> None:
        lengths = np.asarray(self._lengths, np.int64)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        self.arrays["gpu_index"] = pa.array((np.arange(self.rows) - starts).astype(np.int32))

    def table(self) -> pa.Table:
        """In the order of the schema; what was never given is null, what the schema does not name comes last."""
        names = [name for name, _, _ in self._dataset.columns]
        extra = [name for name in self.arrays if name not in self.kinds]
        arrays = [self.arrays.get(name, pa.nulls(self.rows, self.kinds.get(name))) for name in names]
        return pa.table([*arrays, *(self.arrays[name] for name in extra)], names=[*names, *extra])


_GPU_FIELDS: Final = tuple(name for name in r.GpuColumns.__struct_fields__)
_IDENTITY: Final = ("cluster", "node", "boot_id", "seq", "quality")


def _served(columns: _Columns, uuids: Sequence[Sequence[str]], engines: Sequence[tuple[r.EngineReading, ...]]) -> None:
    """engine, stack and workload of each GPU, from the engines in the same message."""
    found: list[r.EngineReading | None] = []
    for names, readings in zip(uuids, engines, strict=True):
        by_uuid = {uuid: reading for reading in readings for uuid in reading.gpu_uuid}
        found += [by_uuid.get(name) for name in names]
    for name in ("engine", "stack", "workload"):
        get = attrgetter(name)
        columns.arrays[name] = pa.array([None if reading is None else get(reading) for reading in found], s.TEXT)


def _telemetry(batch: Batch) -> Tables:
    tables = {s.HOST.name: _hosts(batch)}
    records = cast(Sequence[r.NodeTelemetry], batch.records)
    if any(record.gpu is not None and record.gpu.uuid for record in records):
        tables[s.TELEMETRY.name] = _gpus(batch)
    if any(record.engines for record in records):
        tables[s.ENGINE.name] = _engines(batch)
    for dataset, part, names in (
        (s.DOMAIN, "domains", {"name": "domain", "quality": "domain_quality"}),
        (s.SENSOR, "sensors", {"name": "sensor"}),
    ):
        if any(getattr(record, part) is not None for record in records):
            tables[dataset.name] = _named(batch, dataset, part, names)
    return tables


def _named(batch: Batch, dataset: s.Dataset, part: str, columns_of: dict[str, str]) -> pa.Table:
    """Rows of a columnar part that is keyed by `name`; `columns_of` names the columns that are called otherwise."""
    records = cast(Sequence[r.NodeTelemetry], batch.records)
    parts: list[r.DomainColumns | r.SensorColumns | None] = [getattr(record, part) for record in records]
    columns = _Columns(dataset, batch, [0 if one is None else len(one.name) for one in parts])
    columns.attributes(_IDENTITY)
    columns.origin([record.ts_ns for record in records])
    first = next(one for one in parts if one is not None)
    for field in first.__struct_fields__:
        columns.stack(columns_of.get(field, field), [None if one is None else getattr(one, field) for one in parts])
    return columns.table()


def _gpus(batch: Batch) -> pa.Table:
    records = cast(Sequence[r.NodeTelemetry], batch.records)
    uuids = [() if record.gpu is None else record.gpu.uuid for record in records]
    columns = _Columns(s.TELEMETRY, batch, [len(names) for names in uuids])
    columns.attributes(_IDENTITY)
    columns.origin([record.ts_ns for record in records])
    columns.fields(_GPU_FIELDS, [record.gpu for record in records])
    columns.gpu_index()
    _served(columns, uuids, [record.engines for record in records])
    return columns.table()


def _hosts(batch: Batch) -> pa.Table:
    records = cast(Sequence[r.NodeTelemetry], batch.records)
    columns = _Columns(s.HOST, batch, None)
    columns.attributes((*_IDENTITY, "source", "capability", "spool_depth", "lost_total"))
    columns.origin([record.ts_ns for record in records])
    columns.spread("gpus", [0 if record.gpu is None else len(record.gpu.uuid) for record in records])
    hosts = [record.host for record in records]
    for name in r.HostReading.__struct_fields__:
        if name != "cgroup":
            columns.spread(name, [None if host is None else getattr(host, name) for host in hosts])
    groups = [None if host is None else host.cgroup for host in hosts]
    columns.spread("cgroup_path", [None if group is None else group.path for group in groups])
    columns.spread("cgroup_cpu_us", [None if group is None else group.cpu_us for group in groups])
    return columns.table()


_ENGINE_FIELDS: Final = tuple(
    name for name in r.EngineReading.__struct_fields__ if name not in {"ts_ns", "ttft", "tbt", "e2e", "control"}
)


def _engines(batch: Batch) -> pa.Table:
    records = cast(Sequence[r.NodeTelemetry], batch.records)
    columns = _Columns(s.ENGINE, batch, [len(record.engines) for record in records])
    columns.attributes(_IDENTITY)
    columns.origin([record.ts_ns for record in records])
    engines = [engine for record in records for engine in record.engines]
    for name in _ENGINE_FIELDS:
        columns.arrays[name] = pa.array(list(map(attrgetter(name), engines)), columns.kinds[name])
    columns.arrays["engine_ts_ns"] = pa.array([engine.ts_ns for engine in engines], s.LONG)
    for kind in ("ttft", "tbt", "e2e"):
        _histograms(columns, kind, list(map(attrgetter(kind), engines)))
    controls = [engine.control for engine in engines]
    for field in r.EngineControl.__struct_fields__:
        values = [None if control is None else getattr(control, field) for control in controls]
        columns.arrays[f"control_{field}"] = pa.array(values, columns.kinds[f"control_{field}"])
    return columns.table()


def _histograms(columns: _Columns, kind: str, histograms: Sequence[r.Histogram | None]) -> None:
    """Scale, buckets, counts and sum of one kind; lists are laid end to end, since Arrow is slow on nested tuples."""
    missing = np.fromiter((histogram is None for histogram in histograms), bool, len(histograms))
    found = [histogram or _NO_HISTOGRAM for histogram in histograms]
    ends = np.concatenate(([0], np.cumsum([len(histogram.index) for histogram in found])))
    starts = pa.array(ends.astype(np.int32), mask=np.append(missing, False))
    for part, scalar in (("index", s.INT), ("count", s.LONG)):
        values = pa.array(list(chain.from_iterable(map(attrgetter(part), found))), scalar)
        columns.arrays[f"{kind}_{part}"] = pa.ListArray.from_arrays(starts, values)
    for part, scalar in (("scale", s.INT), ("sum_ms", s.FLOAT)):
        values = list(map(attrgetter(part), found))
        columns.arrays[f"{kind}_{part}"] = pa.array(np.asarray(values), scalar, mask=missing)


_NO_HISTOGRAM: Final = r.Histogram()


def _features(batch: Batch) -> Tables:
    records = cast(Sequence[r.NodeFeatures], batch.records)
    uuids = [record.uuid for record in records]
    columns = _Columns(s.FEATURES, batch, [len(names) for names in uuids])
    columns.attributes((*_IDENTITY, "emitted_ns"))
    columns.origin([record.window_end_ns for record in records])
    columns.fields(("uuid", "name"), records)
    columns.gpu_index()
    _served(columns, uuids, [record.engines for record in records])
    known = {name for name, _, _ in s.FEATURES.columns} - set(s.KNOWN_FEATURES)
    for name in dict.fromkeys(chain.from_iterable(record.features for record in records)):
        if name in known:
            raise ValueError(f"feature {name!r} has the name of an archive column; rename the feature")
        columns.stack(name, [record.features.get(name) for record in records], s.FLOAT)
    return {s.FEATURES.name: columns.table()}


def _anomaly(batch: Batch) -> Tables:
    records = cast(Sequence[r.AnomalyVerdict], batch.records)
    columns = _Columns(s.ANOMALY, batch, None)
    same = set(r.AnomalyVerdict.__struct_fields__) & {name for name, _, _ in s.ANOMALY.columns}
    columns.attributes(same - {"ts_ns", "evidence"})
    columns.origin([record.ts_ns for record in records])
    columns.spread("uuid", [record.gpu_uuid for record in records])
    columns.spread("name", [record.gpu_name for record in records])
    columns.spread("evidence", [list(record.evidence.items()) for record in records])
    return {s.ANOMALY.name: columns.table()}


_DESIRED_HEAD: Final = (
    *("cluster", "node", "epoch", "seq", "sample_ts_ns", "ttl_ms", "on_expiry", "mode", "strategy"),
    *("policy_version", "reason", "propensity", "cause", "key_id"),
)


def _desired(batch: Batch) -> Tables:
    records = cast(Sequence[r.PowerDesired], batch.records)
    columns = _Columns(s.DESIRED, batch, [len(record.gpu.uuid) for record in records])
    columns.attributes(_DESIRED_HEAD)
    columns.origin([record.issued_at_ns for record in records])
    parts = [record.gpu for record in records]
    columns.fields(("uuid", "min_sm_mhz", "max_sm_mhz", "max_power_w", "engine", "holdout"), parts)
    columns.stack("gpu_reason", [part.reason for part in parts])
    columns.gpu_index()
    for name in ("tbt_ms", "ttft_ms", "e2e_ms"):
        targets = [{target.engine: getattr(target, name) for target in record.targets} for record in records]
        bounds = [
            [found.get(engine or "") for engine in part.engine] for found, part in zip(targets, parts, strict=True)
        ]
        columns.stack(name.removesuffix("_ms") + "_target_ms", bounds)
    return {s.DESIRED.name: columns.table()}


def _applied(batch: Batch) -> Tables:
    records = cast(Sequence[r.PowerApplied], batch.records)
    columns = _Columns(s.APPLIED, batch, [len(record.gpu.uuid) for record in records])
    same = set(r.PowerApplied.__struct_fields__) & {name for name, _, _ in s.APPLIED.columns}
    columns.attributes(same - {"ts_ns"})
    columns.origin([record.ts_ns for record in records])
    columns.fields(r.AckColumns.__struct_fields__, [record.gpu for record in records])
    columns.gpu_index()
    return {s.APPLIED.name: columns.table()}


def _ledger(batch: Batch) -> Tables:
    records = cast(Sequence[r.LedgerEntry], batch.records)
    columns = _Columns(s.LEDGER, batch, None)
    same = set(r.LedgerEntry.__struct_fields__) & {name for name, _, _ in s.LEDGER.columns}
    columns.attributes(same)
    columns.origin([record.closed_ns for record in records])
    columns.spread("uuid", [record.gpu_uuid for record in records])
    return {s.LEDGER.name: columns.table()}


def _intent(batch: Batch) -> Tables:
    records = cast(Sequence[r.OperatorIntent], batch.records)
    columns = _Columns(s.INTENT, batch, None)
    same = set(r.OperatorIntent.__struct_fields__) & {name for name, _, _ in s.INTENT.columns}
    columns.attributes(same - {"ts_ns"})
    columns.origin([record.ts_ns for record in records])
    return {s.INTENT.name: columns.table()}


def _alert(batch: Batch) -> Tables:
    records = cast(Sequence[r.Alert], batch.records)
    columns = _Columns(s.ALERT, batch, None)
    same = set(r.Alert.__struct_fields__) & {name for name, _, _ in s.ALERT.columns}
    columns.attributes(same - {"ts_ns", "evidence", "labels"})
    columns.origin([record.ts_ns for record in records])
    columns.spread("uuid", [record.gpu_uuid for record in records])
    columns.spread("evidence", [list(record.evidence.items()) for record in records])
    columns.spread("labels", [list(record.labels.items()) for record in records])
    return {s.ALERT.name: columns.table()}


_CONVERTERS: Final[dict[type[r.Record], Callable[[Batch], Tables]]] = {
    r.NodeTelemetry: _telemetry,
    r.NodeFeatures: _features,
    r.AnomalyVerdict: _anomaly,
    r.PowerDesired: _desired,
    r.PowerApplied: _applied,
    r.LedgerEntry: _ledger,
    r.OperatorIntent: _intent,
    r.Alert: _alert,
}
# What Arrow raises for a value that fits the record but no column: an integer beyond 64 bits, a lone surrogate.
UNSTORABLE: Final = (ValueError, OverflowError, TypeError, pa.ArrowException)


def to_tables(record: type[r.Record], batch: Batch) -> Tables:
    """Tables by dataset name; a batch without rows for a dataset leaves it out.

    Raises:
        ValueError, OverflowError, TypeError, pyarrow.ArrowException: a value fits no column (`UNSTORABLE`).
    """
    if not batch.records:
        return {}
    return _CONVERTERS[record](batch)
