"""Prometheus metrics of the node agent: DCGM's names for raw readings, `eo_` for what we derive.

A collector over the newest sample: it reads no hardware, keeps no state and never writes. An unknown value gives no
sample line at all, because a zero would be believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Thread
from typing import Final, Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agents.node.agent import NodeAgent
from agents.node.errors import SettingsError
from streams.contract.records import GpuColumns, NodeTelemetry

# DCGM field -> (column of the contract, factor to DCGM's unit, help with that unit)
DCGM: Final[dict[str, tuple[str, float, str]]] = {
    "DCGM_FI_DEV_POWER_USAGE": ("power_w", 1, "Power draw (in W)."),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_mj", 1, "Energy since the driver was loaded (in mJ)."),
    "DCGM_FI_DEV_SM_CLOCK": ("sm_mhz", 1, "SM clock (in MHz)."),
    "DCGM_FI_DEV_MEM_CLOCK": ("mem_mhz", 1, "Memory clock (in MHz)."),
    "DCGM_FI_DEV_GPU_UTIL": ("util_ratio", 100, "Share of time with a kernel resident (in %)."),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("mem_util_ratio", 100, "Share of time with memory traffic (in %)."),
    "DCGM_FI_DEV_GPU_TEMP": ("temp_c", 1, "GPU temperature (in C)."),
    "DCGM_FI_DEV_MEMORY_TEMP": ("mem_temp_c", 1, "Memory temperature (in C)."),
    "DCGM_FI_DEV_FB_USED": ("mem_used_mb", 1e6 / 2**20, "Framebuffer memory used (in MiB)."),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": ("limit_w", 1, "Power limit in force, the least that applies (in W)."),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": ("limit_w", 1, "Power limit; here the one in force (in W)."),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF": ("limit_default_w", 1, "Default power limit (in W)."),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT_MIN": ("limit_min_w", 1, "Lowest power limit (in W)."),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX": ("limit_max_w", 1, "Highest power limit (in W)."),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": ("throttle", 1, "Clock event reasons (bit mask)."),
}
GPU_LABELS: Final = ("gpu", "UUID", "modelName", "Hostname", "quality")


class SpoolView(Protocol):
    """What the exporter shows of the spool."""

    lost_total: int

    @property
    def depth(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...


class AgentCollector(Collector):
    """Metrics of one agent, made anew at each scrape.

    Args:
        agent: its `last` sample is shown.
        spool: telemetry's spool.
        published: () -> unique records that the broker acknowledged.
    """

    def __init__(
        self,
        agent: NodeAgent,
        spool: SpoolView,
        *,
        published: Callable[[], int],
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agent, self._spool, self._published = agent, spool, published
        self._wall_ns, self._monotonic = wall_ns, monotonic

    def collect(self) -> Iterator[Metric]:
        last = self._agent.last
        if last is not None and last.gpu is not None:
            yield from _gpu_metrics(last, last.gpu)
        yield from self._own(last)

    def _own(self, last: NodeTelemetry | None) -> Iterator[Metric]:
        agent, spool = self._agent, self._spool
        quality = "unknown" if last is None else last.quality
        counters: Mapping[str, tuple[float, str]] = {
            "eo_samples": (agent.samples_total, "Samples taken."),
            "eo_published": (self._published(), "Records that the broker acknowledged, each counted once."),
            "eo_spool_lost": (spool.lost_total, "Records that the spool gave up; of those not synced yet, at least."),
            "eo_agent_cpu_seconds": (time.process_time(), "CPU time of the agent (in s)."),
        }
        gauges: dict[str, tuple[float | None, str]] = {
            "eo_spool_depth": (spool.depth, "Records that wait for the broker."),
            "eo_spool_bytes": (spool.size_bytes, "Size of the spool on disk (in bytes)."),
            "eo_sample_age_seconds": (None if last is None else (self._wall_ns() - last.ts_ns) / 1e9, "Age of it."),
        }
        if agent.control is not None:
            remaining = agent.control.remaining_s(self._monotonic())
            gauges["eo_lease_remaining_seconds"] = (remaining, "Rest of the live lease; none = nothing is granted.")
            counters = {**counters, "eo_commands_refused": (agent.control.refusals_total, "Commands refused.")}
        for name, (value, text) in counters.items():
            yield _single(CounterMetricFamily(name, text, labels=("node", "quality")), (agent.node, quality), value)
        for name, (level, text) in gauges.items():
            yield _single(GaugeMetricFamily(name, text, labels=("node", "quality")), (agent.node, quality), level)
        failures = CounterMetricFamily("eo_source_failures", "Failed readings.", labels=("node", "source"))
        for source, count in agent.failures.items():
            failures.add_metric((agent.node, source), count)
        yield failures


def _single(
    family: CounterMetricFamily | GaugeMetricFamily, labels: tuple[str, ...], value: float | None
) -> CounterMetricFamily | GaugeMetricFamily:
    if value is not None:
        family.add_metric(labels, value)
    return family


def _gpu_metrics(last: NodeTelemetry, gpu: GpuColumns) -> Iterator[Metric]:
    names = gpu.name or (None,) * len(gpu.uuid)
    labels: list[tuple[str, ...]] = [
        (str(index), uuid, name or "", last.node, last.quality)
        for index, (uuid, name) in enumerate(zip(gpu.uuid, names, strict=True))
    ]
    for metric, (column, factor, text) in DCGM.items():
        yield _gpu_metric(metric, text, labels, getattr(gpu, column), factor=factor)
    text = "Upper clock lock that we hold (in MHz); none = not locked."
    yield _gpu_metric("eo_gpu_sm_lock_mhz", text, labels, gpu.sm_lock_mhz, factor=1)
    known = None if gpu.state is None else tuple(float(state == "ok") for state in gpu.state)
    yield _gpu_metric("eo_gpu_ok", "1 = the GPU answers, 0 = lost or forbidden.", labels, known, factor=1)


def _gpu_metric(
    name: str, text: str, labels: list[tuple[str, ...]], values: Iterable[float | None] | None, *, factor: float
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=GPU_LABELS)
    for row, value in zip(labels, values or (), strict=values is not None):
        if value is not None:
            family.add_metric(row, value * factor)
    return family


def serve(collector: Collector, host: str, port: int) -> tuple[WSGIServer, Thread, int]:
    """Serves /metrics from a registry of its own; returns the server, its thread and the port.

    Raises SettingsError when the address is taken or not ours.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served on {host}:{port} ({error.strerror}); choose another port with "
            "EO_NODE_METRICS_PORT, -1 for none"
        ) from error
    return server, thread, server.server_port
