"""A gateway on stand-ins: records in, answers out, with a clock that tests move and words that are kept, not sent.

Four nodes with two engines of four GPUs each; node-3 is the hold-out; GPU-0-7 has unknown power.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from agents.cli.jobs import JobLook
from agents.cli.placement import Place, Placement
from agents.gateway.context import Context
from agents.gateway.main import build_app, make_context
from agents.gateway.plans import PlanDoor
from agents.gateway.settings import GatewaySettings
from models.control.profiles import TWIN_STACK
from streams.contract import codec
from streams.contract import records as r
from streams.contract.histogram import bucket
from streams.contract.topics import topic_of
from streams.jobs.registry import JOBS

CLUSTER = "test"
NODES, GPUS, SPAN = 4, 8, 4
T0_NS = 1_790_000_000_000_000_000
SECOND = 1_000_000_000
H100 = "NVIDIA H100 80GB HBM3"
HOLDOUT = "node-3"
P99_MS = {"tbt": 45.0, "ttft": 650.0, "e2e": 14_000.0}
WATTS = {"controlled": 440.0, "hold-out": 470.0}


def job_look(job: str, **facts: Any) -> JobLook:
    """A look at a job that does well, unless told otherwise."""
    return JobLook(job, f"eo-{CLUSTER}-{job}", **{"members": 1, "lag_records": 0, "overdue_records": 0, **facts})


class NoReader:
    """A feed without a broker: the test folds records itself."""

    missing: tuple[str, ...] = ()

    def poll(self, state: object, timeout_s: float, most: int = 0) -> int:
        return 0

    def close(self) -> None:
        return None


@dataclass
class Clock:
    """Wall and monotonic time that tests move."""

    seconds: float = 0.0

    def wall_ns(self) -> int:
        return T0_NS + int(self.seconds * SECOND)

    def monotonic(self) -> float:
        return 1000.0 + self.seconds


@dataclass
class Rig:
    """One gateway and everything that went out of it."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    sent: list[r.OperatorIntent] = field(default_factory=list)
    publish_error: Exception | None = None
    known_caps: dict[str, int] = field(default_factory=dict)  # scope -> time of the newest word on its cap
    places: dict[str, Placement] = field(default_factory=dict)
    looks: list[JobLook] | None = None  # of the jobs; None = every one does well

    def __post_init__(self) -> None:
        chosen = GatewaySettings(
            **{"data_dir": self.folder, "cluster": CLUSTER, "write_rate_per_s": 1e5, **self.settings}
        )
        self.context: Context = make_context(
            chosen,
            open_reader=lambda *_: NoReader(),
            publish=self._publish,
            known_caps=lambda: self.known_caps,
            look_at_jobs=lambda: [job_look(job) for job in JOBS] if self.looks is None else self.looks,
            look_at_places=lambda: dict(self.places),
            wall_ns=self.clock.wall_ns,
            monotonic=self.clock.monotonic,
        )
        self.context.plans = PlanDoor(lambda _: [], monotonic=self.clock.monotonic)
        self.app: FastAPI = build_app(self.context, monotonic=self.clock.monotonic)

    def _publish(self, words: Sequence[r.OperatorIntent]) -> None:
        if self.publish_error is not None:
            raise self.publish_error
        self.sent += words

    def key(self, role: str, *, expires_s: float | None = None) -> dict[str, str]:
        """A fresh key of a role as the header that a caller sends."""
        expires = None if expires_s is None else self.clock.wall_ns() + int(expires_s * SECOND)
        _, text = self.context.keys.add(f"{role} key", role, now_ns=self.clock.wall_ns(), expires_ns=expires)  # type: ignore[arg-type]
        return {"Authorization": f"Bearer {text}"}

    def hold(self, node: int, namespace: str, gpus: Sequence[int]) -> None:
        """These GPUs of a node are held by a namespace from now on."""
        mine = {uuids(node)[index]: Place(namespace, f"{namespace}-{node}") for index in gpus}
        before = self.places.get(f"node-{node}")
        held = {**(before.gpus if before else {}), **mine}
        self.places[f"node-{node}"] = Placement(f"node-{node}", self.clock.wall_ns(), held)
        self.context.placements.take()
        self.context.views.forget()

    def fold(self, record: r.Record) -> None:
        self.context.state.fold(topic_of(type(record)).name, codec.encode(record))

    def live(self, *, seconds: int = 30, mode: r.Mode = "on", strategy: str = "balanced", nodes: int = NODES) -> Rig:
        """Envelopes, then some seconds of features of every node, up to the clock's present."""
        self.clock.seconds += seconds
        for node in range(nodes):
            self.fold(envelope(node, self.clock.wall_ns(), mode=mode, strategy=strategy))
        for second in range(seconds):
            for node in range(nodes):
                self.fold(
                    features(
                        node,
                        self.clock.wall_ns() - (seconds - 1 - second) * SECOND,
                        seq=int(self.clock.seconds) * 1000 + second,
                    )
                )
        self.context.views.forget()
        return self


def uuids(node: int) -> tuple[str, ...]:
    return tuple(f"GPU-{node}-{index}" for index in range(GPUS))


def group_of(node: int) -> str:
    return "hold-out" if f"node-{node}" == HOLDOUT else "controlled"


def engine(node: int, part: int, ts_ns: int) -> r.EngineReading:
    """A busy engine: ten sequences, a fifth of the time in prefill, 1,200 tokens and 10 requests a second."""
    slower = 1.04 if group_of(node) == "controlled" else 1.0
    second = ts_ns // SECOND
    return r.EngineReading(
        engine=f"node-{node}/e{part}",
        kind="twin",
        stack=TWIN_STACK,
        workload="chat",
        gpu_uuid=uuids(node)[part * SPAN : (part + 1) * SPAN],
        ts_ns=ts_ns,
        running=10,
        waiting=0,
        waiting_tokens=0,
        kv_tokens=12_000,
        prompt_tokens_total=int(second * 2_000),
        generation_tokens_total=int(second * 1_200),
        requests_total=int(second * 10),
        tbt=_histogram(P99_MS["tbt"] * slower, 100),
        ttft=_histogram(P99_MS["ttft"] * slower, 10),
        e2e=_histogram(P99_MS["e2e"] * slower, 10),
    )


def _histogram(p99_ms: float, count: int) -> r.Histogram:
    return r.Histogram(index=(bucket(p99_ms),), count=(count,), sum_ms=p99_ms * count)


def features(node: int, ts_ns: int, *, seq: int = 1, quality: r.Quality = "simulated") -> r.NodeFeatures:
    watts: list[float | None] = [WATTS[group_of(node)]] * GPUS
    if node == 0:
        watts[7] = None
    return r.NodeFeatures(
        cluster=CLUSTER,
        node=f"node-{node}",
        boot_id="boot",
        seq=seq,
        window_end_ns=ts_ns,
        emitted_ns=ts_ns,
        quality=quality,
        uuid=uuids(node),
        name=(H100,) * GPUS,
        features={
            "power_w_last": tuple(watts),
            "power_w_mean_60s": tuple(watts),
            "util_ratio_mean_60s": (0.9,) * GPUS,
            "sm_mhz_mean_60s": (1900.0,) * GPUS,
        },
        engines=(engine(node, 0, ts_ns), engine(node, 1, ts_ns)),
        device=r.DeviceColumns(
            sm_max_mhz=(1980,) * GPUS,
            limit_default_w=(700.0,) * GPUS,
            limit_min_w=(200.0,) * GPUS,
            limit_max_w=(700.0,) * GPUS,
        ),
    )


def envelope(
    node: int, ts_ns: int, *, mode: r.Mode = "on", strategy: str = "balanced", granted: bool = True
) -> r.PowerDesired:
    held = group_of(node) == "hold-out"
    nothing = held or mode == "observe" or not granted
    return r.PowerDesired(
        cluster=CLUSTER,
        node=f"node-{node}",
        epoch=1,
        seq=1,
        issued_at_ns=ts_ns,
        sample_ts_ns=ts_ns,
        ttl_ms=15_000,
        on_expiry="restore",
        mode=mode,
        strategy=strategy,
        policy_version="bounds-1",
        reason="because",
        gpu=r.EnvelopeColumns(
            uuid=uuids(node),
            min_sm_mhz=(None if nothing else 1200,) * GPUS,
            max_sm_mhz=(None if nothing else 1980,) * GPUS,
            max_power_w=(None,) * GPUS,
            engine=tuple(f"node-{node}/e{index // SPAN}" for index in range(GPUS)),
            holdout=(held,) * GPUS,
            reason=("because",) * GPUS,
        ),
    )


def applied(node: int, ts_ns: int, *, status: r.AckStatus = "applied") -> r.PowerApplied:
    return r.PowerApplied(
        cluster=CLUSTER,
        node=f"node-{node}",
        ts_ns=ts_ns,
        event="command",
        epoch=1,
        seq=1,
        quality="simulated",
        sample_ts_ns=ts_ns - 300_000_000,
        gpu=r.AckColumns(
            uuid=uuids(node),
            status=(status,) * GPUS,
            reason=("ok",) * GPUS,
            requested_limit_w=(600.0,) * GPUS,
            effective_limit_w=(600.0,) * GPUS,
            previous_limit_w=(700.0,) * GPUS,
            requested_sm_mhz=(None,) * GPUS,
            effective_sm_mhz=(None,) * GPUS,
            measured_w=(None,) * GPUS,
        ),
    )


def verdict(node: int, ts_ns: int) -> r.AnomalyVerdict:
    return r.AnomalyVerdict(
        cluster=CLUSTER,
        node=f"node-{node}",
        verdict_id=f"v-{node}-{ts_ns}",
        ts_ns=ts_ns,
        gpu_uuid=uuids(node)[0],
        metric="power_ratio",
        score=9.0,
        threshold=8.0,
        model="robust_z",
        model_version="1",
        action="alert",
        quality="simulated",
        window_start_ns=ts_ns - SECOND,
        window_end_ns=ts_ns,
        evidence={"power_w": 600.0, "peers_w": None},
    )


def alert(node: int, ts_ns: int, severity: r.Severity = "warning") -> r.Alert:
    return r.Alert(
        cluster=CLUSTER,
        node=f"node-{node}",
        alert_id=f"a-{node}-{ts_ns}",
        rule="high_energy",
        severity=severity,
        state="firing",
        ts_ns=ts_ns,
        summary="the node draws more than it should",
        evidence={"power_w": 9000.0},
        runbook="docs/runbooks/high_energy.md",
        quality="simulated",
    )
