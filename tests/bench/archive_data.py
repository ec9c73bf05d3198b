"""Writes a large archive as compaction leaves it: one file per dataset, hour and partition, from numpy columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.sinks import parquet, schemas

STACK = "llama-3.1-70b/bf16/twin/h100x4"


@dataclass(frozen=True, slots=True)
class Size:
    """How large: nodes x gpus at 1 Hz for hours, commands every `every_s`."""

    nodes: int = 100
    gpus: int = 8
    hours: int = 24
    partitions: int = 4
    every_s: int = 5
    start_hour: int = 489_000  # hours since 1970


class Hour:
    """One hour of one partition: rows in the order second, node, GPU."""

    def __init__(self, size: Size, hour: int, partition: int, rng: np.random.Generator) -> None:
        self.size, self.hour, self.partition, self.rng = size, hour, partition, rng
        self.nodes = np.arange(partition, size.nodes, size.partitions)

    def table(self, dataset: schemas.Dataset, seconds: npt.NDArray[np.int64], per_node: int) -> dict[str, pa.Array]:
        """The columns that every dataset has; rows = seconds x nodes x per_node."""
        count = len(self.nodes) * per_node
        rows = len(seconds) * count
        self.second = np.repeat(seconds, count)
        self.node = np.tile(np.repeat(self.nodes, per_node), len(seconds))
        self.member = np.tile(np.arange(per_node), rows // per_node)
        start = (self.size.start_hour + self.hour) * parquet.HOUR_NS
        ts_ns = start + self.second * 1_000_000_000 + self.node * 1_000_000
        record = np.arange(rows) // per_node
        offset = self.hour * 3600 * len(self.nodes) + record
        return {
            "cluster": constant("bench", rows),
            "node": pick([f"node-{i:04}" for i in range(self.size.nodes)], self.node),
            "ts": pa.array(ts_ns // 1000).cast(schemas.UTC_US),
            "ts_ns": pa.array(ts_ns),
            "quality": constant("simulated", rows),
            "boot_id": constant("boot-1", rows),
            "seq": pa.array(self.hour * 3600 + self.second),
            "partition": pa.array(np.full(rows, self.partition, np.int32)),
            "offset": pa.array(offset),
            "sent_ms": pa.array(ts_ns // 1_000_000 + self.rng.integers(1, 40, rows)),
        }

    def gpu(self, columns: dict[str, pa.Array]) -> None:
        gpu = self.node * self.size.gpus + self.member
        engine = gpu // 4
        columns |= {
            "uuid": pick([f"GPU-{i:05}" for i in range(self.size.nodes * self.size.gpus)], gpu),
            "gpu_index": pa.array(self.member.astype(np.int32)),
            "name": constant("NVIDIA H100 80GB HBM3", len(gpu)),
            "engine": pick([f"engine-{i:04}" for i in range(self.size.nodes * self.size.gpus // 4)], engine),
            "stack": constant(STACK, len(gpu)),
            "workload": constant("llm-conversation", len(gpu)),
        }

    def power(self) -> npt.NDArray[np.float64]:
        busy = 0.5 + 0.4 * np.sin((self.hour * 3600 + self.second) / 6000 + self.node // 1)
        return np.round(120 + 450 * busy + self.rng.normal(0, 15, len(busy)), 1)


def constant(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [text])


def pick(names: list[str], index: npt.NDArray[np.int64]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), names)


def _complete(dataset: schemas.Dataset, columns: dict[str, pa.Array]) -> pa.Table:
    rows = len(columns["ts"])
    arrays = [columns.get(name, pa.nulls(rows, kind)) for name, kind, _ in dataset.columns]
    return pa.table(arrays, schema=dataset.schema)


def telemetry(hour: Hour) -> pa.Table:
    """Every GPU and second."""
    rng, size = hour.rng, hour.size
    columns = hour.table(schemas.TELEMETRY, np.arange(3600), size.gpus)
    hour.gpu(columns)
    power, rows = hour.power(), len(hour.second)
    since_start = hour.hour * 3600 + hour.second
    locked = (hour.node * size.gpus + hour.member) // 4 % 7 != 0
    columns |= {
        "state": constant("ok", rows),
        "power_w": pa.array(power),
        "energy_mj": pa.array((since_start * 345_000 + power * 100).astype(np.int64)),
        "limit_w": pa.array(np.full(rows, 700.0)),
        "limit_default_w": pa.array(np.full(rows, 700.0)),
        "limit_min_w": pa.array(np.full(rows, 200.0)),
        "limit_max_w": pa.array(np.full(rows, 700.0)),
        "sm_mhz": pa.array(rng.integers(80, 132, rows) * 15),
        "sm_max_mhz": pa.array(np.full(rows, 1980)),
        "sm_lock_mhz": pa.array(np.full(rows, 1500), mask=~locked),
        "util_ratio": pa.array(np.round(np.clip((power - 150) / 450, 0, 1), 2)),
        "temp_c": pa.array(np.round(35 + power / 15)),
        "throttle": pa.array(np.where(rng.random(rows) < 0.02, 4, 0)),
    }
    return _complete(schemas.TELEMETRY, columns)


def features(hour: Hour) -> pa.Table:
    """Every GPU and second."""
    columns = hour.table(schemas.FEATURES, np.arange(3600), hour.size.gpus)
    hour.gpu(columns)
    power = hour.power()
    columns |= {
        "emitted_ns": pa.array(np.asarray(columns["ts_ns"]) + 80_000_000),
        "power_w_mean_60s": pa.array(np.round(power, 0)),
        "power_w_last": pa.array(power),
        "energy_j_delta": pa.array(power),
        "waste_w": pa.array(np.maximum(0, 200 - power)),
        "j_per_token_60s": pa.array(np.round(power / 300, 3)),
        "util_ratio_mean_60s": pa.array(np.round(power / 700, 2)),
        "temp_slope_c_per_min": pa.array(np.round(hour.rng.normal(0, 1, len(power)), 1)),
    }
    return _complete(schemas.FEATURES, columns)


def hosts(hour: Hour) -> pa.Table:
    """Every node and second."""
    columns = hour.table(schemas.HOST, np.arange(3600), 1)
    columns["gpus"] = pa.array(np.full(len(hour.second), hour.size.gpus, np.int32))
    columns["lost_total"] = pa.array(np.zeros(len(hour.second), np.int64))
    return _complete(schemas.HOST, columns)


def engines(hour: Hour) -> pa.Table:
    """Every engine and second, with histograms of some buckets."""
    each = hour.size.gpus // 4
    columns = hour.table(schemas.ENGINE, np.arange(3600), each)
    rows = len(hour.second)
    engine = hour.node * each + hour.member
    uuids = [[f"GPU-{i * 4 + k:05}" for k in range(4)] for i in range(hour.size.nodes * each)]
    columns |= {
        "engine": pick([f"engine-{i:04}" for i in range(hour.size.nodes * each)], engine),
        "stack": constant(STACK, rows),
        "workload": constant("llm-conversation", rows),
        "kind": constant("twin", rows),
        "gpu_uuid": pa.array(uuids).take(pa.array(engine)),
        "running": pa.array(hour.rng.integers(0, 64, rows)),
        "generation_tokens_total": pa.array((hour.hour * 3600 + hour.second) * 900),
        "requests_total": pa.array((hour.hour * 3600 + hour.second) * 3),
    }
    for kind, buckets, base in (("tbt", 8, 160), ("ttft", 2, 280), ("e2e", 2, 420)):
        columns |= _histogram(hour, kind, buckets, base=base)
    return _complete(schemas.ENGINE, columns)


def _histogram(hour: Hour, kind: str, buckets: int, *, base: int) -> dict[str, pa.Array]:
    rows = len(hour.second)
    starts = pa.array(np.arange(0, (rows + 1) * buckets, buckets, dtype=np.int32))
    index = (base + hour.rng.integers(0, 20, rows)[:, None] + np.arange(buckets)).astype(np.int32).ravel()
    count = hour.rng.integers(1, 40, rows * buckets)
    return {
        f"{kind}_scale": pa.array(np.full(rows, 5, np.int32)),
        f"{kind}_index": pa.ListArray.from_arrays(starts, pa.array(index)),
        f"{kind}_count": pa.ListArray.from_arrays(starts, pa.array(count)),
        f"{kind}_sum_ms": pa.array(np.full(rows, 1000.0)),
    }


def _command(hour: Hour, dataset: schemas.Dataset) -> dict[str, pa.Array]:
    columns = hour.table(dataset, np.arange(0, 3600, hour.size.every_s), hour.size.gpus)
    gpu, rows = hour.node * hour.size.gpus + hour.member, len(hour.second)
    ts_ns = np.asarray(columns["ts_ns"])
    columns |= {
        "uuid": pick([f"GPU-{i:05}" for i in range(hour.size.nodes * hour.size.gpus)], gpu),
        "gpu_index": pa.array(hour.member.astype(np.int32)),
        "engine": pick([f"engine-{i:04}" for i in range(hour.size.nodes * hour.size.gpus // 4)], gpu // 4),
        "epoch": pa.array(np.full(rows, 1)),
        "seq": pa.array((hour.hour * 3600 + hour.second) // hour.size.every_s),
        "mode": constant("on", rows),
        "strategy": constant("balanced", rows),
        "sample_ts_ns": pa.array(ts_ns - hour.rng.integers(100, 300, rows) * 1_000_000),
        "issued_at_ns": pa.array(ts_ns - 50_000_000),
        "holdout": pa.array(gpu // 4 % 7 == 0),
        "max_sm_mhz": pa.array(np.where(gpu // 4 % 7 == 0, 0, 1500), mask=gpu // 4 % 7 == 0),
        "reason": constant("lowest clock that keeps the bound", rows),
        "propensity": pa.array(np.full(rows, 1.0)),
    }
    return columns


def desired(hour: Hour) -> pa.Table:
    return _complete(schemas.DESIRED, _command(hour, schemas.DESIRED))


def applied(hour: Hour) -> pa.Table:
    """An acknowledgement of every command."""
    columns = _command(hour, schemas.APPLIED)
    rows = len(hour.second)
    columns |= {
        "event": constant("command", rows),
        "status": pick(["applied", "refused", "restored"], hour.rng.choice(3, rows, p=[0.98, 0.015, 0.005])),
        "requested_sm_mhz": columns["max_sm_mhz"],  # a null asked for nothing: that GPU was not controlled
        "capper_id": constant("capper-1", rows),
        "ack_seq": columns["seq"],
        "latency_ms": pa.array(hour.rng.gamma(2, 5, rows)),
    }
    return _complete(schemas.APPLIED, columns)


def ledger(hour: Hour) -> pa.Table:
    """The effect of every command."""
    columns = _command(hour, schemas.LEDGER)
    rows = len(hour.second)
    columns |= {
        "status": pick(["applied", "refused"], hour.rng.choice(2, rows, p=[0.98, 0.02])),
        "acked_ns": columns["ts_ns"],
        "closed_ns": columns["ts_ns"],
        "effect_w": pa.array(hour.rng.normal(-40, 20, rows)),
        "loop_ms": pa.array(hour.rng.gamma(4, 40, rows)),
    }
    return _complete(schemas.LEDGER, columns)


MAKERS = {
    "telemetry.node": telemetry,
    "features.gpu": features,
    "host.reading": hosts,
    "engine.reading": engines,
    "power.desired": desired,
    "power.applied": applied,
    "ledger.command": ledger,
}


def build(archive: Path, size: Size) -> dict[str, int]:
    """Writes the archive and returns rows by dataset."""
    counts: dict[str, int] = {}
    for hour in range(size.hours):
        for partition in range(size.partitions):
            for name, make in MAKERS.items():
                rng = np.random.default_rng([hour, partition, len(name)])
                table = make(Hour(size, hour, partition, rng))
                parquet.write(archive, name, size.start_hour + hour, partition=partition, table=table)
                counts[name] = counts.get(name, 0) + table.num_rows
    return counts
