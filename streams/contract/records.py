"""Records of the Kafka contract, version 1: frozen values, units in names, unknown is null and never zero.

Columnar records hold one list per quantity, all as long as `uuid`; a column that a source cannot give is null as a
whole, a single unknown value is null in its place. Fields may be added (optional, with a default); none may be renamed
or dropped.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

Quality = Literal["measured", "estimated", "simulated"]
Mode = Literal["observe", "recommend", "canary", "on"]
OnExpiry = Literal["restore", "hold", "floor"]
AckStatus = Literal["applied", "clamped", "refused", "expired", "restored", "recommended"]
GpuState = Literal["ok", "lost", "forbidden"]
Severity = Literal["info", "warning", "critical"]
IntentKind = Literal["pause", "resume", "cap", "clear"]

# JSON has no bound for whole numbers, but Parquet, numpy and the clients of other languages do: what does not fit into
# 64 bits is refused on reading, not somewhere behind it.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Floats = tuple[float | None, ...]
Ints = tuple[Int64 | None, ...]
Texts = tuple[str | None, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every record: immutable, keyword only, unknown JSON fields ignored on reading."""


class Histogram(Record, frozen=True, kw_only=True):
    """Sparse exponential histogram of one interval (OpenTelemetry's base-2 scheme): value <= 2**((index+1) / 2**scale).

    Delta temporality: it counts what happened since the record before. Values are milliseconds; scale 5 makes buckets
    2.2 % wide.
    """

    scale: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5
    index: tuple[Int64, ...] = ()
    count: tuple[Annotated[int, msgspec.Meta(ge=0, le=2**53)], ...] = ()  # as many as `index`
    sum_ms: float = 0.0


class GpuColumns(Record, frozen=True, kw_only=True):
    """Readings of all GPUs of a node, one entry per GPU in the order of `uuid`."""

    uuid: tuple[str, ...]
    name: Texts | None = None  # device model, e.g. "NVIDIA H100 80GB HBM3"
    state: tuple[GpuState, ...] | None = None
    power_w: Floats | None = None  # board power
    energy_mj: Ints | None = None  # counter since driver load: monotone, resets with the driver
    limit_w: Floats | None = None  # enforced power limit
    limit_default_w: Floats | None = None
    limit_min_w: Floats | None = None
    limit_max_w: Floats | None = None
    sm_mhz: Ints | None = None
    sm_max_mhz: Ints | None = None
    sm_lock_mhz: Ints | None = None  # upper clock lock that we hold; null = none
    mem_mhz: Ints | None = None
    util_ratio: Floats | None = None  # share of time with a kernel resident, not of capacity used
    mem_util_ratio: Floats | None = None
    mem_used_mb: Floats | None = None
    mem_total_mb: Floats | None = None
    temp_c: Floats | None = None
    mem_temp_c: Floats | None = None
    throttle: Ints | None = None  # NVML clock event reasons, bit mask
    limit_requested_w: Floats | None = None  # what was asked for; `limit_w` is what the board enforces
    power_instant_w: Floats | None = None  # one unaveraged sample, where the device tells it from `power_w`
    gr_active_ratio: Floats | None = None  # profiling: share of time with a graphics or compute engine active
    sm_active_ratio: Floats | None = None  # profiling: share of cycles with a warp on an SM, mean over SMs
    tensor_active_ratio: Floats | None = None
    dram_active_ratio: Floats | None = None
    xid: Ints | None = None  # last XID error since the driver was loaded; 0 = the device says none
    namespace: Texts | None = None  # Kubernetes workload that holds the whole GPU
    pod: Texts | None = None
    container: Texts | None = None


class DomainColumns(Record, frozen=True, kw_only=True):
    """Power domains of a node beside its GPUs' own readings: CPU packages, DRAM, supplies, the chassis.

    Domains nest: `parent` names the domain whose power already holds this one's, so that no total counts a watt twice.
    """

    name: tuple[str, ...]  # unique in the node, e.g. "package-0", "package-0/core", "chassis", "psu-3"
    kind: tuple[str, ...]  # cpu_package, cpu_core, cpu_uncore, dram, psys, chassis, supply, gpu, board, fan, other
    source: tuple[str, ...]  # "rapl", "redfish", "ipmi", ...
    quality: tuple[Quality, ...]
    parent: Texts | None = None
    power_w: Floats | None = None
    energy_mj: Ints | None = None  # counter, monotone over wraps of the hardware's own; resets with the agent
    limit_w: Floats | None = None
    limit_min_w: Floats | None = None
    limit_max_w: Floats | None = None
    gpu_uuid: Texts | None = None  # the GPU that a domain of kind "gpu" measures, where that is known
    health: Texts | None = None


class SensorColumns(Record, frozen=True, kw_only=True):
    """Readings that are no power: fans, temperatures, voltages."""

    name: tuple[str, ...]
    kind: tuple[str, ...]  # fan, temperature, voltage, current, humidity, power_state, other
    unit: tuple[str, ...]  # rpm, percent, c, v, a; on (1 = on, 0 = off)
    source: tuple[str, ...]
    value: Floats


class CgroupColumns(Record, frozen=True, kw_only=True):
    """CPU time per control group; counters in microseconds since the group was made."""

    path: tuple[str, ...]
    cpu_us: Ints


class HostReading(Record, frozen=True, kw_only=True):
    """The host around the GPUs; counters are monotone since boot."""

    cpu_util_ratio: float | None = None
    cpu_power_w: float | None = None
    load1: float | None = None
    uptime_s: float | None = None
    mem_used_mb: float | None = None
    mem_total_mb: float | None = None
    net_rx_bytes: Int64 | None = None
    net_tx_bytes: Int64 | None = None
    cgroup: CgroupColumns | None = None


class EngineControl(Record, frozen=True, kw_only=True):
    """What the node's controller makes of an engine. Errors are measured / predicted - 1; null = not judged, unknown.

    `state`: "controlled" (its clock is ours to choose), "watched" (nothing is granted: the model only learns),
    "recalibrating" (it did not predict: default clocks), "rolled_back" (over 1 % of an hour's requests missed the SLO:
    default clocks), "unknown_stack" (no model), for training jobs "searching" and "chosen". Readers take any other word
    as news that they do not know.
    """

    state: str
    decode_ratio: float | None = None  # learned: measured decode time over predicted
    prefill_ratio: float | None = None
    power_ratio: float | None = None
    time_error_ratio: float | None = None  # mean over the windows judged since the record before
    power_error_ratio: float | None = None
    missed_ratio: float | None = None  # share of the last hour's requests beyond the SLO
    chunk_tokens: Int64 | None = None  # chunk size that we set, where the engine takes one while it runs
    slowdown_ratio: float | None = None  # of a training job against its own default clocks: upper end of the interval
    saving_ratio: float | None = None  # the same for its energy, estimate
    slack_ratio: float | None = None  # learned: below 1 more first tokens came late than may, above 1 fewer
    wait_price_w: float | None = None  # learned: watts that a running sequence is counted at: the end-to-end bound
    meet_ratio: float | None = None  # learned: how much of the share of time in prefill a token meets


class EngineReading(Record, frozen=True, kw_only=True):
    """One serving engine (a model replica and the GPUs that it spans)."""

    engine: str  # unique in the cluster
    kind: str  # "vllm", "triton", "twin", ...
    stack: str  # model x precision x engine x GPU: what a learned curve belongs to
    workload: str  # workload class, e.g. "llm-conversation"
    gpu_uuid: tuple[str, ...]
    ts_ns: Int64  # when the engine gave these numbers
    running: Int64 | None = None
    waiting: Int64 | None = None
    waiting_tokens: Int64 | None = None  # prompt tokens not yet prefilled into the KV cache
    kv_tokens: Int64 | None = None
    kv_use_ratio: float | None = None
    prompt_tokens_total: Int64 | None = None
    generation_tokens_total: Int64 | None = None
    requests_total: Int64 | None = None
    ttft: Histogram | None = None  # time to first token
    tbt: Histogram | None = None  # time between tokens
    e2e: Histogram | None = None  # request duration; of a training job: duration of a step
    control: EngineControl | None = None


class NodeTelemetry(Record, frozen=True, kw_only=True):
    """energy.telemetry.node.v1: everything one node knows about one second. (node, boot_id, seq) is its identity."""

    cluster: str
    node: str
    boot_id: str  # new at each start of the agent's spool; seq counts within it
    seq: Int64
    ts_ns: Int64
    source: tuple[str, ...]  # sources that contributed, e.g. ("nvml", "procfs")
    quality: Quality
    schema: Int64 = 1
    capability: tuple[str, ...] = ()  # what the sources can do here, e.g. "gpu.energy", "gpu.limit"
    gpu: GpuColumns | None = None
    host: HostReading | None = None
    engines: tuple[EngineReading, ...] = ()
    spool_depth: Int64 | None = None  # records waiting on the node, this one included
    lost_total: Int64 | None = None  # records that the bounded spool had to drop since boot_id began
    domains: DomainColumns | None = None
    sensors: SensorColumns | None = None


class DeviceColumns(Record, frozen=True, kw_only=True):
    """What each GPU of a node says of its own limits, so that a policy needs no table of GPU models."""

    sm_max_mhz: Ints | None = None
    limit_default_w: Floats | None = None
    limit_min_w: Floats | None = None
    limit_max_w: Floats | None = None


class NodeFeatures(Record, frozen=True, kw_only=True):
    """energy.features.gpu.v1: each registered feature of each GPU of a node at one window end."""

    cluster: str
    node: str
    boot_id: str
    seq: Int64  # of the telemetry record that closed the window
    window_end_ns: Int64  # its ts_ns
    emitted_ns: Int64
    quality: Quality
    uuid: tuple[str, ...]
    features: dict[str, Floats]  # feature name (with unit) -> one value per GPU
    schema: Int64 = 1
    name: Texts | None = None  # device model of each GPU
    engines: tuple[EngineReading, ...] = ()  # passed on unchanged from telemetry
    device: DeviceColumns | None = None  # the same


class AnomalyVerdict(Record, frozen=True, kw_only=True):
    """energy.anomaly.gpu.v1: a score above its threshold, with the evidence. It may freeze or alert, never lower."""

    cluster: str
    node: str
    verdict_id: str  # same evidence, same id: a replay repeats it
    ts_ns: Int64
    gpu_uuid: str
    metric: str
    score: float
    threshold: float
    model: str  # detector, e.g. "robust_z", "half_space_trees", "efficiency_regression"
    model_version: str
    action: Literal["freeze", "alert"]
    quality: Quality
    window_start_ns: Int64
    window_end_ns: Int64
    evidence: dict[str, float | None]
    schema: Int64 = 1
    gpu_name: str | None = None
    workload: str | None = None
    stack: str | None = None


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
    labels: dict[str, str] = {}


class OperatorIntent(Record, frozen=True, kw_only=True):
    """energy.operator.intent.v1: a human's pause or cap, signed; compacted by scope, so the last word holds."""

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
