"""Commands, their answers, and what came of both: envelopes, acknowledgements and the ledger."""

from __future__ import annotations

from typing import Final, Literal

from streams.contract.records.base import (
    AckStatus,
    Floats,
    Int64,
    Ints,
    Mode,
    OnExpiry,
    Quality,
    Record,
    Texts,
)


class LatencyTarget(Record, frozen=True, kw_only=True):
    """Latency bounds of one engine for the node's control loop; null = no bound known yet: stay at default."""

    engine: str
    tbt_ms: float | None = None
    ttft_ms: float | None = None
    e2e_ms: float | None = None  # of a training rank: how long its job's slowest rank is busy in a step, at its default


class EnvelopeColumns(Record, frozen=True, kw_only=True):
    """What is granted per GPU. Nulls grant nothing for that knob: the GPU stays at, or goes back to, its own value."""

    uuid: tuple[str, ...]
    min_sm_mhz: Ints
    max_sm_mhz: Ints
    max_power_w: Floats
    engine: Texts  # the engine that the GPU serves, null = none known
    holdout: tuple[bool, ...]  # true = stays at default for ever: the meter of savings
    reason: tuple[str, ...]  # one sentence per GPU


class BrakeColumns(Record, frozen=True, kw_only=True):
    """What each GPU of the envelope falls to when its row draws too much: told beforehand, so no message is needed.

    From `from_ratio[i]` of the row's budget on, `max_power_w[i]` (one value per GPU, in the order of the envelope's
    `uuid`) is the ceiling; null leaves the envelope's own in force.
    """

    row: str
    budget_w: float
    from_ratio: tuple[float, ...]  # rising
    max_power_w: tuple[Floats, ...]  # as many as `from_ratio`


class PowerDesired(Record, frozen=True, kw_only=True):
    """energy.power.desired.v1: a signed, leased envelope for all GPUs of a node. Absolute values, never deltas."""

    cluster: str
    node: str
    epoch: Int64  # raised by every new writer; fences the old one
    seq: Int64  # raised by every envelope of an epoch
    issued_at_ns: Int64
    sample_ts_ns: Int64  # newest telemetry that this decision used
    ttl_ms: Int64  # on the receiver's monotonic clock, from receipt
    on_expiry: OnExpiry
    mode: Mode
    strategy: str
    policy_version: str
    gpu: EnvelopeColumns
    reason: str
    schema: Int64 = 1
    targets: tuple[LatencyTarget, ...] = ()
    propensity: float = 1.0  # probability with which the policy chose this, for off-policy evaluation
    cause: tuple[str, ...] = ()  # verdict and intent ids that shaped the decision
    key_id: str = ""
    signature: str = ""  # base64 Ed25519 over signing.canonical_bytes
    brake: BrakeColumns | None = None  # signed as version 2 where present: see signing


class AckColumns(Record, frozen=True, kw_only=True):
    """What became of a command on each GPU; effective values are read back from the device."""

    uuid: tuple[str, ...]
    status: tuple[AckStatus, ...]
    reason: tuple[str, ...]
    requested_limit_w: Floats
    effective_limit_w: Floats
    previous_limit_w: Floats  # the value found before us, which restore puts back
    requested_sm_mhz: Ints
    effective_sm_mhz: Ints  # clock lock in force, null = none
    measured_w: Floats


NO_CAPPER: Final = "none"  # `capper_id` of an answer that the agent wrote itself: no capper took the command
SILENT_CAPPER: Final = "silent"  # the same where a capper took it and did not answer: the outcome is unknown


class PowerApplied(Record, frozen=True, kw_only=True):
    """energy.power.applied.v1: the answer to every command, and every restore or expiry that nobody asked for."""

    cluster: str
    node: str
    ts_ns: Int64  # when the values were read back (wall clock)
    event: Literal["command", "expiry", "restore", "foreign_change", "not_actuatable"]
    epoch: Int64
    seq: Int64
    gpu: AckColumns
    quality: Quality
    schema: Int64 = 1
    ack_seq: Int64 = 0  # counts the acks of this capper run, with capper_id the identity
    capper_id: str = ""
    issued_at_ns: Int64 | None = None
    sample_ts_ns: Int64 | None = None  # copied from the command: ts_ns - sample_ts_ns is the loop time
    received_ns: Int64 | None = None
    latency_ms: float | None = None  # receipt to read-back
    actuator: str = ""
    mode: Mode | None = None
    strategy: str | None = None


class LedgerEntry(Record, frozen=True, kw_only=True):
    """energy.ledger.command.v1: cause -> command -> acknowledgement -> measured effect, one GPU's command closed."""

    cluster: str
    node: str
    gpu_uuid: str
    epoch: Int64
    seq: Int64
    issued_at_ns: Int64
    acked_ns: Int64 | None  # null = no acknowledgement within the effect window
    closed_ns: Int64
    status: str  # ack status, or "unanswered"
    status_reason: str
    mode: Mode
    strategy: str
    reason: str  # why the policy granted this
    cause: tuple[str, ...]
    holdout: bool
    requested_limit_w: float | None
    effective_limit_w: float | None
    previous_limit_w: float | None
    max_sm_mhz: Int64 | None
    effective_sm_mhz: Int64 | None
    power_before_w: float | None  # mean over the window before the command
    power_after_w: float | None  # mean over the window after the acknowledgement
    effect_w: float | None  # after - before, null when either is unknown
    tbt_p99_before_ms: float | None
    tbt_p99_after_ms: float | None
    loop_ms: float | None
    quality: Quality
    schema: Int64 = 1
