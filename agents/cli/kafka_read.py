"""Reads a topic's newest records for a human: assign(), never a group, nothing committed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from agents.cli.base import EoError
from streams.contract.kafka import assigned_consumer_config

ASK_S: Final = 10.0
# Transaction markers take offsets too: one per partition and envelope round, so look further back than asked.
LOOK_BACK: Final = 4


@dataclass(frozen=True, slots=True)
class Message:
    """One record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Reader:
    """An assigned consumer of all partitions of one topic, closed by its `with` block."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        from confluent_kafka import Consumer

        config = assigned_consumer_config(bootstrap, f"eo-tail-{os.getpid()}")
        self._consumer: Any = Consumer({**config, "enable.partition.eof": True, "log_level": 0})
        self._bootstrap, self.topic = bootstrap, topic

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def last(self, count: int | None) -> list[Message]:
        """The newest `count` records over all partitions (None = all), oldest first.

        Raises EoError when the topic is missing or the broker does not answer within the bound.
        """
        from confluent_kafka import TopicPartition

        open_at = {number: self._bounds(number) for number in self._partitions()}
        starts = {
            number: low if count is None else max(low, high - LOOK_BACK * count - 16)
            for number, (low, high) in open_at.items()
        }
        self._consumer.assign([TopicPartition(self.topic, number, start) for number, start in starts.items()])
        waiting = {number for number, (_, high) in open_at.items() if high > starts[number]}
        found: list[Message] = []
        deadline = time.monotonic() + ASK_S
        while waiting:
            for message in self._consumer.consume(500, 0.2):
                ended = self._take(message, found)
                deadline = time.monotonic() + ASK_S
                if ended is not None:
                    waiting.discard(ended)
            if time.monotonic() > deadline:
                raise EoError(f"the broker at {self._bootstrap} sent nothing of {self.topic} for {ASK_S:g} s.")
        found.sort(key=lambda one: (one.timestamp_ms, one.partition, one.offset))
        return found if count is None else found[-count:] if count else []

    def follow(self) -> Iterator[Message]:
        """Each record that comes after `last`, for ever."""
        while True:
            found: list[Message] = []
            for message in self._consumer.consume(100, 0.5):
                self._take(message, found)
            yield from found

    def _take(self, message: Any, found: list[Message]) -> int | None:
        from confluent_kafka import KafkaError

        error = message.error()
        if error is None:
            found.append(_message(message))
            return None
        if error.code() == KafkaError._PARTITION_EOF:
            return int(message.partition())
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED or error.retriable():
            return None  # assign() needs no group; the client goes on by itself
        raise EoError(f"{self.topic} cannot be read ({error.str()}); `eo doctor kafka` says which right is missing.")

    def _partitions(self) -> list[int]:
        from confluent_kafka import KafkaException

        try:
            found = self._consumer.list_topics(self.topic, timeout=ASK_S).topics[self.topic]
        except KafkaException as error:
            raise EoError(
                f"no broker answers at {self._bootstrap} ({error.args[0].str()}); `eo doctor kafka` says why."
            ) from error
        if found.error is not None or not found.partitions:
            raise EoError(f"the broker at {self._bootstrap} has no topic {self.topic}; `eo topics apply` makes it.")
        return sorted(found.partitions)

    def _bounds(self, partition: int) -> tuple[int, int]:
        from confluent_kafka import KafkaException, TopicPartition

        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=ASK_S)
        except KafkaException as error:
            raise EoError(
                f"{self.topic} cannot be read ({error.args[0].str()}); `eo doctor kafka` says why."
            ) from error
        return low, high


def _message(raw: Any) -> Message:
    return Message(
        raw.topic(),
        raw.partition(),
        raw.offset(),
        raw.timestamp()[1],
        raw.key(),
        raw.value(),
        tuple(raw.headers() or ()),
    )
