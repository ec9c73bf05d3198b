"""What jobs publish with: one idempotent producer, and receipts that tell when a batch's outputs are on the broker.

It never decides what is published and never blocks on a slow broker except when its queue is full. Faust's own producer
costs about 350 us per message, this one 2-3 us.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

from streams.contract import codec
from streams.contract.dlq import DeadLetter
from streams.contract.kafka import producer_config
from streams.contract.records import Record
from streams.contract.topics import DLQ, topic_of
from streams.errors import DeliveryFailed

Headers = list[tuple[str, bytes]]
QUEUE_MESSAGES: Final = 200_000
FULL_WAIT_S: Final = 60.0  # a queue that stays full this long means no broker: the worker stops and says so
LOGGED_SINGLY: Final = 10  # a flood of poison must not become a flood of log lines; the queue itself has them all
LOGGED_EVERY: Final = 1000
log = logging.getLogger(__name__)


class Receipt:
    """The outputs sent between two seals. `done` once the broker has acknowledged every one of them."""

    __slots__ = ("_waiting", "error", "sealed", "sent")

    def __init__(self) -> None:
        self._waiting = 0
        self.sent = 0
        self.sealed = False
        self.error: str | None = None

    @property
    def done(self) -> bool:
        return self.sealed and self._waiting == 0

    def expect(self) -> None:
        self._waiting += 1
        self.sent += 1

    def withdraw(self) -> None:
        """A send that was not taken by the producer."""
        self._waiting -= 1
        self.sent -= 1

    def delivered(self, error: object, message: object) -> None:
        """Delivery report of the producer."""
        self._waiting -= 1
        if error is not None and self.error is None:
            topic = getattr(message, "topic", lambda: "?")()
            self.error = f"the broker refused a message for {topic}: {error}"


class ProducerLike(Protocol):
    """The part of confluent_kafka.Producer that is used here."""

    def produce(self, topic: str, **kwargs: object) -> None: ...

    def poll(self, timeout: float) -> int: ...

    def flush(self, timeout: float) -> int: ...

    def __len__(self) -> int: ...


class Publisher:
    """Publishes records of the contract. Not thread-safe: used from the worker's event loop only."""

    def __init__(self, bootstrap: str, client_id: str, *, producer: ProducerLike | None = None) -> None:
        self._producer = producer if producer is not None else _producer(bootstrap, client_id)
        self._open = Receipt()
        self.dead_letters = 0
        self.sent_bytes = 0  # of values, before compression

    def send(self, record: Record, key: str, *, source: str, traceparent: str | None = None) -> None:
        """Publishes a record to its topic of the contract; `source` is the writer's name, e.g. the job's."""
        headers = codec.headers(record, source=source, traceparent=traceparent)
        self.send_raw(topic_of(type(record)).name, key.encode(), codec.encode(record), headers)

    def send_raw(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> None:
        """Publishes bytes. Waits only while the producer's queue is full.

        Raises:
            DeliveryFailed: the queue stayed full, or the message can never be taken (too large, no such topic).
        """
        receipt = self._open
        receipt.expect()
        deadline = time.monotonic() + FULL_WAIT_S
        while True:
            try:
                self._producer.produce(
                    topic, key=key, value=value, headers=headers or [], on_delivery=receipt.delivered
                )
                self.sent_bytes += len(value or b"")
                return
            except BufferError:
                if time.monotonic() > deadline:
                    receipt.withdraw()
                    raise DeliveryFailed(
                        f"{len(self._producer)} messages have waited {FULL_WAIT_S:.0f} s for the broker; "
                        "check it with `eo doctor kafka`"
                    ) from None
                self._producer.poll(0.05)
            except _kafka_error() as error:
                receipt.withdraw()
                raise DeliveryFailed(f"{topic}: a message of {len(value or b'')} bytes was refused: {error}") from error

    def dead_letter(self, dead: DeadLetter, key: bytes | None, value: bytes | None) -> None:
        """Puts a message that cannot be used on the dead-letter queue: original bytes, the reason in headers."""
        self.dead_letters += 1
        if self.dead_letters <= LOGGED_SINGLY or self.dead_letters % LOGGED_EVERY == 0:
            where = f"{dead.topic} {dead.partition}@{dead.offset}"
            log.warning("dead letter %d: %s: %s", self.dead_letters, where, dead.error[:200])
        self.send_raw(DLQ.name, key, value, dead.to_headers())

    def seal(self) -> Receipt:
        """Closes the current receipt and opens the next; what was sent since the last seal belongs to it."""
        receipt, self._open = self._open, Receipt()
        receipt.sealed = True
        return receipt

    def poll(self) -> None:
        """Serves delivery reports without waiting."""
        self._producer.poll(0)

    def flush(self, timeout_s: float) -> int:
        """Waits until everything sent is acknowledged; returns how many messages are not."""
        return self._producer.flush(timeout_s)

    @property
    def outstanding(self) -> int:
        """Messages (and reports) still on their way."""
        return len(self._producer)


def _producer(bootstrap: str, client_id: str) -> ProducerLike:
    from confluent_kafka import Producer

    config = producer_config(bootstrap, client_id) | {
        "queue.buffering.max.messages": QUEUE_MESSAGES,
        "queue.buffering.max.kbytes": 262_144,
        "compression.level": 1,  # 10 % less CPU of a worker than level 3, 5 % more bytes
        "log_level": 3,
    }
    producer: ProducerLike = Producer(config)
    return producer


def _kafka_error() -> type[Exception]:
    from confluent_kafka import KafkaException

    error: type[Exception] = KafkaException
    return error
