"""Commands from Kafka: the partitions of this process's nodes by assign(), no consumer group, newest per node only.

Kafka being away is normal here. History that is read at the start is not handed on when it is older than the capper's
window: it was answered, or ran out, long ago. Nothing is verified here; that is the capper's work, on the raw bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams.contract import codec
from streams.contract.errors import ContractError
from streams.contract.kafka import partition_of
from streams.contract.records import PowerDesired
from streams.contract.topics import DESIRED

log = logging.getLogger(__name__)
Handler = Callable[[bytes, int], object]
Arrived = Callable[[bytes, Sequence[tuple[str, bytes | None]] | None], None]
WINDOW_S: Final = 60.0  # the capper refuses what was issued longer ago
METADATA_TIMEOUT_S: Final = 2.0
RETRY_S: Final = 2.0
# librdkafka asks for a group's coordinator once even without a group; no right to it takes nothing from us.
_HARMLESS: Final = frozenset({KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError._PARTITION_EOF})


class ConsumerPort(Protocol):
    """What is used of confluent_kafka.Consumer."""

    def list_topics(self, topic: str, timeout: float) -> Any: ...

    def assign(self, partitions: list[Any]) -> None: ...

    def get_watermark_offsets(self, partition: Any, timeout: float) -> tuple[int, int] | None: ...

    def poll(self, timeout: float) -> Any: ...

    def consume(self, num_messages: int, timeout: float) -> list[Any]: ...

    def close(self) -> None: ...


class CommandReader:
    """Reads the commands of one or many nodes.

    Args:
        consumer: made with streams.contract.kafka.assigned_consumer_config.
        partitions: how many the topic has; None asks the broker, as often as it takes.
        handlers: node -> what gets (raw bytes, wall-clock nanoseconds of receipt).
        arrived: gets (raw bytes, headers) of each command first, for tracing; None = headers are not looked at.
    """

    def __init__(
        self,
        consumer: ConsumerPort,
        partitions: int | None,
        handlers: Mapping[str, Handler],
        *,
        arrived: Arrived | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arrived = arrived
        self._consumer, self._partitions = consumer, partitions
        self._handlers = {node.encode(): handler for node, handler in handlers.items()}
        self._wall_ns, self._monotonic = wall_ns, monotonic
        self._ends: dict[int, int] | None = None  # partition -> end offset when we came; None = not assigned
        self._held: dict[bytes, bytes] = {}
        self._next_try = 0.0
        self._complained: int | None = None
        self.received_total = 0
        self.stale_total = 0

    @property
    def catching_up(self) -> bool:
        """History is still being read; commands are held until its end is seen."""
        return bool(self._ends) or self._ends is None

    def poll(self, max_messages: int, timeout_s: float) -> int:
        """Waits up to `timeout_s` for commands and hands the newest of each node on; returns how many were handed."""
        if self._ends is None and not self._assign(timeout_s):
            return 0
        first = self._consumer.poll(timeout_s)
        messages = [] if first is None else [first, *self._consumer.consume(max_messages - 1, 0)]
        received_ns = self._wall_ns()
        newest = self._newest(messages)
        if not self._ends:
            return self._deliver(newest, received_ns)
        self._held.update(newest)
        if first is not None and any(self._ends.values()):
            return 0
        self._ends = {}
        held, self._held = self._held, {}
        return self._deliver({n: raw for n, raw in held.items() if self._fresh(raw, received_ns)}, received_ns)

    def _assign(self, timeout_s: float) -> bool:
        if self._monotonic() < self._next_try:
            self._consumer.poll(timeout_s)  # keeps the client's callbacks served and the caller's loop from spinning
            return False
        try:
            count = self._partitions or self._count()
            wanted = sorted({partition_of(key, count) for key in self._handlers})
            parts = [TopicPartition(DESIRED.name, partition, 0) for partition in wanted]
            ends = {p.partition: self._end(p) for p in parts}
            self._consumer.assign(parts)
        except KafkaException as error:
            self._next_try = self._monotonic() + RETRY_S
            self._complain(error.args[0])
            return False
        self._partitions, self._ends, self._complained = count, ends, None
        return True

    def _count(self) -> int:
        found = self._consumer.list_topics(DESIRED.name, METADATA_TIMEOUT_S).topics[DESIRED.name]
        if found.error is not None or not found.partitions:
            raise KafkaException(found.error or KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return len(found.partitions)

    def _end(self, partition: Any) -> int:
        offsets = self._consumer.get_watermark_offsets(partition, METADATA_TIMEOUT_S)
        if offsets is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return offsets[1] if offsets[1] > offsets[0] else 0

    def _newest(self, messages: Sequence[Any]) -> dict[bytes, bytes]:
        newest: dict[bytes, bytes] = {}
        for message in messages:
            if (error := message.error()) is not None:
                self._complain(error)
                continue
            self._seen(message.partition(), message.offset())
            key, value = message.key(), message.value()
            if key in self._handlers and value is not None:
                self.received_total += 1
                newest[key] = value
                if self._arrived is not None:
                    self._arrived(value, message.headers())
        return newest

    def _seen(self, partition: int, offset: int) -> None:
        # A transaction's marker takes the last offset and is never handed out, so the end is one or two above.
        if self._ends and offset + 2 >= self._ends.get(partition, 0):
            self._ends[partition] = 0

    def _fresh(self, raw: bytes, now_ns: int) -> bool:
        try:
            issued_ns = codec.decode(PowerDesired, raw).issued_at_ns
        except ContractError:
            return True  # not ours to judge: the capper refuses it with its reason
        fresh = abs(now_ns - issued_ns) <= WINDOW_S * 1e9
        self.stale_total += not fresh
        return fresh

    def _deliver(self, commands: Mapping[bytes, bytes], received_ns: int) -> int:
        for key, raw in commands.items():
            self._handlers[key](raw, received_ns)
        return len(commands)

    def _complain(self, error: KafkaError) -> None:
        """Logs a failure once until something works again; Kafka being away is no error of ours."""
        if error.code() in _HARMLESS or error.code() == self._complained:
            return
        self._complained = error.code()
        log.warning(
            "no commands from %s for now: %s; limits go back when their leases run out", DESIRED.name, error.str()
        )

    def close(self) -> None:
        self._consumer.close()
