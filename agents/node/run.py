"""One node agent as a process: sample every second, control twice a second, publish, take commands, end cleanly.

It runs without a GPU, without a broker and without a capper, and takes each up when it appears. Commands are read on a
thread of their own and handled on the main one, which is the only one that touches spool, sources and capper.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIServer

from agents.node import exporter, memory
from agents.node.agent import NodeAgent
from agents.node.capper_client import SocketCapper
from agents.node.control_loop import ControlLoop
from agents.node.errors import CapperUnavailable, SettingsError
from agents.node.kafka_side import KafkaSide
from agents.node.misses import Slo
from agents.node.row_meter import RowMeter
from agents.node.settings import NodeSettings
from agents.node.sources import registry
from agents.node.sources.background import BackgroundSource
from agents.node.sources.base import Source
from agents.node.spool import Spool
from streams import run_note
from streams.contract.layout import Layout
from streams.contract.records import NodeTelemetry
from streams.observe.own_cost import OwnCost, own_watts

if TYPE_CHECKING:
    from agents.node.tracing import NodeTracing

log = logging.getLogger("eo.agent")
PUMP_S: Final = 0.05
STATUS_S: Final = 10.0  # the capper is asked for its counters this often
DRAIN_S: Final = 5.0
SETTLED_S: Final = 3.0  # by then everything is imported and connected that will be
SEGMENT_BYTES: Final = 1_000_000  # also what the spool keeps in memory
Command = tuple[bytes, int]


class AgentProcess:
    """Everything one process owns.

    Args:
        settings: what to do.
        layout: where its files lie.
        bootstrap: asks for the broker's address; None = there is none now, ask again later.

    Raises:
        SettingsError, SpoolUnusable: with one sentence for the user.
    """

    def __init__(self, settings: NodeSettings, layout: Layout, *, bootstrap: Callable[[], str | None]) -> None:
        self.settings = settings
        memory.few_arenas()
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()  # None: engines are in `_joined`
        self._joined: queue.SimpleQueue[frozenset[str]] = queue.SimpleQueue()  # engines that requests have joined
        sources, node = self._sources(), settings.node
        folder = Path(settings.spool_dir) if settings.spool_dir else layout.spool / node
        max_bytes = settings.spool_max_mb * 1_000_000
        segment = min(SEGMENT_BYTES, max_bytes // 8)
        self.spool = Spool(folder / "telemetry", max_bytes=max_bytes, segment_bytes=segment)
        self.acks = Spool(folder / "applied", max_bytes=max_bytes, segment_bytes=segment)
        self.tracing = tracing("eo-agent", lambda: [self.agent.last])
        self.kafka = KafkaSide(
            node, self.spool, self.acks, bootstrap=bootstrap, deliver=self._receive, tracing=self.tracing
        )
        self._capper = SocketCapper(Path(settings.capper_socket or layout.capper / node / "capper.sock"))
        slo = Slo(settings.slo_ttft_ms, settings.slo_tbt_ms)
        control = ControlLoop(
            node,
            self._capper,
            cluster=settings.cluster,
            slo=slo,
            training=settings.training,
            row=RowMeter(settings.row_meter, stuck_s=settings.row_meter_stuck_s) if settings.row_meter else None,
        )
        self.agent = NodeAgent(
            settings.cluster, node, sources, self.spool, control, events=self.kafka.events, tracing=self.tracing
        )
        self._stop = threading.Event()
        self._server: WSGIServer | None = None
        self._layout, self._note = layout, layout.run / f"agent-{node}.json"
        self._capper_status: dict[str, dict[str, Any]] = {}

    def _sources(self) -> list[Source]:
        found = []
        for name in self.settings.source_names:
            source = registry.make(name, self.settings.source_options(name))
            probe = source.probe()
            if probe.present:
                log.info("source %s: %s", name, ", ".join(probe.capability) or "present")
            else:
                log.warning("source %s has nothing here: %s", name, probe.reason)
            found.append(in_background(name, source, self.settings.sample_interval_s))
            if (hear := getattr(source, "on_joined", None)) is not None:
                hear(self._wake)
        return found

    def _receive(self, raw: bytes, received_ns: int) -> None:
        self._commands.put((raw, received_ns))

    def _wake(self, engines: frozenset[str]) -> None:
        """From a poller's thread: the main one takes a round out of turn for them."""
        self._joined.put(engines)
        self._commands.put(None)

    def _step_joined(self) -> None:
        found: set[str] = set()
        while not self._joined.empty():
            found |= self._joined.get()
        if found and self.agent.control is not None and self.agent.control.live is not None:
            self.agent.control_step(time.monotonic(), only=frozenset(found))

    # --- running -----------------------------------------------------------------------------------------------

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Asks the loop to end; safe from a signal handler."""
        self._stop.set()

    def once(self, timeout_s: float = DRAIN_S) -> tuple[NodeTelemetry, bool]:
        """One sample, published if a broker answers in time; returns it and whether the broker has it."""
        try:
            record = self.agent.sample(time.time_ns())
            self.kafka.connect()
            return record, self.kafka.drain(timeout_s)
        finally:
            self.close()

    def run(self) -> None:
        """Runs until `stop`. Raises SpoolError when the disk cannot keep its promise any more."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        try:
            self._serve()
            self._loop()
        finally:
            self.close()

    def _loop(self) -> None:
        s = self.settings
        sample_due = control_due = status_due = time.monotonic()
        settled_at: float | None = sample_due + SETTLED_S
        self.kafka.start()
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= sample_due:
                self.agent.sample(time.time_ns())
                sample_due = _next(sample_due, s.sample_interval_s, now)
            if now >= control_due:
                self.agent.control_step(now)
                control_due = _next(control_due, s.control_interval_s, now)
            if now >= status_due and self._server is not None:
                self._ask_capper()
                status_due = now + STATUS_S
            if settled_at is not None and now >= settled_at:
                settled_at = None
                memory.give_back()
            self.kafka.pump()
            pause = min(sample_due, control_due) - time.monotonic()
            self._wait(min(pause, PUMP_S if self.kafka.busy else 0.25))

    def _wait(self, seconds: float) -> None:
        """Sleeps until the next duty, or handles the commands that arrive before it."""
        try:
            command = self._commands.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return
        if command is None:
            self._step_joined()
        else:
            self.agent.command(*command)

    def _serve(self) -> None:
        port = None
        if self.settings.metrics_port >= 0:
            collector = exporter.AgentCollector(
                self.agent, self.spool, published=lambda: self.kafka.published, capper=lambda: self._capper_status
            )
            cost = OwnCost("agent", sent_bytes=lambda: self.kafka.sent_bytes, watts=self._own_watts)
            host = self.settings.metrics_host
            self._server, _, port = exporter.serve(collector, host, self.settings.metrics_port, cost)
        address = None if port is None else f"http://{self.settings.metrics_host}:{port}/metrics"
        node = self.settings.node
        self._note = run_note.write(self._layout, f"agent-{node}", role="agent", node=node, metrics=address)

    def _own_watts(self, own_cpu_ratio: float) -> float | None:
        host = None if self.agent.last is None else self.agent.last.host
        return None if host is None else own_watts(own_cpu_ratio, host.cpu_util_ratio, host.cpu_power_w)

    def _ask_capper(self) -> None:
        """Its counters for the exporter; one that did not answer the control loop is not waited for once more."""
        node, control = self.settings.node, self.agent.control
        self._capper_status[node] = {}
        if control is None or not control.capper_answers:
            return
        try:
            self._capper_status[node] = dict(self._capper.status())
        except CapperUnavailable as error:
            log.debug("no counters of the capper: %s", error)

    def close(self) -> None:
        """Gives clocks back, sends what the broker takes within five seconds, closes everything."""
        if self.agent.control is not None:
            self.agent.control.release()
            self.agent.flush_acks()
        sent = self.kafka.close(DRAIN_S if self._stop.is_set() else 0.0)
        self.agent.close()
        self.spool.close()
        self.acks.close()
        self._capper.close()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        run_note.forget(self._note)
        if self.tracing is not None:
            self.tracing.close()
        if not sent:
            log.warning("%d records stay in the spool; the next start sends them", self.spool.depth + self.acks.depth)


def tracing(service: str, records: Callable[[], Iterable[NodeTelemetry | None]]) -> NodeTracing | None:
    """Tracing and OTLP metrics of this process; None, and nothing imported, where no OTLP endpoint is set.

    Raises SettingsError naming the variable that cannot work.
    """
    if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ):
        return None
    from agents.node.tracing import make
    from streams.observe.trace import OtelSettings, TracingError

    try:
        return make(service, OtelSettings.from_env(), records=records, now_ns=time.time_ns())
    except TracingError as error:
        raise SettingsError(str(error)) from error


def in_background(name: str, source: Source, interval_s: float) -> Source:
    """The source itself, or read at the side when its registry line says that it is slow."""
    entry = registry.SOURCES[registry.canonical(name)]
    return BackgroundSource(source, interval_s=max(interval_s, entry.every_s)) if entry.slow else source


def _next(due: float, interval_s: float, now: float) -> float:
    """The next due time on the grid; a loop that fell behind skips what it missed."""
    due += interval_s
    return due if due > now - interval_s else now + interval_s
