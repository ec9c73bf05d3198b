"""Reads a stretch of one partition by assign(): for recovery, which joins no group and commits nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streams.contract.kafka import assigned_consumer_config
from streams.errors import StreamsError

if TYPE_CHECKING:
    from confluent_kafka import Consumer

CHUNK: Final = 500
WAIT_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """A message with the fields that jobs use; `timestamp` in milliseconds."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


class Replay:
    """A short-lived reader over any partitions, one stretch at a time. Use as a context manager."""

    def __init__(self, bootstrap: str, client_id: str, *, timeout_s: float = 30.0, quiet: bool = False) -> None:
        """`quiet`: errors are raised and nothing else is written to stderr, for commands that people read."""
        from confluent_kafka import Consumer

        config = assigned_consumer_config(bootstrap, client_id)
        self._consumer: Consumer = Consumer(config | {"enable.partition.eof": True, "log_level": 0 if quiet else 3})
        self._timeout_s = timeout_s

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._consumer.close()

    def partitions(self, topic: str) -> int:
        """The topic's partition count; raises StreamsError when it does not exist."""
        found = self._consumer.list_topics(topic, timeout=self._timeout_s).topics[topic]
        if found.error is not None:
            raise StreamsError(f"topic {topic} cannot be read: {found.error}; run `eo topics apply`")
        return len(found.partitions)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset kept and the offset after the last committed one."""
        from confluent_kafka import TopicPartition

        low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=self._timeout_s)
        return int(low), int(high)

    def offset_at(self, topic: str, partition: int, ts_ms: int) -> int:
        """The first offset whose time is at or after `ts_ms`; the end offset when there is none."""
        from confluent_kafka import TopicPartition

        (found,) = self._consumer.offsets_for_times([TopicPartition(topic, partition, ts_ms)], timeout=self._timeout_s)
        return int(found.offset) if found.offset >= 0 else self.bounds(topic, partition)[1]

    def read(self, topic: str, partition: int, *, start: int, end: int) -> Iterator[list[ReplayRecord]]:
        """Records with start <= offset < end, in chunks, in order; stops at the partition's end.

        Raises:
            StreamsError: nothing arrived for the time-out, or the broker refused.
        """
        from confluent_kafka import TopicPartition

        if start >= end:
            return
        self._consumer.assign([TopicPartition(topic, partition, start)])
        deadline = time.monotonic() + self._timeout_s
        finished, position = False, start
        while not finished:
            records, finished = self._chunk(topic, position, end)
            if records:
                position = records[-1].offset + 1
                deadline = time.monotonic() + self._timeout_s
                yield records
            elif not finished and time.monotonic() > deadline:
                raise StreamsError(
                    f"{topic} partition {partition} gave nothing for {self._timeout_s:.0f} s (reading {start}..{end}); "
                    "check the broker with `eo doctor kafka`"
                )
        self._consumer.unassign()

    def _chunk(self, topic: str, position: int, end: int) -> tuple[list[ReplayRecord], bool]:
        from confluent_kafka import KafkaError

        out: list[ReplayRecord] = []
        # Asking for no more than there can be returns at once when it is there.
        for message in self._consumer.consume(min(CHUNK, end - position), WAIT_S):
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return out, True
                if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED or error.retriable():
                    continue  # assign() needs no group; librdkafka asks for its coordinator all the same
                raise StreamsError(f"{topic} cannot be read: {error}")
            if message.offset() >= end:
                return out, True
            out.append(_record(message))
        return out, bool(out) and out[-1].offset + 1 >= end


def _record(message: object) -> ReplayRecord:
    from confluent_kafka import Message

    assert isinstance(message, Message)
    return ReplayRecord(
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
        timestamp=message.timestamp()[1],
    )
