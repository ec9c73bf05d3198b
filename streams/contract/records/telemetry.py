"""What a node reads: GPUs, power domains, sensors, host and engines of one second."""

from __future__ import annotations

from streams.contract.records.base import Floats, GpuState, Histogram, Int64, Ints, Quality, Record, Texts


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
    slack_ratio: float | None = (
        None  # learned, least of first tokens, gaps and answers: below 1 more came late than may
    )
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
