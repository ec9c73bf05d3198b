"""The node agent without its loop: sample -> merge -> spool, command -> capper -> acknowledgement, control step.

Synchronous, with clocks as arguments: a real process drives one, the fleet drives a hundred. A source that fails is
counted and logged once per change; the others go on. It never talks to Kafka: that is the publishers' work.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from agents.node import merge
from agents.node.control_loop import ControlLoop
from agents.node.errors import SourceError
from agents.node.publisher import EventPublisher
from agents.node.sources import sound
from agents.node.sources.base import EngineFeed, Reading, Source
from agents.node.sources.engines.gpus import with_uuids
from agents.node.spool import Spool
from streams.contract import codec
from streams.contract.failpoints import hit
from streams.contract.records import EngineReading, GpuColumns, NodeTelemetry, PowerApplied

if TYPE_CHECKING:
    from agents.node.tracing import NodeTracing

log = logging.getLogger(__name__)
RECENT: Final = 30  # samples whose engines the exporter pools for latency quantiles
MAX_TOLD = 2000
_DIGITS = re.compile(r"\d+")


class NodeAgent:
    """One node's agent.

    Args:
        cluster: name of the cluster.
        node: name of the node, the key of all its records.
        sources: read at each sample, in order of trust.
        spool: where telemetry goes; may be shared with other nodes of the same process.
        control: the node's control loop; None = observe only.
        events: where acknowledgements go; needed with control.
        tracing: traces some samples and the commands that they led to; None = off.
    """

    def __init__(
        self,
        cluster: str,
        node: str,
        sources: Sequence[Source],
        spool: Spool,
        control: ControlLoop | None = None,
        *,
        events: EventPublisher | None = None,
        tracing: NodeTracing | None = None,
    ) -> None:
        if control is not None and events is None:
            raise ValueError(f"node {node!r}: a control loop needs a place for its acknowledgements (events)")
        self.cluster, self.node, self.control = cluster, node, control
        self._sources, self._spool, self._events, self._key = tuple(sources), spool, events, node.encode()
        self._feeds = [source for source in self._sources if isinstance(source, EngineFeed)]
        self.tracing = tracing
        self._failing: dict[str, str] = {}
        self._missing: dict[str, tuple[tuple[str, str], ...]] = {}
        self._told: set[str] = set()  # reasons that the log has; one that comes and goes is said once
        self._seq = 0
        self.last: NodeTelemetry | None = None
        self.failures: dict[str, int] = {source.name: 0 for source in self._sources}
        self.samples_total = 0
        self.recent: deque[tuple[EngineReading, ...]] = deque(maxlen=RECENT)

    # --- sensing -----------------------------------------------------------------------------------------------

    def sample(self, now_ns: int) -> NodeTelemetry:
        """Reads every source once, makes one record of it and spools it. Raises SpoolError when the disk fails."""
        span = None if self.tracing is None else self.tracing.sample(self.node, now_ns)
        readings = [reading for source in self._sources if (reading := self._read(source, now_ns)) and reading.says]
        hit("agent.after_sample")
        record = self._record(readings, now_ns)
        number = self._spool.append(self._key, codec.encode(record))
        if self.tracing is not None:
            self.tracing.observe(record)
            if span is not None:
                self.tracing.sampled(span, number, record)
        if self.control is not None and self.control.row is not None:
            self.control.row.take(record, {reading.source: reading.ts_ns for reading in readings})
        self.last = record
        if record.engines:
            self.recent.append(record.engines)
        self.samples_total += 1
        return record

    def _record(self, readings: Sequence[Reading], now_ns: int) -> NodeTelemetry:
        self._seq += 1
        gpu = self._with_locks(merge.gpus(readings))
        return NodeTelemetry(
            cluster=self.cluster,
            node=self.node,
            boot_id=self._spool.boot_id,
            seq=self._seq,
            ts_ns=now_ns,
            source=tuple(r.source for r in readings),
            quality=merge.quality(readings),
            capability=merge.union([r.capability for r in readings]) if readings else (),
            gpu=gpu,
            host=merge.host(readings),
            engines=self._with_control(with_uuids(merge.engines(readings), gpu)),
            spool_depth=self._spool.depth + 1,
            lost_total=self._spool.lost_total,
            domains=merge.domains(readings),
            sensors=merge.sensors(readings),
        )

    def _with_locks(self, gpu: GpuColumns | None) -> GpuColumns | None:
        """Adds the clock locks that we hold: hardware cannot be asked for them."""
        if gpu is None or gpu.sm_lock_mhz is not None or self.control is None or not self.control.locks:
            return gpu
        locks = tuple(map(self.control.locks.get, gpu.uuid))
        return msgspec.structs.replace(gpu, sm_lock_mhz=locks)

    def _with_control(self, engines: tuple[EngineReading, ...]) -> tuple[EngineReading, ...]:
        """Adds what the control loop has learned of each engine."""
        if self.control is None:
            return engines
        told = ((engine, self.control.report(engine.engine)) for engine in engines)
        return tuple(e if r is None else msgspec.structs.replace(e, control=r) for e, r in told)

    def _read(self, source: Source, now_ns: int) -> Reading | None:
        try:
            reading = source.read(now_ns)
            if unsound := sound.problem(reading):
                raise SourceError(unsound)
        except Exception as error:  # noqa: BLE001 - sources wrap drivers; one that fails must not silence the others
            self.failures[source.name] += 1
            self._changed(source.name, f"{type(error).__name__}: {error}")
            return None
        self._changed(source.name, None)
        if reading.missing != self._missing.get(source.name, ()):
            self._tell_missing(source.name, reading.missing)
        return reading

    def _tell_missing(self, name: str, missing: tuple[tuple[str, str], ...]) -> None:
        """Says each reason once: what a source cannot give is no failure, but nobody should guess why."""
        self._missing[name] = missing
        for part, reason in missing:
            word = f"{name} {part} " + _DIGITS.sub("#", reason)
            if word in self._told or len(self._told) > MAX_TOLD:
                continue
            self._told.add(word)
            log.info("node %s: source %s, %s: %s", self.node, name, part, reason)

    def _changed(self, name: str, problem: str | None) -> None:
        # The same problem a second later has another age in it: that is no news.
        kind = None if problem is None else _DIGITS.sub("#", problem)
        if kind == self._failing.get(name):
            return
        if kind is None:
            del self._failing[name]
            log.warning("node %s: source %s reads again", self.node, name)
        else:
            self._failing[name] = kind
            log.error("node %s: source %s fails (%s); the other sources go on", self.node, name, problem)

    # --- control -----------------------------------------------------------------------------------------------

    def command(self, raw: bytes, received_ns: int) -> PowerApplied | None:
        """Handles one command and spools its acknowledgement; None when this agent only observes."""
        if self.control is None:
            return None
        span = None if self.tracing is None else self.tracing.receive(self.node, raw, received_ns)
        if span is None or self.tracing is None:
            ack = self.control.on_command(raw, received_ns)
        else:
            ack = self.control.on_command(raw, received_ns, traceparent=span.traceparent)
            self.tracing.answered(span, ack, self.control.notes, self.control.capper_pid)
        self.flush_acks()
        return ack

    def control_step(self, now_mono_s: float, *, only: frozenset[str] | None = None) -> None:
        """One round of the control loop on the newest sample and on what its engines have said since.

        `only`: engines that a request has just joined; a round out of turn for these alone.
        """
        if self.control is not None:
            self.control.step(now_mono_s, self.last, self._fresh(only), only=only)
            self.flush_acks()

    def _fresh(self, only: frozenset[str] | None) -> tuple[EngineReading, ...]:
        """Between two records: in the record itself they would be half a second older on average."""
        if self.last is None or self.control is None or self.control.live is None:
            return ()  # where nothing is granted the record is soon enough to learn from
        now_ns = self.control.wall_ns()
        found = [engine for feed in self._feeds for engine in feed.engines_now(now_ns, only)]
        return with_uuids(tuple(found), self.last.gpu)

    def flush_acks(self) -> None:
        """Spools what the control loop has to report."""
        if self.control is not None and self._events is not None:
            for ack in self.control.acks():
                self._events.put(ack)

    def close(self) -> None:
        """Closes the sources; spools and Kafka clients belong to whoever made them."""
        for source in self._sources:
            source.close()
