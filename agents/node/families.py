"""Metric families of nodes' newest samples, under the names that users of DCGM, Kepler and ours know. No state.

An unknown value gives no sample, because a zero would be believed. The number of series is bounded: what a node can
have without limit (domains, sensors, engines) is cut at LIMIT per node, and nothing is labelled by process or request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from streams.contract.records import GpuColumns, NodeTelemetry
from streams.observe.columns import cell, word

LIMIT: Final = 64  # domains, sensors and engines shown per node
DCGM_LABELS: Final = ("gpu", "UUID", "modelName", "Hostname", "quality")
WORKLOAD_LABELS: Final = ("namespace", "pod", "container")
GPU_LABELS: Final = ("node", "gpu", "gpu_uuid", "gpu_name", "vendor", "quality")
KEPLER_LABELS: Final = ("node_name", "gpu", "gpu_uuid", "gpu_name", "vendor", "quality")
Row = tuple[NodeTelemetry, GpuColumns, int]

# DCGM field -> (columns of the contract in order of preference, factor to DCGM's unit, help with that unit)
DCGM: Final[dict[str, tuple[tuple[str, ...], float, str]]] = {
    "DCGM_FI_DEV_POWER_USAGE": (("power_w",), 1, "Power draw (in W)."),
    "DCGM_FI_DEV_POWER_USAGE_INSTANT": (("power_instant_w",), 1, "Power draw, one unaveraged sample (in W)."),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": (("energy_mj",), 1, "Energy since the driver was loaded (in mJ)."),
    "DCGM_FI_DEV_SM_CLOCK": (("sm_mhz",), 1, "SM clock (in MHz)."),
    "DCGM_FI_DEV_MEM_CLOCK": (("mem_mhz",), 1, "Memory clock (in MHz)."),
    "DCGM_FI_DEV_GPU_UTIL": (("util_ratio",), 100, "Share of time with a kernel resident (in %)."),
    "DCGM_FI_DEV_MEM_COPY_UTIL": (("mem_util_ratio",), 100, "Share of time with memory traffic (in %)."),
    "DCGM_FI_DEV_GPU_TEMP": (("temp_c",), 1, "GPU temperature (in C)."),
    "DCGM_FI_DEV_MEMORY_TEMP": (("mem_temp_c",), 1, "Memory temperature (in C)."),
    "DCGM_FI_DEV_FB_USED": (("mem_used_mb",), 1e6 / 2**20, "Framebuffer memory used (in MiB)."),
    "DCGM_FI_DEV_FB_TOTAL": (("mem_total_mb",), 1e6 / 2**20, "Framebuffer memory (in MiB)."),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": (("limit_w",), 1, "Power limit in force, the least that applies (in W)."),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": (
        ("limit_requested_w", "limit_w"),
        1,
        "Power limit that was asked for; where a source cannot tell it, the one in force (in W).",
    ),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF": (("limit_default_w",), 1, "Default power limit (in W)."),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT_MIN": (("limit_min_w",), 1, "Lowest power limit (in W)."),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX": (("limit_max_w",), 1, "Highest power limit (in W)."),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": (("throttle",), 1, "Clock event reasons (bit mask)."),
    "DCGM_FI_DEV_XID_ERRORS": (("xid",), 1, "Last XID error since the driver was loaded; 0 = none."),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": (("gr_active_ratio",), 1, "Share of time with an engine active (0 to 1)."),
    "DCGM_FI_PROF_SM_ACTIVE": (("sm_active_ratio",), 1, "Share of cycles with a warp on an SM (0 to 1)."),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": (("tensor_active_ratio",), 1, "Share of cycles of tensor pipes (0 to 1)."),
    "DCGM_FI_PROF_DRAM_ACTIVE": (("dram_active_ratio",), 1, "Share of cycles with memory traffic (0 to 1)."),
}
# ours -> (column, factor to the unit in the name, help)
OURS: Final[dict[str, tuple[str, float, str]]] = {
    "eo_gpu_power_watts": ("power_w", 1, "Board power of a GPU (in W)."),
    "eo_gpu_energy_joules_total": ("energy_mj", 1e-3, "Energy counter of a GPU, from zero with its driver (in J)."),
    "eo_gpu_power_limit_watts": ("limit_w", 1, "Power limit in force (in W)."),
    "eo_gpu_power_limit_default_watts": ("limit_default_w", 1, "Default power limit (in W)."),
    "eo_gpu_utilization_ratio": ("util_ratio", 1, "Share of time with a kernel resident (0 to 1)."),
    "eo_gpu_temperature_celsius": ("temp_c", 1, "GPU temperature (in C)."),
    "eo_gpu_sm_clock_hertz": ("sm_mhz", 1e6, "SM clock (in Hz)."),
}
KEPLER: Final[dict[str, tuple[str, float, str]]] = {
    "kepler_node_gpu_watts": ("power_w", 1, "Board power of a GPU, under Kepler's name (in W)."),
    "kepler_node_gpu_joules_total": ("energy_mj", 1e-3, "Energy counter of a GPU, under Kepler's name (in J)."),
}
ZONES: Final = {"cpu_package": "package", "cpu_core": "core", "cpu_uncore": "uncore", "dram": "dram", "psys": "psys"}
VENDORS: Final = (("nvidia", "nvidia"), ("amd", "amd"), ("instinct", "amd"), ("intel", "intel"))


def vendor(name: str | None) -> str:
    """The maker by the device's name; "" = unknown."""
    low = (name or "").lower()
    return next((maker for word, maker in VENDORS if word in low), "")


def make(name: str, text: str, labels: Sequence[str]) -> GaugeMetricFamily | CounterMetricFamily:
    """An empty family: a counter where the name ends in `_total`."""
    if name.endswith("_total"):
        return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)
    return GaugeMetricFamily(name, text, labels=labels)


def of_gpus(records: Sequence[NodeTelemetry]) -> Iterator[Metric]:
    """Every GPU of every record under DCGM's, Kepler's and our names."""
    rows = [(r, r.gpu, i) for r in records if r.gpu is not None for i in range(len(r.gpu.uuid))]
    with_pods = any(gpu.pod is not None for _, gpu, _ in rows)
    dcgm = [(row, _dcgm_labels(row, with_pods)) for row in rows]
    labels = DCGM_LABELS + WORKLOAD_LABELS if with_pods else DCGM_LABELS
    for name, (columns, factor, text) in DCGM.items():
        yield _filled(make(name, text, labels), dcgm, columns, factor)
    ours = [(row, _labels(row)) for row in rows]
    for table, names in ((OURS, GPU_LABELS), (KEPLER, KEPLER_LABELS)):
        for name, (column, factor, text) in table.items():
            yield _filled(make(name, text, names), ours, (column,), factor)
    text = "Upper clock lock that we hold (in MHz); none = not locked."
    yield _filled(make("eo_gpu_sm_lock_mhz", text, DCGM_LABELS), [(r, k[:5]) for r, k in dcgm], ("sm_lock_mhz",), 1)
    yield _states(dcgm)
    yield _pods(rows)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    rows: Iterable[tuple[Row, tuple[str, ...]]],
    columns: tuple[str, ...],
    factor: float,
) -> Metric:
    for (_, gpu, index), labels in rows:
        value = next((v for c in columns if (v := _at(gpu, c, index)) is not None), None)
        if value is not None:
            family.add_metric(labels, value * factor)
    return family


def _at(gpu: GpuColumns, column: str, index: int) -> float | None:
    return cell(getattr(gpu, column), index)


def _text(gpu: GpuColumns, column: str, index: int) -> str:
    return word(getattr(gpu, column), index)


def _dcgm_labels(row: Row, with_pods: bool) -> tuple[str, ...]:
    record, gpu, index = row
    labels = (str(index), gpu.uuid[index], _text(gpu, "name", index), record.node, record.quality)
    return labels + tuple(_text(gpu, name, index) for name in WORKLOAD_LABELS) if with_pods else labels


def _labels(row: Row) -> tuple[str, ...]:
    record, gpu, index = row
    name = _text(gpu, "name", index)
    return (record.node, str(index), gpu.uuid[index], name, vendor(name), record.quality)


def _states(rows: Iterable[tuple[Row, tuple[str, ...]]]) -> Metric:
    family = make("eo_gpu_ok", "1 = the GPU answers, 0 = lost or forbidden.", DCGM_LABELS)
    for (_, gpu, index), labels in rows:
        if gpu.state is not None and index < len(gpu.state):
            family.add_metric(labels[:5], float(gpu.state[index] == "ok"))
    return family


def _pods(rows: Iterable[Row]) -> Metric:
    """Board watts of a pod that holds whole GPUs, summed; a slice of a GPU is never given the board's watts."""
    text = "Power of the whole GPUs that a pod holds (in W), under Kepler's name."
    family = make("kepler_pod_gpu_watts", text, ("node_name", "pod_namespace", "pod_name", "quality"))
    sums: dict[tuple[str, ...], float] = {}
    for record, gpu, index in rows:
        watts = _at(gpu, "power_w", index)
        if watts is not None and (pod := _text(gpu, "pod", index)):
            key: tuple[str, ...] = (record.node, _text(gpu, "namespace", index), pod, record.quality)
            sums[key] = sums.get(key, 0.0) + watts
    for labels, total in sums.items():
        family.add_metric(labels, total)
    return family


def of_host(records: Sequence[NodeTelemetry]) -> Iterator[Metric]:
    """The host, its power domains and its sensors."""
    host_labels = ("node", "quality")
    util = make("eo_node_cpu_utilization_ratio", "Use of all CPUs of the host (0 to 1).", host_labels)
    watts = make("eo_node_cpu_power_watts", "Power of the host's CPUs (in W).", host_labels)
    memory = make("eo_node_memory_used_bytes", "Memory in use on the host (in bytes).", host_labels)
    for record in records:
        if (host := record.host) is not None:
            values = (host.cpu_util_ratio, host.cpu_power_w, host.mem_used_mb)
            for index, (family, factor) in enumerate(((util, 1.0), (watts, 1.0), (memory, 1e6))):
                if (value := cell(values, index)) is not None:
                    family.add_metric((record.node, record.quality), value * factor)
    yield from (util, watts, memory)
    yield from _domains(records)
    labels = ("node", "sensor", "kind", "unit", "source")
    sensors = make("eo_node_sensor_value", "A reading that is no power, in the unit of its label.", labels)
    for record in records:
        if (part := record.sensors) is not None:
            for i in range(min(LIMIT, len(part.name))):
                if (value := cell(part.value, i)) is not None:
                    names = (word(column, i) for column in (part.name, part.kind, part.unit, part.source))
                    sensors.add_metric((record.node, *names), value)
    yield sensors


def _domains(records: Sequence[NodeTelemetry]) -> Iterator[Metric]:
    labels = ("node", "domain", "kind", "parent", "source", "quality")
    power = make("eo_domain_power_watts", "Power domain; one with a parent is a part of it: do not add both.", labels)
    energy = make("eo_domain_energy_joules_total", "Energy counter of a power domain (in J).", labels)
    zone_labels = ("node_name", "zone", "path", "quality")
    zone_w = make("kepler_node_cpu_watts", "CPU zone under Kepler's name (in W); package holds core.", zone_labels)
    zone_j = make("kepler_node_cpu_joules_total", "CPU zone under Kepler's name (in J).", zone_labels)
    for record in records:
        if (part := record.domains) is None:
            continue
        for i in range(min(LIMIT, len(part.name))):
            name, parent, kind = word(part.name, i), word(part.parent, i), word(part.kind, i)
            quality = word(part.quality, i)
            row = (record.node, name, kind, parent, word(part.source, i), quality)
            zone = (record.node, ZONES.get(kind, ""), name, quality)
            pairs = ((part.power_w, 1.0, power, zone_w), (part.energy_mj, 1e-3, energy, zone_j))
            for column, factor, family, kepler in pairs:
                if (value := cell(column, i)) is not None:
                    family.add_metric(row, value * factor)
                    if zone[1]:
                        kepler.add_metric(zone, value * factor)
    yield from (power, energy, zone_w, zone_j)
