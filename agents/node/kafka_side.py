"""The agent's Kafka side: connects when a broker is known, publishes two spools, reads commands on its own thread.

No broker is a normal state: the spools grow, and the address is asked for again every few seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from agents.node.errors import PublishError
from agents.node.producer import Delivery, ProducerPort, RebuildingProducer
from agents.node.publisher import EventPublisher, SpoolPublisher, applied_headers, telemetry_headers
from agents.node.spool import Spool
from streams.contract.codec import Headers
from streams.contract.kafka import assigned_consumer_config, producer_config

if TYPE_CHECKING:
    from agents.node.commands import ConsumerPort
    from agents.node.tracing import NodeTracing

log = logging.getLogger("eo.agent")
ASK_AGAIN_S: Final = 5.0
POLL_S: Final = 0.5
QUEUE_MB: Final = 16  # of librdkafka, over all topics: the spool holds the rest
WINDOW: Final = 256  # records in flight: five thousand a second at twenty rounds a second
FETCH_KB: Final = 256  # commands are small and rare


class KafkaSide:
    """Producer, publishers and command reader of one node.

    Args:
        node: its name.
        telemetry: the spool of samples.
        applied: the spool of acknowledgements.
        bootstrap: the broker's address, None when there is none now.
        deliver: gets (raw command, wall-clock nanoseconds), on the reader's thread.
        tracing: adds trace contexts to headers; None = off.
    """

    def __init__(
        self,
        node: str,
        telemetry: Spool,
        applied: Spool,
        *,
        bootstrap: Callable[[], str | None],
        deliver: Callable[[bytes, int], object],
        tracing: NodeTracing | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracing = tracing
        self._node, self._bootstrap, self._deliver, self._monotonic = node, bootstrap, deliver, monotonic
        self._spools = (telemetry, applied)
        headers = applied_headers if tracing is None else tracing.applied_headers
        self.events = EventPublisher(applied, _Nowhere(), headers=headers)
        self._telemetry: SpoolPublisher | None = None
        self._ask_at = 0.0
        self._told = False
        self._ending = threading.Event()
        self._reader: threading.Thread | None = None
        self._read_commands = False
        self._failure: str | None = None

    @property
    def published(self) -> int:
        return 0 if self._telemetry is None else self._telemetry.acked_total

    @property
    def sent_bytes(self) -> int:
        """Payload handed to Kafka, before compression."""
        return self.events.sent_bytes + (0 if self._telemetry is None else self._telemetry.sent_bytes)

    @property
    def busy(self) -> bool:
        """Something waits for a connected broker, so that the loop should come back soon."""
        return self._telemetry is not None and not (self._telemetry.idle and self.events.idle)

    def start(self) -> None:
        """Connects, and reads commands from then on."""
        self._read_commands = True
        self.connect()

    def connect(self) -> bool:
        """Makes the clients once a broker's address is known; returns whether they exist. Never blocks on it."""
        if self._telemetry is not None:
            return True
        if self._monotonic() < self._ask_at:
            return False
        self._ask_at = self._monotonic() + ASK_AGAIN_S
        address = self._bootstrap()
        if address is None:
            if not self._told:
                log.warning("no broker is known; samples wait in the spool (start one with `eo broker up`)")
            self._told = True
            return False
        producer = RebuildingProducer(lambda: _producer(address, self._node))
        headers = telemetry_headers if self._tracing is None else self._tracing.telemetry_headers
        self._telemetry = SpoolPublisher(self._spools[0], producer, headers=headers, window=WINDOW)
        self.events.use(producer)
        log.info("publishing to %s", address)
        if self._read_commands:
            self._reader = threading.Thread(target=self._read, args=(address,), name="commands", daemon=True)
            self._reader.start()
        return True

    def pump(self) -> None:
        """Publishes what waits; without a broker it only makes the spools durable.

        Raises PublishError when the command reader has failed, SpoolError when the disk has.
        """
        if self._failure is not None:
            raise PublishError(self._failure)
        if self._telemetry is None and not self.connect():
            for spool in self._spools:
                spool.sync()
            return
        assert self._telemetry is not None
        self.events.pump()
        self._telemetry.pump()

    def drain(self, timeout_s: float) -> bool:
        """Sends everything that waits, acknowledgements first; returns whether the broker has it all."""
        if self._telemetry is None:
            return all(spool.depth == 0 for spool in self._spools)
        until = self._monotonic() + timeout_s
        self.events.drain(timeout_s)
        return self._telemetry.drain(max(0.0, until - self._monotonic())) and self.events.idle

    def close(self, drain_s: float) -> bool:
        """Stops reading commands and drains; returns whether everything was delivered."""
        self._ending.set()
        if self._reader is not None:
            self._reader.join(POLL_S * 4)
        return self.drain(drain_s)

    def _read(self, address: str) -> None:
        from agents.node.commands import CommandReader

        arrived = None if self._tracing is None else self._tracing.arrived
        reader = CommandReader(_consumer(address, self._node), None, {self._node: self._deliver}, arrived=arrived)
        try:
            while not self._ending.is_set():
                reader.poll(100, POLL_S)
        except Exception as error:
            # A reader that dies silently would leave the node without commands; the main loop ends the process.
            log.exception("the command reader failed")
            self._failure = f"commands cannot be read any more ({error}); start the agent again"
        finally:
            reader.close()


class _Nowhere:
    """Stands in for a producer until there is a broker: takes nothing."""

    def produce(self, topic: str, value: bytes, key: bytes, *, headers: Headers, on_delivery: Delivery) -> None:
        raise BufferError("no broker yet")

    def poll(self, timeout: float = 0) -> int:
        return 0

    def purge(self) -> None:
        return None


def _producer(address: str, node: str) -> ProducerPort:
    from confluent_kafka import Producer

    config = producer_config(address, f"eo-agent-{node}") | {"queue.buffering.max.kbytes": QUEUE_MB * 1024}
    return cast(ProducerPort, Producer({**config, "logger": log}))


def _consumer(address: str, node: str) -> ConsumerPort:
    from confluent_kafka import Consumer

    config = assigned_consumer_config(address, f"eo-agent-{node}") | {"queued.max.messages.kbytes": FETCH_KB}
    return cast("ConsumerPort", Consumer({**config, "logger": log}))
