"""Stand-ins that the tests of the jobs share: a publisher and a state store that remember, records, a context."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from streams.contract import codec
from streams.contract.dlq import DeadLetter
from streams.contract.histogram import bucket
from streams.contract.layout import Layout
from streams.contract.records import (
    AckColumns,
    EngineReading,
    Histogram,
    JobState,
    NodeFeatures,
    PowerApplied,
    PowerDesired,
    Record,
)
from streams.jobs.base import JobContext
from streams.publisher import Receipt
from streams.settings import WorkerSettings

STACK = "model/bf16/twin/h100x4"
H100 = "NVIDIA H100 80GB HBM3"
T0_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Message:
    """A consumed record."""

    offset: int
    value: bytes | None
    key: bytes | None = b"n1"
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = 0


@dataclass
class FakePublisher:
    sent: list[tuple[Record, str]] = field(default_factory=list)
    dead: list[tuple[DeadLetter, bytes | None, bytes | None]] = field(default_factory=list)
    flushed: int = 0
    taken: bool = True  # False: the broker acknowledges nothing

    def send(self, record: Record, key: str, *, source: str, traceparent: str | None = None) -> None:
        self.sent.append((record, key))

    def dead_letter(self, dead: DeadLetter, key: bytes | None, value: bytes | None) -> None:
        self.dead.append((dead, key, value))

    @property
    def dead_letters(self) -> int:
        return len(self.dead)

    def seal(self) -> Receipt:
        receipt = Receipt()
        receipt.sealed = True
        if not self.taken:
            receipt.expect()
        return receipt

    def flush(self, timeout_s: float) -> int:
        self.flushed += 1
        return 0 if self.taken else 1

    def of(self, kind: type[Record]) -> list[Any]:
        return [record for record, _ in self.sent if isinstance(record, kind)]


class FakeState:
    """Keeps snapshots as the topic would: encoded."""

    def __init__(self) -> None:
        self.saved: dict[tuple[str, int], JobState] = {}
        self.always_due = False

    def due(self, job: str, partition: int) -> bool:
        return self.always_due

    def save(self, job: str, partition: int, data: object, offsets: Mapping[str, int], version: int = 1) -> None:
        raw = msgspec.Raw(msgspec.json.encode(data))
        self.saved[job, partition] = JobState(
            job=job, partition=partition, ts_ns=0, offsets=dict(offsets), data=raw, data_version=version
        )

    def load(self, job: str, partition: int) -> JobState | None:
        return self.saved.get((job, partition))


@dataclass
class Clock:
    """Wall and monotonic time that tests move."""

    now_s: float = 1000.0

    def wall_ns(self) -> int:
        return T0_NS + int(self.now_s * 1e9)

    def monotonic(self) -> float:
        return self.now_s


def context(folder: Path, clock: Clock, *, state: FakeState | None = None, **settings: Any) -> JobContext:
    """A context on stand-ins; `publisher` and `state` are the fakes."""
    chosen = WorkerSettings(cluster="c1", bootstrap="127.0.0.1:1", data_dir=folder, **settings)
    return JobContext(
        settings=chosen,
        publisher=FakePublisher(),  # type: ignore[arg-type]  # a stand-in
        state=state or FakeState(),  # type: ignore[arg-type]  # a stand-in
        layout=Layout(folder),
        wall_ns=clock.wall_ns,
        monotonic=clock.monotonic,
        log=logging.getLogger("tests.jobs"),
    )


def messages(records: Iterable[Record | bytes], first: int = 0) -> list[Message]:
    """Records (or raw bytes) as consecutive messages."""
    values = [r if isinstance(r, bytes) else codec.encode(r) for r in records]
    keys = [getattr(r, "node", "n1").encode() if not isinstance(r, bytes) else b"n1" for r in records]
    return [Message(first + i, value, key) for i, (value, key) in enumerate(zip(values, keys, strict=True))]


def histogram(values_ms: Mapping[float, int]) -> Histogram:
    """Counts by value in milliseconds."""
    pairs = sorted((bucket(value), count) for value, count in values_ms.items())
    total = sum(value * count for value, count in values_ms.items())
    return Histogram(index=tuple(i for i, _ in pairs), count=tuple(c for _, c in pairs), sum_ms=total)


def engine(
    name: str, uuids: Sequence[str], *, tbt_ms: float = 30.0, count: int = 1000, ts_ns: int = 0
) -> EngineReading:
    """An engine whose gaps between tokens were all `tbt_ms`; first token in 10 of them, requests in 100."""
    return EngineReading(
        engine=name,
        kind="twin",
        stack=STACK,
        workload="chat",
        gpu_uuid=tuple(uuids),
        ts_ns=ts_ns,
        running=8,
        waiting=0,
        tbt=histogram({tbt_ms: count}),
        ttft=histogram({tbt_ms * 10: count}),
        e2e=histogram({tbt_ms * 100: count}),
    )


def features(
    node: str,
    seq: int,
    *,
    ts_ns: int,
    gpus: int = 8,
    power_w: float = 400.0,
    tbt_ms: Mapping[str, float] | None = None,
    engines: bool = True,
    count: int = 1000,
    **more: float,
) -> NodeFeatures:
    """A node of `gpus` GPUs, four to an engine; `tbt_ms` by engine name, `more` = constant features."""
    uuids = [f"GPU-{node}-{i}" for i in range(gpus)]
    names = [f"{node}-e{k}" for k in range(gpus // 4)] if engines else []
    readings = tuple(
        engine(name, uuids[4 * k : 4 * k + 4], tbt_ms=(tbt_ms or {}).get(name, 30.0), count=count, ts_ns=ts_ns)
        for k, name in enumerate(names)
    )
    columns = {"power_w_last": power_w, "power_w_mean_60s": power_w, **more}
    return NodeFeatures(
        cluster="c1",
        node=node,
        boot_id="b1",
        seq=seq,
        window_end_ns=ts_ns,
        emitted_ns=ts_ns,
        quality="simulated",
        uuid=tuple(uuids),
        features={name: (value,) * gpus for name, value in columns.items()},
        name=(H100,) * gpus,
        engines=readings,
    )


def ack(
    command: PowerDesired, *, ts_ns: int, status: str = "applied", event: str = "command", reason: str = "", **more: Any
) -> PowerApplied:
    """A node's answer to a command: everything granted is in force."""
    n = len(command.gpu.uuid)
    columns = AckColumns(
        uuid=command.gpu.uuid,
        status=(status,) * n,  # type: ignore[arg-type]  # a literal by the caller's word
        reason=(reason,) * n,
        requested_limit_w=command.gpu.max_power_w,
        effective_limit_w=command.gpu.max_power_w,
        previous_limit_w=(700.0,) * n,
        requested_sm_mhz=(None,) * n,
        effective_sm_mhz=(None,) * n,
        measured_w=(350.0,) * n,
    )
    base = PowerApplied(
        cluster=command.cluster,
        node=command.node,
        ts_ns=ts_ns,
        event=event,  # type: ignore[arg-type]  # a literal by the caller's word
        epoch=command.epoch,
        seq=command.seq,
        gpu=columns,
        quality="simulated",
        capper_id="capper-1",
        issued_at_ns=command.issued_at_ns,
        sample_ts_ns=command.sample_ts_ns,
    )
    return msgspec.structs.replace(base, **more)


def moved(clock: Clock, seconds: float) -> Clock:
    """The same clock, later."""
    clock.now_s += seconds
    return replace(clock)
