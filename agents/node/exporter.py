"""Prometheus metrics of one node agent, or of many in one process: a collector over newest samples, made at a scrape.

It reads no hardware, keeps no state and never writes. An unknown value gives no sample: a zero would be believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Thread
from typing import Any, Final, Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from agents.node import families
from agents.node.errors import SettingsError
from agents.node.families_engine import Recent, of_engines
from agents.node.row_meter import RowMeter
from streams.contract.records import NodeTelemetry

OWN_LABELS: Final = ("node", "quality")
CAPPER_LABELS: Final = ("node", "code")
ROW_LABELS: Final = ("node", "fault")


class SpoolView(Protocol):
    """What the exporter shows of the spool."""

    lost_total: int

    @property
    def depth(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...


class ControlView(Protocol):
    """What the exporter shows of the control loop."""

    refusals_total: int
    row: RowMeter | None

    def remaining_s(self, now_mono_s: float) -> float | None: ...


class AgentView(Protocol):
    """What the exporter shows of a node agent."""

    node: str
    samples_total: int

    @property
    def last(self) -> NodeTelemetry | None: ...

    @property
    def failures(self) -> Mapping[str, int]: ...

    @property
    def control(self) -> ControlView | None: ...

    @property
    def recent(self) -> Recent: ...


class AgentCollector(Collector):
    """Metrics of the agents of one process; all share its spool.

    Args:
        agents: their newest samples are shown.
        spool: telemetry's spool.
        published: () -> unique records that the broker acknowledged.
        capper: () -> each node's capper status as it was last told, {} where no capper answers.
    """

    def __init__(
        self,
        agents: AgentView | Sequence[AgentView],
        spool: SpoolView,
        *,
        published: Callable[[], int],
        capper: Callable[[], Mapping[str, Mapping[str, Any]]] = dict,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agents: Sequence[AgentView] = agents if isinstance(agents, Sequence) else (agents,)
        self._spool, self._published, self._capper = spool, published, capper
        self._wall_ns, self._monotonic = wall_ns, monotonic

    def collect(self) -> Iterator[Metric]:
        known = [(last, agent.recent) for agent in self._agents if (last := agent.last) is not None]
        records = [last for last, _ in known]
        yield from families.of_gpus(records)
        yield from families.of_host(records)
        yield from of_engines([(last, tuple(recent)) for last, recent in known])
        yield from self._own()
        yield from of_cappers(self._capper())

    def _own(self) -> Iterator[Metric]:
        spool = self._spool
        one = self._agents[0] if len(self._agents) == 1 else None
        last = None if one is None else one.last
        labels = ("" if one is None else one.node, "unknown" if last is None else last.quality)
        process: dict[str, tuple[float, str]] = {
            "eo_published_total": (self._published(), "Records that the broker acknowledged, each counted once."),
            "eo_spool_lost_total": (spool.lost_total, "Records that the spool gave up; of those not synced, at least."),
            "eo_spool_depth": (spool.depth, "Records that wait for the broker."),
            "eo_spool_bytes": (spool.size_bytes, "Size of the spool on disk (in bytes)."),
            "eo_agent_cpu_seconds_total": (time.process_time(), "CPU time of the agent's process (in s)."),
        }
        for name, (value, text) in process.items():
            family = families.make(name, text, OWN_LABELS)
            family.add_metric(labels, value)
            yield family
        yield from self._nodes()
        failures = families.make("eo_source_failures_total", "Failed readings.", ("node", "source"))
        for agent in self._agents:
            for source, count in agent.failures.items():
                failures.add_metric((agent.node, source), count)
        yield failures

    def _nodes(self) -> Iterator[Metric]:
        samples = families.make("eo_samples_total", "Samples taken.", OWN_LABELS)
        age = families.make("eo_sample_age_seconds", "Age of the newest sample (in s).", OWN_LABELS)
        text = "Rest of the live lease (in s); none = nothing is granted."
        lease = families.make("eo_lease_remaining_seconds", text, OWN_LABELS)
        refused = families.make("eo_commands_refused_total", "Commands refused.", OWN_LABELS)
        wall_ns, now_s = self._wall_ns(), self._monotonic()
        for agent in self._agents:
            last, control = agent.last, agent.control
            labels = (agent.node, "unknown" if last is None else last.quality)
            samples.add_metric(labels, agent.samples_total)
            if last is not None:
                age.add_metric(labels, (wall_ns - last.ts_ns) / 1e9)
            if control is not None:
                refused.add_metric(labels, control.refusals_total)
                if (remaining := control.remaining_s(now_s)) is not None:
                    lease.add_metric(labels, remaining)
        yield from (samples, age, lease, refused, self._row_faults())

    def _row_faults(self) -> Metric:
        faults = families.make("eo_row_meter_faults_total", "How often the row's meter was not believed.", ROW_LABELS)
        for agent in self._agents:
            row = None if agent.control is None else agent.control.row
            for fault, count in ({} if row is None else row.faults).items():
                faults.add_metric((agent.node, fault), count)
        return faults


def of_cappers(statuses: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """The cappers' counters. A capper opens no port: the agent asks over its socket and tells here what it heard."""
    up = families.make("eo_capper_up", "1 = the capper answered the agent's last question, 0 = it did not.", ("node",))
    acks = families.make("eo_capper_answers_total", "What the capper did or refused, by code.", CAPPER_LABELS)
    held = families.make("eo_capper_held", "Knobs whose value is ours now.", ("node", "knob"))
    sets = families.make("eo_capper_set_calls_total", "Writes to a device.", ("node",))
    bad = families.make("eo_capper_gpus", "GPUs in a state that needs a look.", ("node", "state"))
    cpu = families.make("eo_capper_cpu_seconds_total", "CPU time of the capper (in s).", ("node",))
    rss = families.make("eo_capper_resident_memory_bytes", "Resident memory of the capper (in bytes).", ("node",))
    for node, status in statuses.items():
        up.add_metric((node,), float(bool(status)))
        for code, count in status.get("counts", {}).items():
            acks.add_metric((node, str(code)), count)
        gpus = list(status.get("gpus", {}).values())
        for knob in ("power_limit_w", "sm_lock_mhz") if gpus else ():
            held.add_metric((node, knob), sum(knob in gpu["held"] for gpu in gpus))
        for state in ("yielded", "not_actuatable", "restoring") if gpus else ():
            bad.add_metric((node, state), sum(bool(gpu[state]) for gpu in gpus))
        if gpus:
            sets.add_metric((node,), sum(gpu["set_calls"] for gpu in gpus))
        for family, name in ((cpu, "cpu_s"), (rss, "rss_bytes")):
            if status.get(name) is not None:
                family.add_metric((node,), status[name])
    yield from (up, acks, held, sets, bad, cpu, rss)
    yield from _of_rows(statuses)


def _of_rows(statuses: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """The row as each capper sees it; nothing where no meter is set up or nothing is known."""
    text = "Share of its budget that the node's row draws (0 to above 1)."
    load = families.make("eo_row_load_ratio", text, ("node", "row"))
    age = families.make("eo_row_meter_age_seconds", "Age of the row meter's reading (in s).", ("node", "row"))
    braked = families.make("eo_row_braked_gpus", "GPUs whose limit the row's brake holds down.", ("node", "row"))
    for node, status in statuses.items():
        row = status.get("row")
        if not row:
            continue
        labels = (node, str(row.get("row") or ""))
        for family, name in ((load, "load_ratio"), (age, "age_s")):
            if row.get(name) is not None:
                family.add_metric(labels, row[name])
        braked.add_metric(labels, len(row.get("braked", {})))
    yield from (load, age, braked)


def serve(
    collector: Collector,
    host: str,
    port: int,
    *more: Collector,
    setting: str = "EO_NODE_METRICS_PORT, -1 for none",
) -> tuple[WSGIServer, Thread, int]:
    """Serves /metrics from a registry of its own; returns the server, its thread and the port.

    Raises SettingsError when the address is taken or not ours.
    """
    registry = CollectorRegistry()
    for one in (collector, *more):
        registry.register(one)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served on {host}:{port} ({error.strerror}); choose another port with {setting}"
        ) from error
    return server, thread, server.server_port
