"""One node agent as a process: sample every second, control twice a second, publish, take commands, end cleanly.

It runs without a GPU, without a broker and without a capper, and takes each up when it appears. Commands are read on a
thread of their own and handled on the main one, which is the only one that touches spool, sources and capper.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final
from wsgiref.simple_server import WSGIServer

from agents.node import exporter
from agents.node.agent import NodeAgent
from agents.node.capper_client import SocketCapper
from agents.node.control_loop import ControlLoop
from agents.node.kafka_side import KafkaSide
from agents.node.settings import NodeSettings
from agents.node.sources import registry
from agents.node.sources.background import BackgroundSource
from agents.node.sources.base import Source
from agents.node.spool import Spool
from streams.contract.layout import Layout
from streams.contract.records import NodeTelemetry

log = logging.getLogger("eo.agent")
PUMP_S: Final = 0.05
DRAIN_S: Final = 5.0
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
        sources, node = self._sources(), settings.node
        folder = Path(settings.spool_dir) if settings.spool_dir else layout.spool / node
        max_bytes = settings.spool_max_mb * 1_000_000
        segment = min(SEGMENT_BYTES, max_bytes // 8)
        self.spool = Spool(folder / "telemetry", max_bytes=max_bytes, segment_bytes=segment)
        self.acks = Spool(folder / "applied", max_bytes=max_bytes, segment_bytes=segment)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self.kafka = KafkaSide(node, self.spool, self.acks, bootstrap=bootstrap, deliver=self._receive)
        self._capper = SocketCapper(Path(settings.capper_socket or layout.capper / node / "capper.sock"))
        control = ControlLoop(node, self._capper, cluster=settings.cluster)
        self.agent = NodeAgent(settings.cluster, node, sources, self.spool, control, events=self.kafka.events)
        self._stop = threading.Event()
        self._server: WSGIServer | None = None
        self._run_file = layout.run / f"agent-{node}.json"

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
        return found

    def _receive(self, raw: bytes, received_ns: int) -> None:
        self._commands.put((raw, received_ns))

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
        sample_due = control_due = time.monotonic()
        self.kafka.start()
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= sample_due:
                self.agent.sample(time.time_ns())
                sample_due = _next(sample_due, s.sample_interval_s, now)
            if now >= control_due:
                self.agent.control_step(now)
                control_due = _next(control_due, s.control_interval_s, now)
            self.kafka.pump()
            pause = min(sample_due, control_due) - time.monotonic()
            self._wait(min(pause, PUMP_S if self.kafka.busy else 0.25))

    def _wait(self, seconds: float) -> None:
        """Sleeps until the next duty, or handles the commands that arrive before it."""
        try:
            raw, received_ns = self._commands.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return
        self.agent.command(raw, received_ns)

    def _serve(self) -> None:
        port = None
        if self.settings.metrics_port >= 0:
            collector = exporter.AgentCollector(self.agent, self.spool, published=lambda: self.kafka.published)
            self._server, _, port = exporter.serve(collector, self.settings.metrics_host, self.settings.metrics_port)
        self._run_file.parent.mkdir(parents=True, exist_ok=True)
        note = {
            "pid": os.getpid(),
            "started_ns": time.time_ns(),
            "role": "agent",
            "node": self.settings.node,
            "metrics": None if port is None else f"http://{self.settings.metrics_host}:{port}/metrics",
        }
        fresh = self._run_file.with_suffix(f".{os.getpid()}.tmp")
        fresh.write_text(json.dumps(note) + "\n")
        fresh.replace(self._run_file)

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
        self._run_file.unlink(missing_ok=True)
        if not sent:
            log.warning("%d records stay in the spool; the next start sends them", self.spool.depth + self.acks.depth)


def in_background(name: str, source: Source, interval_s: float) -> Source:
    """The source itself, or read at the side when its registry line says that it is slow."""
    entry = registry.SOURCES[registry.canonical(name)]
    return BackgroundSource(source, interval_s=max(interval_s, entry.every_s)) if entry.slow else source


def _next(due: float, interval_s: float, now: float) -> float:
    """The next due time on the grid; a loop that fell behind skips what it missed."""
    due += interval_s
    return due if due > now - interval_s else now + interval_s
