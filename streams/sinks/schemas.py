"""The columns of every archived dataset: names with units, types, one line of meaning. No file is touched here.

A dataset is one folder `topic=<name>` of the archive. One Kafka topic may feed several: telemetry is split into one row
per GPU, one row per message (with the host's readings) and one row per serving engine. Only the first has "telemetry"
in its path, so that counting its rows counts GPU samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from streams.contract import topics as t

Column = tuple[str, pa.DataType, str]

TEXT: Final = pa.dictionary(pa.int32(), pa.string())
FLOAT: Final = pa.float64()
LONG: Final = pa.int64()
INT: Final = pa.int32()
BOOL: Final = pa.bool_()
TEXTS: Final = pa.list_(pa.string())
UTC_US: Final = pa.timestamp("us", "UTC")

# The features that the first release computes; a file may hold more, a reader shows these even when a file has fewer.
KNOWN_FEATURES: Final = (
    "power_w_mean_60s",
    "energy_j_delta",
    "waste_w",
    "j_per_token_60s",
    "throttle_ratio_60s",
    "temp_slope_c_per_min",
    "util_ratio_mean_60s",
    "sm_mhz_mean_60s",
    "power_w_last",
)


@dataclass(frozen=True, slots=True)
class Dataset:
    """One folder of the archive: where its rows come from, what a row is, its columns."""

    name: str
    topic: t.Topic
    row: str  # what one row is
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """As it is written; text is dictionary encoded."""
        return pa.schema([(name, kind) for name, kind, _ in self.columns])

    @property
    def plain_schema(self) -> pa.Schema:
        """The same with plain strings, as SQL sees it."""
        return pa.schema([(name, pa.string() if kind == TEXT else kind) for name, kind, _ in self.columns])


_HEAD: Final[tuple[Column, ...]] = (
    ("cluster", TEXT, "cluster"),
    ("node", TEXT, "node"),
    ("ts", UTC_US, "time of the row, UTC"),
    ("ts_ns", LONG, "time of the row, ns since 1970 UTC"),
    ("quality", TEXT, "measured, estimated or simulated"),
)
_TAIL: Final[tuple[Column, ...]] = (
    ("partition", INT, "Kafka partition"),
    ("offset", LONG, "Kafka offset"),
    ("sent_ms", LONG, "Kafka timestamp of the message, ms since 1970 UTC"),
)
_IDENTITY: Final[tuple[Column, ...]] = (
    ("boot_id", TEXT, "start of the agent's spool"),
    ("seq", LONG, "counts the node's messages within boot_id"),
)
_SERVES: Final[tuple[Column, ...]] = (
    ("engine", TEXT, "serving engine on this GPU"),
    ("stack", TEXT, "model x precision x engine x GPU"),
    ("workload", TEXT, "workload class"),
)
_GPU: Final[tuple[Column, ...]] = (
    ("uuid", TEXT, "GPU"),
    ("gpu_index", INT, "place in the message, 0 = first GPU of the node"),
    ("name", TEXT, "device model"),
)


def _histogram(kind: str, meaning: str) -> tuple[Column, ...]:
    return (
        (
            f"{kind}_scale",
            INT,
            f"{meaning}: histogram scale, bucket i holds 2**(i/2**scale) < ms <= 2**((i+1)/2**scale)",
        ),
        (f"{kind}_index", pa.list_(INT), f"{meaning}: buckets that hold something"),
        (f"{kind}_count", pa.list_(LONG), f"{meaning}: count in each of them since the message before"),
        (f"{kind}_sum_ms", FLOAT, f"{meaning}: sum, ms"),
    )


TELEMETRY: Final = Dataset(
    "telemetry.node",
    t.TELEMETRY,
    "one GPU and one second",
    (
        *_HEAD,
        *_IDENTITY,
        *_GPU,
        ("state", TEXT, "ok, lost or forbidden"),
        ("power_w", FLOAT, "board power, W"),
        ("energy_mj", LONG, "energy counter since driver load, mJ"),
        ("limit_w", FLOAT, "enforced power limit, W"),
        ("limit_default_w", FLOAT, "default power limit, W"),
        ("limit_min_w", FLOAT, "lowest power limit that can be set, W"),
        ("limit_max_w", FLOAT, "highest power limit that can be set, W"),
        ("sm_mhz", LONG, "SM clock, MHz"),
        ("sm_max_mhz", LONG, "highest SM clock, MHz"),
        ("sm_lock_mhz", LONG, "upper clock lock that we hold, MHz; null = none"),
        ("mem_mhz", LONG, "memory clock, MHz"),
        ("util_ratio", FLOAT, "share of time with a kernel resident, 0..1"),
        ("mem_util_ratio", FLOAT, "share of time with memory traffic, 0..1"),
        ("mem_used_mb", FLOAT, "memory used, MB"),
        ("mem_total_mb", FLOAT, "memory, MB"),
        ("temp_c", FLOAT, "GPU temperature, C"),
        ("mem_temp_c", FLOAT, "memory temperature, C"),
        ("throttle", LONG, "NVML clock event reasons, bit mask"),
        ("limit_requested_w", FLOAT, "power limit asked for, W; limit_w is what the board enforces"),
        ("power_instant_w", FLOAT, "one unaveraged sample of board power, W"),
        ("gr_active_ratio", FLOAT, "share of time with an engine active, 0..1"),
        ("sm_active_ratio", FLOAT, "share of cycles with a warp on an SM, 0..1"),
        ("tensor_active_ratio", FLOAT, "share of cycles with the tensor pipe active, 0..1"),
        ("dram_active_ratio", FLOAT, "share of cycles with memory traffic, 0..1"),
        ("xid", LONG, "last XID error since driver load; 0 = the device says none"),
        ("namespace", TEXT, "Kubernetes namespace that holds the GPU"),
        ("pod", TEXT, "Kubernetes pod that holds the GPU"),
        ("container", TEXT, "Kubernetes container that holds the GPU"),
        *_SERVES,
        *_TAIL,
    ),
)
HOST: Final = Dataset(
    "host.reading",
    t.TELEMETRY,
    "one message of a node, with the host's readings",
    (
        *_HEAD,
        *_IDENTITY,
        ("gpus", INT, "GPUs in the message"),
        ("source", TEXTS, "sources that contributed"),
        ("capability", TEXTS, "what the sources can do here"),
        ("spool_depth", LONG, "records waiting on the node, this one included"),
        ("lost_total", LONG, "records that the bounded spool dropped since boot_id began"),
        ("cpu_util_ratio", FLOAT, "share of CPU time busy, 0..1"),
        ("cpu_power_w", FLOAT, "CPU package power, W"),
        ("load1", FLOAT, "load average of one minute"),
        ("uptime_s", FLOAT, "time since boot, s"),
        ("mem_used_mb", FLOAT, "memory used, MB"),
        ("mem_total_mb", FLOAT, "memory, MB"),
        ("net_rx_bytes", LONG, "bytes received since boot"),
        ("net_tx_bytes", LONG, "bytes sent since boot"),
        ("cgroup_path", TEXTS, "control groups"),
        ("cgroup_cpu_us", pa.list_(LONG), "CPU time of each control group, us"),
        *_TAIL,
    ),
)
ENGINE: Final = Dataset(
    "engine.reading",
    t.TELEMETRY,
    "one serving engine and one second",
    (
        *_HEAD,
        *_IDENTITY,
        *_SERVES,
        ("kind", TEXT, "vllm, triton, twin, ..."),
        ("gpu_uuid", TEXTS, "GPUs that the engine spans"),
        ("engine_ts_ns", LONG, "when the engine gave these numbers, ns"),
        ("running", LONG, "requests in the batch"),
        ("waiting", LONG, "requests that wait"),
        ("waiting_tokens", LONG, "prompt tokens not yet prefilled"),
        ("kv_tokens", LONG, "tokens in the KV cache"),
        ("kv_use_ratio", FLOAT, "share of the KV cache in use, 0..1"),
        ("prompt_tokens_total", LONG, "prompt tokens, counter"),
        ("generation_tokens_total", LONG, "generated tokens, counter"),
        ("requests_total", LONG, "finished requests, counter"),
        *_histogram("ttft", "time to first token"),
        *_histogram("tbt", "time between tokens"),
        *_histogram("e2e", "duration of a request, or of a training step"),
        ("control_state", TEXT, "what the node's control makes of it: controlled, watched, recalibrating, ..."),
        ("control_decode_ratio", FLOAT, "learned: decode time over the model's"),
        ("control_prefill_ratio", FLOAT, "learned: time of a full mixed iteration over the model's"),
        ("control_power_ratio", FLOAT, "learned: watts of a GPU over the model's"),
        ("control_time_error_ratio", FLOAT, "time between tokens: measured over predicted, minus 1"),
        ("control_power_error_ratio", FLOAT, "watts of a GPU: measured over predicted, minus 1"),
        ("control_missed_ratio", FLOAT, "share of the last hour's requests beyond the SLO"),
        ("control_chunk_tokens", LONG, "chunk size that we set, tokens; null = the engine's own"),
        ("control_slowdown_ratio", FLOAT, "of a training job against default clocks, upper end of the interval"),
        ("control_saving_ratio", FLOAT, "the same for its energy, estimate"),
        *_TAIL,
    ),
)
DOMAIN: Final = Dataset(
    "power.domain",
    t.TELEMETRY,
    "one power domain of a node and one second",
    (
        *_HEAD,
        *_IDENTITY,
        ("domain", TEXT, "name of the domain within the node"),
        ("kind", TEXT, "cpu_package, cpu_core, cpu_uncore, dram, psys, chassis, supply, gpu, board, fan or other"),
        ("source", TEXT, "rapl, redfish, ipmi, ..."),
        ("domain_quality", TEXT, "measured, estimated or simulated: of this domain"),
        ("parent", TEXT, "domain whose power already holds this one's; null = none"),
        ("power_w", FLOAT, "power, W"),
        ("energy_mj", LONG, "energy counter, mJ; monotone over wraps, resets with the agent"),
        ("limit_w", FLOAT, "power limit, W"),
        ("limit_min_w", FLOAT, "lowest power limit that can be set, W"),
        ("limit_max_w", FLOAT, "highest power limit that can be set, W"),
        ("gpu_uuid", TEXT, "GPU that the domain measures"),
        ("health", TEXT, "what the device says of itself"),
        *_TAIL,
    ),
)
SENSOR: Final = Dataset(
    "node.sensor",
    t.TELEMETRY,
    "one reading of a fan, a temperature or a voltage",
    (
        *_HEAD,
        *_IDENTITY,
        ("sensor", TEXT, "name of the sensor within the node"),
        ("kind", TEXT, "fan, temperature, voltage, current, humidity or other"),
        ("unit", TEXT, "rpm, percent, c, v or a"),
        ("source", TEXT, "redfish, ipmi, ..."),
        ("value", FLOAT, "reading in that unit"),
        *_TAIL,
    ),
)
FEATURES: Final = Dataset(
    "features.gpu",
    t.FEATURES,
    "one GPU and one window end",
    (
        *_HEAD,
        *_IDENTITY,
        *_GPU,
        ("emitted_ns", LONG, "when the features job sent it, ns"),
        *_SERVES,
        *_TAIL,
        *((name, FLOAT, "feature of that name") for name in KNOWN_FEATURES),
    ),
)
ANOMALY: Final = Dataset(
    "anomaly.gpu",
    t.ANOMALY,
    "one verdict on one GPU",
    (
        *_HEAD,
        ("verdict_id", TEXT, "identity of the verdict"),
        ("uuid", TEXT, "GPU"),
        ("name", TEXT, "device model"),
        ("workload", TEXT, "workload class"),
        ("stack", TEXT, "model x precision x engine x GPU"),
        ("metric", TEXT, "what was judged"),
        ("score", FLOAT, "score"),
        ("threshold", FLOAT, "threshold that the score passed"),
        ("model", TEXT, "detector"),
        ("model_version", TEXT, "version of the detector"),
        ("action", TEXT, "freeze or alert"),
        ("window_start_ns", LONG, "start of the evidence, ns"),
        ("window_end_ns", LONG, "end of the evidence, ns"),
        ("evidence", pa.map_(pa.string(), FLOAT), "numbers that led to the verdict"),
        *_TAIL,
    ),
)
DESIRED: Final = Dataset(
    "power.desired",
    t.DESIRED,
    "one GPU in one envelope",
    (
        *_HEAD,
        ("epoch", LONG, "writer's epoch"),
        ("seq", LONG, "envelope within the epoch"),
        ("sample_ts_ns", LONG, "newest telemetry that the decision used, ns"),
        ("ttl_ms", LONG, "lifetime of the lease, ms"),
        ("on_expiry", TEXT, "restore, hold or floor"),
        ("mode", TEXT, "observe, recommend, canary or on"),
        ("strategy", TEXT, "latency bounds in force"),
        ("policy_version", TEXT, "version of the policy"),
        ("reason", TEXT, "why the envelope was sent"),
        ("propensity", FLOAT, "probability of this choice, 0..1"),
        ("cause", TEXTS, "verdict and intent ids that shaped it"),
        ("key_id", TEXT, "signing key"),
        ("uuid", TEXT, "GPU"),
        ("gpu_index", INT, "place in the envelope"),
        ("min_sm_mhz", LONG, "lowest clock lock granted, MHz"),
        ("max_sm_mhz", LONG, "highest clock lock granted, MHz"),
        ("max_power_w", FLOAT, "power limit granted, W"),
        ("engine", TEXT, "serving engine on this GPU"),
        ("holdout", BOOL, "stays at default for ever"),
        ("gpu_reason", TEXT, "why this GPU got this"),
        ("tbt_target_ms", FLOAT, "bound on time between tokens, ms"),
        ("ttft_target_ms", FLOAT, "bound on time to first token, ms"),
        ("e2e_target_ms", FLOAT, "bound on request duration, ms"),
        *_TAIL,
    ),
)
APPLIED: Final = Dataset(
    "power.applied",
    t.APPLIED,
    "one GPU in one acknowledgement",
    (
        *_HEAD,
        ("event", TEXT, "command, expiry, restore, foreign_change or not_actuatable"),
        ("epoch", LONG, "epoch of the command"),
        ("seq", LONG, "envelope within the epoch"),
        ("ack_seq", LONG, "counts the acks of this capper run"),
        ("capper_id", TEXT, "run of the capper"),
        ("issued_at_ns", LONG, "when the command was issued, ns"),
        ("sample_ts_ns", LONG, "newest telemetry behind the command, ns"),
        ("received_ns", LONG, "when the node received it, ns"),
        ("latency_ms", FLOAT, "receipt to read-back, ms"),
        ("actuator", TEXT, "what set it"),
        ("mode", TEXT, "observe, recommend, canary or on"),
        ("strategy", TEXT, "latency bounds in force"),
        ("uuid", TEXT, "GPU"),
        ("gpu_index", INT, "place in the acknowledgement"),
        ("status", TEXT, "applied, clamped, refused, expired, restored or recommended"),
        ("reason", TEXT, "why that status"),
        ("requested_limit_w", FLOAT, "power limit asked for, W"),
        ("effective_limit_w", FLOAT, "power limit read back, W"),
        ("previous_limit_w", FLOAT, "power limit found before us, W"),
        ("requested_sm_mhz", LONG, "clock lock asked for, MHz"),
        ("effective_sm_mhz", LONG, "clock lock in force, MHz; null = none"),
        ("measured_w", FLOAT, "power at read-back, W"),
        *_TAIL,
    ),
)
LEDGER: Final = Dataset(
    "ledger.command",
    t.LEDGER,
    "one closed command on one GPU",
    (
        *_HEAD,
        ("uuid", TEXT, "GPU"),
        ("epoch", LONG, "epoch of the command"),
        ("seq", LONG, "envelope within the epoch"),
        ("issued_at_ns", LONG, "when the command was issued, ns"),
        ("acked_ns", LONG, "when it was read back, ns; null = unanswered"),
        ("closed_ns", LONG, "when the effect window ended, ns"),
        ("status", TEXT, "ack status, or unanswered"),
        ("status_reason", TEXT, "why that status"),
        ("mode", TEXT, "observe, recommend, canary or on"),
        ("strategy", TEXT, "latency bounds in force"),
        ("reason", TEXT, "why the policy granted this"),
        ("cause", TEXTS, "verdict and intent ids behind it"),
        ("holdout", BOOL, "stays at default for ever"),
        ("requested_limit_w", FLOAT, "power limit asked for, W"),
        ("effective_limit_w", FLOAT, "power limit read back, W"),
        ("previous_limit_w", FLOAT, "power limit found before us, W"),
        ("max_sm_mhz", LONG, "highest clock lock granted, MHz"),
        ("effective_sm_mhz", LONG, "clock lock in force, MHz; null = none"),
        ("power_before_w", FLOAT, "mean power before the command, W"),
        ("power_after_w", FLOAT, "mean power after the acknowledgement, W"),
        ("effect_w", FLOAT, "after - before, W"),
        ("tbt_p99_before_ms", FLOAT, "p99 time between tokens before, ms"),
        ("tbt_p99_after_ms", FLOAT, "p99 time between tokens after, ms"),
        ("loop_ms", FLOAT, "sample to read-back, ms"),
        *_TAIL,
    ),
)
_WITHOUT_NODE: Final = tuple(column for column in _HEAD if column[0] != "node")
INTENT: Final = Dataset(
    "operator.intent",
    t.INTENT,
    "one word of a human",
    (
        *_WITHOUT_NODE,
        ("scope", TEXT, "cluster, node/<node> or gpu/<uuid>"),
        ("intent_id", TEXT, "identity of the intent"),
        ("actor", TEXT, "who"),
        ("kind", TEXT, "pause, resume, cap or clear"),
        ("reason", TEXT, "why"),
        ("max_power_w", FLOAT, "cap, W"),
        ("expires_ns", LONG, "when it ends, ns; null = until cleared"),
        ("key_id", TEXT, "signing key"),
        *_TAIL,
    ),
)
ALERT: Final = Dataset(
    "alert",
    t.ALERT,
    "one firing or resolution of a rule",
    (
        *_HEAD,
        ("alert_id", TEXT, "identity of the alert"),
        ("rule", TEXT, "rule"),
        ("severity", TEXT, "info, warning or critical"),
        ("state", TEXT, "firing or resolved"),
        ("summary", TEXT, "one sentence"),
        ("evidence", pa.map_(pa.string(), FLOAT), "numbers behind it"),
        ("runbook", TEXT, "what to do"),
        ("uuid", TEXT, "GPU, null = not about one GPU"),
        ("started_ns", LONG, "when this firing began, ns"),
        ("window_start_ns", LONG, "start of the evidence, ns"),
        ("window_end_ns", LONG, "end of the evidence, ns"),
        ("threshold", FLOAT, "bound that was passed"),
        ("group", TEXT, "alerts of one group are told together"),
        ("sql", TEXT, "question whose answer shows it"),
        ("action", TEXT, "what was done about it"),
        ("undo", TEXT, "how to undo that"),
        ("labels", pa.map_(pa.string(), pa.string()), "labels"),
        *_TAIL,
    ),
)

DATASETS: Final = (TELEMETRY, HOST, ENGINE, DOMAIN, SENSOR, FEATURES, ANOMALY, DESIRED, APPLIED, LEDGER, INTENT, ALERT)
BY_NAME: Final = {dataset.name: dataset for dataset in DATASETS}
