"""Runs a fleet as a process: one Kafka producer and one reader for all nodes, SIGTERM restores everything."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from wsgiref.simple_server import WSGIServer

import numpy as np

from agents.fleet import registers as fleet_registers
from agents.fleet.fault_desk import FaultDesk
from agents.fleet.fleet import CATCH_UP_S, GPUS_PER_ENGINE, SLOT_S, Fleet, build
from agents.fleet.trace import recorded_workload
from agents.fleet.training import TrainingJobs, job_of
from agents.node import exporter
from agents.node.commands import CommandReader, ConsumerPort
from agents.node.producer import ProducerPort, RebuildingProducer
from agents.node.publisher import EventPublisher, SpoolPublisher, applied_headers, telemetry_headers
from agents.node.run import tracing
from agents.node.spool import Spool, SpoolRecord
from models.twin.cluster import TwinCluster
from models.twin.params import TwinParams
from streams import run_note
from streams.contract.codec import Headers
from streams.contract.kafka import assigned_consumer_config, producer_config
from streams.contract.layout import Layout
from streams.contract.signing import KeyRing
from streams.observe.own_cost import OwnCost

log = logging.getLogger("eo.fleet")
WARM_UP_S = 30.0  # the engines start with their load in flight, not empty


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """Size and load of a simulated fleet."""

    cluster: str
    nodes: int
    gpus: int
    seed: int = 1
    training: int = 0  # nodes, the last ones, that train instead of serving
    training_knob: str = "clock"
    training_steps: int | None = None  # length of their runs; None = unknown
    training_step_s: float = 0.8
    thin: float | None = None  # share of the recorded trace that one engine takes; None = the model's default
    metrics: tuple[str, int] | None = ("127.0.0.1", 0)  # host and port (0 = any free one); None = none served


class FleetProcess:
    """Everything one process needs; `run` returns when it was asked to stop and all is put back and published."""

    def __init__(self, layout: Layout, plan: FleetPlan, *, bootstrap: str) -> None:
        self._layout, self._plan = layout, plan
        self.registers = fleet_registers.create(
            layout.fleet, cluster=plan.cluster, nodes=plan.nodes, gpus_per_node=plan.gpus
        )
        replicas = plan.nodes * plan.gpus // GPUS_PER_ENGINE
        serving = (plan.nodes - plan.training) * plan.gpus // GPUS_PER_ENGINE
        workload = recorded_workload(replicas=serving, seed=plan.seed, thin=plan.thin)
        twin = TwinCluster(
            replicas=replicas, gpus_per_replica=GPUS_PER_ENGINE, workload=workload, params=TwinParams(), seed=plan.seed
        )
        unlocked = np.zeros(len(self.registers.uuids))
        twin.advance(WARM_UP_S, sm_lock_mhz=unlocked, limit_w=self.registers.limit_default_w)
        for replica in range(replicas):
            twin.take_histograms(replica)
        producer = RebuildingProducer(lambda: _producer(bootstrap))
        self._telemetry_spool = Spool(layout.spool / "fleet")
        self._event_spool = Spool(layout.spool / "fleet-acks")
        self.tracing = tracing("eo-fleet", lambda: [node.agent.last for node in self.fleet.nodes])
        self.telemetry = SpoolPublisher(self._telemetry_spool, producer, headers=self._headers())
        acks = applied_headers if self.tracing is None else self.tracing.applied_headers
        self.events = EventPublisher(self._event_spool, producer, headers=acks)
        trains = range(plan.nodes - plan.training, plan.nodes)
        jobs = TrainingJobs(self.registers, trains, seed=plan.seed, job=job_of(plan.training_step_s))
        self.fleet: Fleet = build(
            layout=layout,
            registers=self.registers,
            twin=twin,
            spool=self._telemetry_spool,
            events=self.events,
            keyring=KeyRing.load(layout.keyring),
            monotonic=time.monotonic,
            wall_ns=time.time_ns,
            tracing=self.tracing,
            training=jobs,
            rules=jobs.rules(plan.training_knob, plan.training_steps),
        )
        self.faults = FaultDesk(self.fleet, twin, layout.fleet)
        handlers = {node.agent.node: partial(self.fleet.command, node) for node in self.fleet.nodes}
        arrived = None if self.tracing is None else self.tracing.arrived
        self.reader = CommandReader(_consumer(bootstrap), None, handlers, arrived=arrived)
        self._stop = False
        self._note = layout.run / "fleet.json"
        self._server: WSGIServer | None = None

    def _headers(self) -> Callable[[SpoolRecord], Headers]:
        return telemetry_headers if self.tracing is None else self.tracing.telemetry_headers

    def stop(self, *_: object) -> None:
        self._stop = True

    def run(self) -> None:
        """Ten slots a second until asked to stop, waiting for commands in between."""
        self.fleet.start()
        self._serve()
        due = time.monotonic()
        try:
            while not self._stop:
                self.faults.look(time.time_ns())
                self.fleet.step(wall_ns=time.time_ns(), mono_s=time.monotonic())
                self._pump()
                due = _next(due, time.monotonic())
                while (left := due - time.monotonic()) > 0 and not self._stop:
                    if self.reader.poll(200, left):
                        self._pump()
        finally:
            self.close()

    def _pump(self) -> None:
        self.events.pump()
        self.telemetry.pump()

    def close(self, *, drain_s: float = 15.0) -> None:
        """Restores every device first; then sends what is still in the spools, as far as the broker takes it."""
        self.fleet.close()
        self.reader.close()
        sent = self.events.drain(drain_s) and self.telemetry.drain(drain_s)
        if not sent:
            log.warning("the spools keep what the broker did not take within %.0f s; the next start sends it", drain_s)
        self._event_spool.close()
        self._telemetry_spool.close()
        # A process that ended in order is no dead one: only a killed fleet leaves its note.
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        run_note.forget(self._note)
        if self.tracing is not None:
            self.tracing.close()
        log.info("stopped: %d samples acknowledged, all devices put back", self.telemetry.acked_total)

    def _serve(self) -> None:
        address = None
        if self._plan.metrics is not None:
            host, wanted = self._plan.metrics
            collector = exporter.AgentCollector(
                [node.agent for node in self.fleet.nodes],
                self._telemetry_spool,
                published=lambda: self.telemetry.acked_total,
                capper=lambda: {node.agent.node: node.capper.status() for node in self.fleet.nodes},
            )
            cost = OwnCost("fleet", sent_bytes=lambda: self.telemetry.sent_bytes + self.events.sent_bytes)
            self._server, _, port = exporter.serve(collector, host, wanted, cost, setting="EO_METRICS_PORT")
            address = f"http://{host}:{port}/metrics"
        nodes = len(self.fleet.nodes)
        self._note = run_note.write(self._layout, "fleet", role="fleet", nodes=nodes, metrics=address)


def _next(due: float, now: float) -> float:
    due += SLOT_S
    return due if now - due < CATCH_UP_S else now


def _producer(bootstrap: str) -> ProducerPort:
    from confluent_kafka import Producer

    producer: ProducerPort = Producer(producer_config(bootstrap, "eo-fleet", linger_ms=5))
    return producer


def _consumer(bootstrap: str) -> ConsumerPort:
    from confluent_kafka import Consumer

    consumer: ConsumerPort = Consumer(assigned_consumer_config(bootstrap, "fleet"))
    return consumer


def main(layout: Layout, plan: FleetPlan, *, bootstrap: str, on_ready: Callable[[], None] | None = None) -> None:
    """Builds, installs the signal handlers, runs."""
    process = FleetProcess(layout, plan, bootstrap=bootstrap)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, process.stop)
    if on_ready is not None:
        on_ready()
    process.run()
