"""Words to and from people, and a job's own memory: alerts, operators' intents, state."""

from __future__ import annotations

from typing import Literal

import msgspec

from streams.contract.records.base import Int64, IntentKind, Quality, Record, Severity


class Alert(Record, frozen=True, kw_only=True):
    """energy.alert.v1: a rule's firing or resolution, with the evidence and what to do."""

    cluster: str
    node: str | None
    alert_id: str
    rule: str
    severity: Severity
    state: Literal["firing", "resolved"]
    ts_ns: Int64
    summary: str
    evidence: dict[str, float | None]
    runbook: str
    schema: Int64 = 1
    gpu_uuid: str | None = None
    started_ns: Int64 | None = None  # when this firing began; the same in its resolution
    window_start_ns: Int64 | None = None  # what the evidence covers
    window_end_ns: Int64 | None = None
    threshold: float | None = None
    group: str = ""  # alerts of one group are told together
    sql: str = ""  # the question whose answer shows it, for `eo sql`
    action: str = ""  # what was done about it, one sentence
    undo: str = ""  # how to undo that, one sentence
    quality: Quality = "measured"
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class OperatorIntent(Record, frozen=True, kw_only=True):
    """energy.operator.intent.v1: a human's pause or cap, signed; the last word of a cluster and scope holds."""

    cluster: str
    scope: str  # "cluster", "node/<node>" or "gpu/<uuid>"
    intent_id: str
    ts_ns: Int64
    actor: str
    kind: IntentKind
    reason: str
    schema: Int64 = 1
    max_power_w: float | None = None  # for cap
    expires_ns: Int64 | None = None  # null = until cleared
    key_id: str = ""
    signature: str = ""


class JobState(Record, frozen=True, kw_only=True):
    """energy.state.job.v1: what a job must know to go on, per partition, and the offsets at which it is valid."""

    job: str
    partition: Int64
    ts_ns: Int64
    offsets: dict[str, Int64]  # topic -> next offset to read
    data: msgspec.Raw  # the job's own JSON, named and versioned by `data_version`
    schema: Int64 = 1
    data_version: Int64 = 1
