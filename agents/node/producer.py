"""The Kafka producer as the node agent sees it: three calls, and a holder that makes a new one after a fatal error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from agents.node.errors import PublishError
from streams.contract.codec import Headers

log = logging.getLogger(__name__)
Delivery = Callable[[Any, Any], None]


class ProducerPort(Protocol):
    """What is used of confluent_kafka.Producer. `produce` raises BufferError when its queue is full."""

    def produce(self, topic: str, value: bytes, key: bytes, *, headers: Headers, on_delivery: Delivery) -> None: ...

    def poll(self, timeout: float = 0) -> int: ...

    def purge(self) -> None: ...


class RebuildingProducer:
    """A producer that can be made anew: after a fatal error librdkafka never sends again from the same instance.

    Several publishers may share one; each sees from `generation` that what it had in flight is void.
    """

    def __init__(self, make: Callable[[], ProducerPort]) -> None:
        self._make, self._inner = make, make()
        self.generation = 0

    def produce(self, topic: str, value: bytes, key: bytes, *, headers: Headers, on_delivery: Delivery) -> None:
        self._inner.produce(topic, value, key, headers=headers, on_delivery=on_delivery)

    def poll(self, timeout: float = 0) -> int:
        return self._inner.poll(timeout)

    def purge(self) -> None:
        self._inner.purge()

    def rebuild(self, broken_generation: int, reason: object) -> None:
        """Replaces the producer once per broken generation, whoever of its users noticed first."""
        if broken_generation != self.generation:
            return
        log.error(
            "the Kafka producer failed for good (%s); a new one takes over from the first record in doubt", reason
        )
        old, self._inner = self._inner, self._make()
        self.generation += 1
        old.purge()


def generation_of(producer: ProducerPort | RebuildingProducer) -> int:
    return getattr(producer, "generation", 0)


def rebuild(producer: ProducerPort | RebuildingProducer, broken_generation: int, reason: object) -> None:
    """Rebuilds when the producer can be; raises PublishError otherwise, for the supervisor to start a new process."""
    if not isinstance(producer, RebuildingProducer):
        raise PublishError(
            f"the Kafka producer failed for good ({reason}); restart the agent: the spool keeps its place"
        )
    producer.rebuild(broken_generation, reason)
