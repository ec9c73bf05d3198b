"""From spool to Kafka: oldest first, order kept, acknowledged in the spool only when the broker has it.

At least once: after a crash or a rebuilt producer, records from the first one in doubt on are sent again, in order, and
readers drop them by identity. Nothing is thrown away here except what the broker will never take (too large), counted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from agents.node.producer import ProducerPort, RebuildingProducer, generation_of, rebuild
from agents.node.spool import Spool, SpoolRecord
from streams.contract import codec
from streams.contract.codec import Headers
from streams.contract.failpoints import hit
from streams.contract.records import PowerApplied
from streams.contract.topics import APPLIED, TELEMETRY, Topic

log = logging.getLogger(__name__)
WINDOW: Final = 1000  # records in flight: bounds memory, and what may be sent twice
RETRY_S: Final = 1.0
_NEVER_TAKEN: Final = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD, KafkaError._INVALID_ARG}
)
TELEMETRY_HEADERS: Final[Headers] = [
    ("content-type", codec.CONTENT_TYPE.encode()),
    ("schema", str(codec.SCHEMA_VERSION).encode()),
]


def telemetry_headers(_record: SpoolRecord) -> Headers:
    return TELEMETRY_HEADERS


def applied_headers(record: SpoolRecord) -> Headers:
    """CloudEvents headers of an acknowledgement; its id is its identity, so that a repetition repeats it."""
    ack = codec.decode(PowerApplied, record.value)
    return codec.headers(ack, source=f"node/{ack.node}", event_id=f"{ack.node}-{ack.capper_id}-{ack.ack_seq}")


class SpoolPublisher:
    """Empties one spool into one topic through a producer that others may share. One thread only."""

    def __init__(
        self,
        spool: Spool,
        producer: ProducerPort | RebuildingProducer,
        topic: Topic | str = TELEMETRY,
        *,
        headers: Callable[[SpoolRecord], Headers] = telemetry_headers,
        window: int = WINDOW,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.topic = topic if isinstance(topic, str) else topic.name
        self._spool, self._producer, self._headers = spool, producer, headers
        self._window, self._monotonic = window, monotonic
        self._sent = spool.acked
        self._in_flight: deque[int] = deque()
        self._done: set[int] = set()
        self._refused: set[int] = set()
        self._outstanding = 0  # delivery reports of this epoch still to come
        self._generation = generation_of(producer)
        self._epoch = 0  # raised by each rewind: what an older attempt reports late must not fail a newer one
        self._failed: KafkaError | None = None
        self._complained: int | None = None
        self._retry_at = 0.0
        self.sent_bytes = 0  # keys and values handed to the producer, before compression
        self.acked_total = 0  # unique records that the broker acknowledged
        self.refused_total = 0  # records that the broker will never take

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def idle(self) -> bool:
        """Nothing is waiting and nothing is in flight."""
        return self._spool.depth == 0 and not self._in_flight

    def pump(self, limit: int = WINDOW) -> int:
        """Serves deliveries, syncs the spool and hands up to `limit` records to the producer; returns how many.

        Raises SpoolError when the disk fails and PublishError when the producer cannot be rebuilt.
        """
        self._producer.poll(0)
        self._spool.sync()
        if not self._ready():
            return 0
        records = self._spool.read(self._sent, min(limit, self._window - len(self._in_flight)))
        handed = self._hand(records)
        self._spool.pin(self._sent)
        self._producer.poll(0)
        return handed

    def drain(self, timeout_s: float) -> bool:
        """Pumps until everything is delivered or the time is over; returns whether it is all delivered."""
        until = self._monotonic() + timeout_s
        while not self.idle and self._monotonic() < until:
            self.pump()
            self._producer.poll(0.02)
        return self.idle

    def _hand(self, records: list[SpoolRecord]) -> int:
        for count, record in enumerate(records):
            try:
                self._producer.produce(
                    self.topic,
                    record.value,
                    record.key,
                    headers=self._headers(record),
                    on_delivery=partial(self._delivered, self._epoch, record.number),
                )
            except BufferError:
                return count  # the producer's queue is full: go on when it has drained
            except KafkaException as error:
                if not self._beyond_help(record.number, error.args[0]):
                    return count
                self._in_flight.append(record.number)
                self._settle(record.number)
            else:
                self._in_flight.append(record.number)
                self._outstanding += 1
                self.sent_bytes += len(record.key) + len(record.value)
            self._sent = record.number
        return len(records)

    def _delivered(self, epoch: int, number: int, error: KafkaError | None, _message: Any) -> None:
        hit("agent.after_produce_before_ack")
        if epoch == self._epoch:
            self._outstanding -= 1
        if error is None:
            self._complained = None
            self._settle(number)
        elif epoch == self._epoch and self._beyond_help(number, error):
            self._settle(number)

    def _settle(self, number: int) -> None:
        """Acknowledges in the spool the longest run of settled records from its oldest on."""
        if number <= self._spool.acked:
            return
        self._done.add(number)
        upto = 0
        while self._in_flight and self._in_flight[0] in self._done:
            upto = self._in_flight.popleft()
            self._done.discard(upto)
            self.acked_total += upto not in self._refused
            self._refused.discard(upto)
        if upto:
            self._spool.ack(upto)

    def _beyond_help(self, number: int, error: KafkaError) -> bool:
        """True when the broker will never take this record, so that it is stepped over; else notes the failure."""
        if error.code() in _NEVER_TAKEN:
            self.refused_total += 1
            self._refused.add(number)
            log.error("record %d will never be taken by %s (%s); it is skipped", number, self.topic, error.str())
            return True
        self._failed = self._failed or error
        if error.code() != self._complained:
            self._complained = error.code()
            log.error("publishing to %s fails (%s); the spool keeps everything", self.topic, error.str())
        return False

    def _ready(self) -> bool:
        if self._generation != generation_of(self._producer):
            self._rewind()
        elif self._failed is not None and self._failed.fatal():
            rebuild(self._producer, self._generation, self._failed.str())
            self._rewind()
        elif self._failed is not None:
            if self._outstanding:
                return False  # what follows the failed record must be settled first, or the order would break
            self._retry_at = self._monotonic() + RETRY_S
            self._rewind()
        return self._monotonic() >= self._retry_at

    def _rewind(self) -> None:
        self._generation, self._failed = generation_of(self._producer), None
        self._epoch += 1
        self._outstanding = 0
        self._in_flight.clear()
        self._done.clear()
        self._sent = self._spool.acked
        self._spool.pin(0)


class EventPublisher:
    """Acknowledgements of commands: spooled too, so that an outage of Kafka loses none; then published in order."""

    def __init__(
        self,
        spool: Spool,
        producer: ProducerPort | RebuildingProducer,
        *,
        headers: Callable[[SpoolRecord], Headers] = applied_headers,
    ) -> None:
        self._spool, self._headers = spool, headers
        self._publisher = SpoolPublisher(spool, producer, APPLIED, headers=headers)

    @property
    def acked_total(self) -> int:
        return self._publisher.acked_total

    @property
    def sent_bytes(self) -> int:
        return self._publisher.sent_bytes

    @property
    def idle(self) -> bool:
        return self._publisher.idle

    def use(self, producer: ProducerPort | RebuildingProducer) -> None:
        """Publishes through another producer from now on, from the first acknowledgement in doubt."""
        self._publisher = SpoolPublisher(self._spool, producer, APPLIED, headers=self._headers)

    def put(self, ack: PowerApplied) -> None:
        """Stores one acknowledgement; it is on its way from now on, whatever happens to Kafka."""
        self._spool.append(ack.node.encode(), codec.encode(ack))

    def pump(self, limit: int = WINDOW) -> int:
        return self._publisher.pump(limit)

    def drain(self, timeout_s: float) -> bool:
        return self._publisher.drain(timeout_s)
