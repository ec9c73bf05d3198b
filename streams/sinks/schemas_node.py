"""The columns of what nodes say: one telemetry message becomes rows of GPUs, hosts, engines, power domains and sensors.

Only the first has "telemetry" in its path, so that counting its rows counts GPU samples.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from streams.contract import topics as t
from streams.sinks.schema_parts import (
    FLOAT,
    GPU,
    HEAD,
    IDENTITY,
    INT,
    LONG,
    SERVES,
    TAIL,
    TEXT,
    TEXTS,
    Dataset,
    histogram,
)

TELEMETRY: Final = Dataset(
    "telemetry.node",
    t.TELEMETRY,
    "one GPU and one second",
    (
        *HEAD,
        *IDENTITY,
        *GPU,
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
        *SERVES,
        *TAIL,
    ),
)
HOST: Final = Dataset(
    "host.reading",
    t.TELEMETRY,
    "one message of a node, with the host's readings",
    (
        *HEAD,
        *IDENTITY,
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
        *TAIL,
    ),
)
ENGINE: Final = Dataset(
    "engine.reading",
    t.TELEMETRY,
    "one serving engine and one second",
    (
        *HEAD,
        *IDENTITY,
        *SERVES,
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
        *histogram("ttft", "time to first token"),
        *histogram("tbt", "time between tokens"),
        *histogram("e2e", "request duration"),
        *TAIL,
    ),
)
DOMAIN: Final = Dataset(
    "power.domain",
    t.TELEMETRY,
    "one power domain of a node and one second",
    (
        *HEAD,
        *IDENTITY,
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
        *TAIL,
    ),
)
SENSOR: Final = Dataset(
    "node.sensor",
    t.TELEMETRY,
    "one reading of a fan, a temperature or a voltage",
    (
        *HEAD,
        *IDENTITY,
        ("sensor", TEXT, "name of the sensor within the node"),
        ("kind", TEXT, "fan, temperature, voltage, current, humidity or other"),
        ("unit", TEXT, "rpm, percent, c, v or a"),
        ("source", TEXT, "redfish, ipmi, ..."),
        ("value", FLOAT, "reading in that unit"),
        *TAIL,
    ),
)
