"""A small archive whose answers are known by counting: two nodes, three engines, three minutes over two hours.

Controlled GPUs draw 300 W, hold-out GPUs 400 W, a GPU without an engine idles at 100 W. Every engine generates 100
tokens a second. Named faults: `torn` cuts a file's tail off, `empty` makes it zero bytes long, `scrambled` keeps the
footer and spoils the pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streams.contract import codec
from streams.contract import records as r
from streams.contract.topics import topic_of
from streams.sinks import parquet, rows

START_NS = 1_736_938_710_000_000_000  # 2025-01-15 10:58:30 UTC: 90 s before an hour ends
SECONDS = 180
CLUSTER = "test"
STACK = "llama-3.1-70b/bf16/twin/h100x4"
CONTROLLED, HOLDOUT, IDLE = 300.0, 400.0, 100.0
NODES = {
    # node -> (engine, GPUs, hold-out, watts)
    "node-a": (("eng-1", ("GPU-a0", "GPU-a1"), False, CONTROLLED), ("eng-2", ("GPU-a2", "GPU-a3"), False, CONTROLLED)),
    "node-b": (("eng-3", ("GPU-b0", "GPU-b1"), True, HOLDOUT), (None, ("GPU-b2",), False, IDLE)),
}
TBT = {"eng-1": (100, 10), "eng-2": (100, 10), "eng-3": (90, 10)}  # bucket, tokens per second in it
VERDICT = "verdict-1"


@dataclass(frozen=True, slots=True)
class Message:
    """A Kafka message as a job sees it."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int = 0


def message(record: r.Record, offset: int, *, delay_ms: int = 20) -> Message:
    """The record on the broker, `delay_ms` after its own time."""
    ns = getattr(record, "ts_ns", None) or getattr(record, "window_end_ns", None) or START_NS
    node = getattr(record, "node", "")
    return Message(offset, codec.encode(record), str(node).encode(), int(ns) // 1_000_000 + delay_ms)


def telemetry(node: str, second: int, *, boot_id: str = "boot-1", seq: int | None = None) -> r.NodeTelemetry:
    """One second of a node."""
    groups = NODES[node]
    uuids = [uuid for _, gpus, _, _ in groups for uuid in gpus]
    watts = [power for _, gpus, _, power in groups for _ in gpus]
    locks = [1200 if power == CONTROLLED else None for power in watts]
    ts_ns = START_NS + second * 1_000_000_000
    return r.NodeTelemetry(
        cluster=CLUSTER,
        node=node,
        boot_id=boot_id,
        seq=second if seq is None else seq,
        ts_ns=ts_ns,
        source=("twin",),
        quality="simulated",
        spool_depth=1,
        lost_total=0,
        gpu=r.GpuColumns(
            uuid=tuple(uuids),
            name=("NVIDIA H100 80GB HBM3",) * len(uuids),
            state=("ok",) * len(uuids),
            power_w=tuple(watts),
            energy_mj=tuple(int(second * power * 1000) for power in watts),
            limit_w=tuple(600.0 if power == CONTROLLED else 700.0 for power in watts),
            limit_default_w=(700.0,) * len(uuids),
            sm_mhz=tuple(1200 if lock else 1980 for lock in locks),
            sm_lock_mhz=tuple(locks),
            util_ratio=tuple(0.0 if power == IDLE else 0.9 for power in watts),
            temp_c=(60.0,) * len(uuids),
            throttle=tuple(4 if power == CONTROLLED and second % 2 else 0 for power in watts),
        ),
        host=r.HostReading(cpu_util_ratio=0.1, cgroup=r.CgroupColumns(path=("/a",), cpu_us=(second,))),
        domains=_domains(second),
        sensors=r.SensorColumns(name=("fan-1",), kind=("fan",), unit=("rpm",), source=("twin",), value=(4000.0,)),
        engines=tuple(_engine(name, gpus, second, ts_ns) for name, gpus, _, _ in groups if name is not None),
    )


def _domains(second: int) -> r.DomainColumns:
    return r.DomainColumns(
        name=("chassis", "package-0"),
        kind=("chassis", "cpu_package"),
        source=("twin", "twin"),
        quality=("simulated", "simulated"),
        parent=(None, "chassis"),
        power_w=(2000.0, 150.0),
        energy_mj=(None, second * 150_000),
    )


def _engine(name: str, gpus: tuple[str, ...], second: int, ts_ns: int) -> r.EngineReading:
    bucket, tokens = TBT[name]
    histogram = r.Histogram(index=(bucket,), count=(tokens,), sum_ms=100.0)
    return r.EngineReading(
        engine=name,
        kind="twin",
        stack=STACK,
        workload="llm-conversation",
        gpu_uuid=gpus,
        ts_ns=ts_ns,
        running=8,
        waiting=0,
        generation_tokens_total=second * 100,
        requests_total=second,
        tbt=histogram,
        ttft=histogram,
        e2e=histogram,
    )


def features(node: str, second: int) -> r.NodeFeatures:
    """The features of that second."""
    seen = telemetry(node, second)
    if seen.gpu is None or seen.gpu.power_w is None:
        raise ValueError("the fake's telemetry always has power")
    return r.NodeFeatures(
        cluster=CLUSTER,
        node=node,
        boot_id=seen.boot_id,
        seq=second,
        window_end_ns=seen.ts_ns,
        emitted_ns=seen.ts_ns + 50_000_000,
        quality="simulated",
        uuid=seen.gpu.uuid,
        features={
            "power_w_mean_60s": seen.gpu.power_w,
            "energy_j_delta": (None,) * len(seen.gpu.uuid) if second == 0 else seen.gpu.power_w,
            "waste_w": tuple(float(second) for _ in seen.gpu.uuid),
        },
        engines=seen.engines,
    )


def desired(node: str, second: int, *, cause: tuple[str, ...] = ()) -> r.PowerDesired:
    """The envelope of that second."""
    groups = [(uuid, name, holdout) for name, gpus, holdout, _ in NODES[node] for uuid in gpus]
    ts_ns = START_NS + second * 1_000_000_000
    return r.PowerDesired(
        cluster=CLUSTER,
        node=node,
        epoch=1,
        seq=second,
        issued_at_ns=ts_ns,
        sample_ts_ns=ts_ns - 100_000_000,
        ttl_ms=15_000,
        on_expiry="restore",
        mode="on",
        strategy="balanced",
        policy_version="1",
        reason="keep the bound",
        cause=cause,
        targets=tuple(r.LatencyTarget(engine=name, tbt_ms=50.0) for _, name, _ in groups[:1] if name),
        gpu=r.EnvelopeColumns(
            uuid=tuple(uuid for uuid, _, _ in groups),
            min_sm_mhz=tuple(None if holdout else 600 for _, _, holdout in groups),
            max_sm_mhz=tuple(None if holdout else 1200 for _, _, holdout in groups),
            max_power_w=tuple(None if holdout else 600.0 for _, _, holdout in groups),
            engine=tuple(name for _, name, _ in groups),
            holdout=tuple(holdout for _, _, holdout in groups),
            reason=tuple("hold-out" if holdout else "granted" for _, _, holdout in groups),
        ),
    )


def applied(node: str, second: int, *, event: str = "command") -> r.PowerApplied:
    """The answer to that envelope, 200 ms after the sample behind it; the idle GPU refuses."""
    asked = desired(node, second)
    status: dict[bool, Literal["applied", "restored"]] = {True: "applied", False: "restored"}
    kinds = tuple("refused" if uuid == "GPU-b2" else status[event == "command"] for uuid in asked.gpu.uuid)
    count = len(kinds)
    return r.PowerApplied(
        cluster=CLUSTER,
        node=node,
        ts_ns=asked.sample_ts_ns + 200_000_000,
        event=event,  # type: ignore[arg-type]  # one of the record's literals
        epoch=1,
        seq=second,
        ack_seq=second,
        capper_id=f"capper-{node}",
        issued_at_ns=asked.issued_at_ns,
        sample_ts_ns=asked.sample_ts_ns,
        received_ns=asked.issued_at_ns + 50_000_000,
        latency_ms=50.0,
        actuator="twin",
        mode="on",
        strategy="balanced",
        quality="simulated",
        gpu=r.AckColumns(
            uuid=asked.gpu.uuid,
            status=kinds,
            reason=tuple("rate: 1 change per 5 s" if kind == "refused" else "" for kind in kinds),
            requested_limit_w=asked.gpu.max_power_w,
            effective_limit_w=(700.0 if event != "command" else 600.0,) * count,
            previous_limit_w=(700.0,) * count,
            requested_sm_mhz=asked.gpu.max_sm_mhz,
            effective_sm_mhz=(None if event != "command" else 1200,) * count,
            measured_w=(300.0,) * count,
        ),
    )


def ledger(node: str, uuid: str, second: int, *, effect_w: float | None) -> r.LedgerEntry:
    """A closed command."""
    ts_ns = START_NS + second * 1_000_000_000
    return r.LedgerEntry(
        cluster=CLUSTER,
        node=node,
        gpu_uuid=uuid,
        epoch=1,
        seq=second,
        issued_at_ns=ts_ns,
        acked_ns=ts_ns + 200_000_000,
        closed_ns=ts_ns + 10_000_000_000,
        status="applied",
        status_reason="",
        mode="on",
        strategy="balanced",
        reason="granted",
        cause=(VERDICT,),
        holdout=False,
        requested_limit_w=600.0,
        effective_limit_w=600.0,
        previous_limit_w=700.0,
        max_sm_mhz=1200,
        effective_sm_mhz=1200,
        power_before_w=None if effect_w is None else 400.0,
        power_after_w=None if effect_w is None else 400.0 + effect_w,
        effect_w=effect_w,
        tbt_p99_before_ms=10.0,
        tbt_p99_after_ms=11.0,
        loop_ms=200.0,
        quality="simulated",
    )


def verdict(uuid: str = "GPU-a0", second: int = 60) -> r.AnomalyVerdict:
    """A verdict that an envelope names as its cause."""
    ts_ns = START_NS + second * 1_000_000_000
    return r.AnomalyVerdict(
        cluster=CLUSTER,
        node="node-a",
        verdict_id=VERDICT,
        ts_ns=ts_ns,
        gpu_uuid=uuid,
        metric="power_w",
        score=7.5,
        threshold=6.0,
        model="robust_z",
        model_version="1",
        action="freeze",
        quality="simulated",
        window_start_ns=ts_ns - 60_000_000_000,
        window_end_ns=ts_ns,
        evidence={"power_w": 480.0, "median_w": 300.0},
    )


def intent() -> r.OperatorIntent:
    return r.OperatorIntent(
        cluster=CLUSTER,
        scope="cluster",
        intent_id="intent-1",
        ts_ns=START_NS,
        actor="ops",
        kind="pause",
        reason="maintenance",
    )


def alert() -> r.Alert:
    return r.Alert(
        cluster=CLUSTER,
        node="node-a",
        alert_id="alert-1",
        rule="lag",
        severity="warning",
        state="firing",
        ts_ns=START_NS,
        summary="3 s behind",
        evidence={"lag_s": 3.0},
        runbook="docs/troubleshooting.md",
    )


def all_records(*, missing: frozenset[int] = frozenset()) -> list[r.Record]:
    """Everything that happened, in order; `missing` = seconds in which node-a's messages were lost."""
    out: list[r.Record] = [intent(), alert()]
    for second in range(SECONDS):
        out += [telemetry(node, second) for node in NODES if not (node == "node-a" and second in missing)]
        out += [features(node, second) for node in NODES]
        if second % 5 == 0:
            cause = (VERDICT,) if second == 65 else ()
            out += [desired(node, second, cause=cause if node == "node-a" else ()) for node in NODES]
            out += [applied(node, second) for node in NODES]
    out += [verdict(), ledger("node-a", "GPU-a0", 60, effect_w=-100.0), ledger("node-a", "GPU-a1", 60, effect_w=None)]
    out.append(applied("node-a", SECONDS - 1, event="restore"))
    return out


def write(archive: Path, records: Sequence[r.Record]) -> None:
    """Writes records as the archive job would: one partition, offsets per topic."""
    by_type: dict[type[r.Record], list[r.Record]] = {}
    for record in records:
        by_type.setdefault(type(record), []).append(record)
    for kind, members in by_type.items():
        sent = [message(record, offset).timestamp for offset, record in enumerate(members)]
        batch = rows.Batch(0, range(len(members)), sent, members)
        for dataset, table in rows.to_tables(kind, batch).items():
            for hour, part in parquet.by_hour(table):
                parquet.write(archive, dataset, hour, partition=0, table=part)


def build(archive: Path, *, missing: frozenset[int] = frozenset()) -> Path:
    """The whole small archive; returns its folder."""
    write(archive, all_records(missing=missing))
    return archive


def spoil(path: Path, fault: Literal["torn", "empty", "scrambled"]) -> None:
    """Makes a Parquet file unreadable in a named way."""
    raw = path.read_bytes()
    if fault == "torn":
        path.write_bytes(raw[: len(raw) // 2])
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        footer = int.from_bytes(raw[-8:-4], "little") + 8
        path.write_bytes(raw[:4] + b"\xff" * (len(raw) - footer - 4) + raw[-footer:])


def topic_name(record: r.Record) -> str:
    return topic_of(type(record)).name
