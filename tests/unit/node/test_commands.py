"""Commands by assign(): partition by node key, history held until its end, newest per node, Kafka away."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from agents.node.commands import CommandReader
from streams.contract.kafka import partition_of
from streams.contract.topics import DESIRED
from tests.fakes.sources import desired

NOW_NS = 1_000_000_000_000


class Message:
    def __init__(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        self._key, self._value, self._offset = key, value, offset

    def error(self) -> KafkaError | None:
        return None

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def offset(self) -> int:
        return self._offset

    def partition(self) -> int:
        return partition_of(b"n1", 4)


class Failure(Message):
    def __init__(self, code: int) -> None:
        super().__init__(None, None, -1)
        self._code = code

    def error(self) -> KafkaError | None:
        return KafkaError(self._code)


class FakeConsumer:
    """Faults: `away` (metadata fails), `no_topic`. Messages come as told, in batches."""

    def __init__(self, *batches: list[Message], partitions: int = 4, end: int = 0) -> None:
        self.batches, self.partitions, self.end = deque(batches), partitions, end
        self.away = self.no_topic = self.closed = False
        self.assigned: list[tuple[str, int, int]] = []
        self._rest: list[Message] = []

    def list_topics(self, topic: str, timeout: float) -> Any:
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART) if self.no_topic else None
        found = SimpleNamespace(error=error, partitions=dict.fromkeys(range(self.partitions)))
        return SimpleNamespace(topics={topic: found})

    def get_watermark_offsets(self, partition: Any, timeout: float) -> tuple[int, int]:
        return (0, self.end)

    def assign(self, partitions: list[Any]) -> None:
        self.assigned = [(p.topic, p.partition, p.offset) for p in partitions]

    def poll(self, timeout: float) -> Message | None:
        if not self.batches:
            return None
        first, *self._rest = self.batches.popleft()
        return first

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        out, self._rest = self._rest[:num_messages], self._rest[num_messages:]
        return out

    def close(self) -> None:
        self.closed = True


class Got:
    def __init__(self) -> None:
        self.commands: list[tuple[bytes, int]] = []

    def __call__(self, raw: bytes, received_ns: int) -> None:
        self.commands.append((raw, received_ns))


class Clock:
    now = 0.0


def reader(consumer: FakeConsumer, got: Got, clock: type[Clock] | Clock = Clock, **more: Got) -> CommandReader:
    handlers = {"n1": got, **more}
    return CommandReader(consumer, None, handlers, wall_ns=lambda: NOW_NS, monotonic=lambda: clock.now)


def command(seq: int, *, age_s: float = 0.0) -> bytes:
    return desired(seq, issued_at_ns=NOW_NS - int(age_s * 1e9))


def test_assigns_the_partition_of_its_node_from_the_start() -> None:
    consumer = FakeConsumer(partitions=24)
    reader(consumer, Got()).poll(10, 0.1)
    assert consumer.assigned == [(DESIRED.name, partition_of(b"n1", 24), 0)]


def test_many_nodes_assign_each_partition_once() -> None:
    consumer, got = FakeConsumer(partitions=4), Got()
    handlers = {f"n{i}": got for i in range(50)}
    CommandReader(consumer, 4, handlers).poll(10, 0.1)
    assert [p for _, p, _ in consumer.assigned] == [0, 1, 2, 3]


def test_hands_on_live_commands_with_the_time_of_receipt() -> None:
    raw = command(1)
    consumer, got = FakeConsumer([Message(b"n1", raw, 0)]), Got()
    assert reader(consumer, got).poll(10, 0.1) == 1
    assert got.commands == [(raw, NOW_NS)]


def test_only_the_newest_command_of_a_node_and_none_of_others() -> None:
    new = command(3)
    batch = [Message(b"n1", command(1), 0), Message(b"n2", command(2), 1), Message(b"n1", new, 2)]
    batch += [Message(b"n1", None, 3), Message(None, b"x", 4)]
    consumer, got = FakeConsumer(batch), Got()
    in_touch = reader(consumer, got)
    assert in_touch.poll(10, 0.1) == 1
    assert [raw for raw, _ in got.commands] == [new]
    assert in_touch.received_total == 2


def test_history_is_held_until_its_end_is_seen() -> None:
    last = command(30)
    consumer = FakeConsumer(
        [Message(b"n1", command(1, age_s=50), 0)], [Message(b"n1", command(2), 10)], [Message(b"n1", last, 28)], end=30
    )
    got = Got()
    in_touch = reader(consumer, got)
    assert (in_touch.poll(10, 0.1), in_touch.poll(10, 0.1)) == (0, 0)
    assert in_touch.catching_up is True
    assert in_touch.poll(10, 0.1) == 1
    assert [raw for raw, _ in got.commands] == [last]
    assert in_touch.catching_up is False


def test_history_ends_when_nothing_more_comes() -> None:
    raw = command(2)
    consumer, got = FakeConsumer([Message(b"n1", raw, 5)], end=30), Got()
    in_touch = reader(consumer, got)
    assert (in_touch.poll(10, 0.1), in_touch.poll(10, 0.1)) == (0, 1)
    assert [value for value, _ in got.commands] == [raw]


def test_stale_history_is_no_error_and_not_handed_on() -> None:
    consumer, got = FakeConsumer([Message(b"n1", command(1, age_s=61), 9)], end=10), Got()
    in_touch = reader(consumer, got)
    assert in_touch.poll(10, 0.1) == 0
    assert (got.commands, in_touch.stale_total) == ([], 1)


def test_an_unreadable_command_is_the_cappers_to_refuse() -> None:
    consumer, got = FakeConsumer([Message(b"n1", b"junk", 9)], end=10), Got()
    assert reader(consumer, got).poll(10, 0.1) == 1
    assert got.commands == [(b"junk", NOW_NS)]


@pytest.mark.parametrize("fault", ["away", "no_topic"])
def test_asks_again_when_kafka_is_away(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    consumer, got = FakeConsumer(), Got()
    setattr(consumer, fault, True)
    in_touch = reader(consumer, got, clock)
    assert (in_touch.poll(10, 0.1), in_touch.poll(10, 0.1)) == (0, 0)
    clock.now += 5
    in_touch.poll(10, 0.1)
    assert len(caplog.records) == 1
    assert "limits go back when their leases run out" in caplog.text
    setattr(consumer, fault, False)
    in_touch.poll(10, 0.1)
    assert consumer.assigned == []
    clock.now += 5
    consumer.batches.append([Message(b"n1", command(1), 0)])
    assert in_touch.poll(10, 0.1) == 1


def test_no_right_to_a_group_is_harmless(caplog: pytest.LogCaptureFixture) -> None:
    raw = command(1)
    batch = [Failure(KafkaError.GROUP_AUTHORIZATION_FAILED), Message(b"n1", raw, 0)]
    consumer, got = FakeConsumer(batch), Got()
    in_touch = reader(consumer, got)
    assert in_touch.poll(10, 0.1) == 1
    assert caplog.records == []
    consumer.batches.append([Failure(KafkaError.TOPIC_AUTHORIZATION_FAILED)])
    consumer.batches.append([Failure(KafkaError.TOPIC_AUTHORIZATION_FAILED)])
    assert (in_touch.poll(10, 0.1), in_touch.poll(10, 0.1)) == (0, 0)
    assert len(caplog.records) == 1
    in_touch.close()
    assert consumer.closed
