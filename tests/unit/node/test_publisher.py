"""From spool to a producer with named faults: order, acknowledgement, retries, a producer beyond repair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError

from agents.node.errors import PublishError
from agents.node.producer import RebuildingProducer
from agents.node.publisher import RETRY_S, EventPublisher, SpoolPublisher
from agents.node.spool import Spool
from streams.contract import codec
from streams.contract.records import AckColumns, PowerApplied
from streams.contract.topics import APPLIED, TELEMETRY
from tests.fakes.kafka_producer import FakeProducer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path: Path, clock: Clock) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool", max_bytes=1 << 20, segment_bytes=1 << 14, clock=clock)
    yield made
    made.close()


def fill(spool: Spool, count: int) -> list[bytes]:
    values = [f"{n:06d}".encode() for n in range(1, count + 1)]
    for value in values:
        spool.append(b"node", value)
    return values


def publisher(
    spool: Spool, producer: FakeProducer | RebuildingProducer, clock: Clock, *, window: int = 1000
) -> SpoolPublisher:
    return SpoolPublisher(spool, producer, window=window, monotonic=clock)


def test_publishes_in_order_and_acknowledges(spool: Spool, clock: Clock) -> None:
    producer = FakeProducer()
    values = fill(spool, 50)
    out = publisher(spool, producer, clock)
    assert out.pump(20) == 20
    assert out.pump(20) == 20
    out.pump()
    out.pump()
    assert producer.values() == values
    assert (out.acked_total, spool.acked, spool.depth, out.idle) == (50, 50, 0, True)
    topic, key, _, headers = producer.delivered[0]
    assert (topic, key) == (TELEMETRY.name, b"node")
    assert headers == [("content-type", b"application/json"), ("schema", b"1")]


def test_keeps_everything_while_the_broker_is_away(spool: Spool, clock: Clock) -> None:
    producer = FakeProducer()
    producer.away = True
    values = fill(spool, 300)
    out = publisher(spool, producer, clock, window=100)
    for _ in range(5):
        out.pump()
    assert (out.in_flight, spool.depth, spool.acked) == (100, 300, 0)
    producer.away = False
    assert out.drain(5) is True
    assert producer.values() == values


def test_a_full_queue_waits(spool: Spool, clock: Clock) -> None:
    producer = FakeProducer(queue_size=7)
    producer.away = True
    values = fill(spool, 30)
    out = publisher(spool, producer, clock)
    assert out.pump() == 7
    assert out.pump() == 0
    producer.away = False
    assert out.drain(5) is True
    assert producer.values() == values


def test_reports_out_of_order_are_acknowledged_in_order(spool: Spool, clock: Clock) -> None:
    producer = FakeProducer()
    producer.shuffle = producer.away = True
    fill(spool, 10)
    out = publisher(spool, producer, clock)
    out.pump()
    producer.away = False
    first = producer.queue.popleft()
    producer.poll()
    assert spool.acked == 0
    first[1](None, None)
    assert (spool.acked, out.acked_total) == (10, 10)


def test_a_failed_delivery_is_sent_again_in_order(spool: Spool, clock: Clock) -> None:
    producer = FakeProducer()
    values = fill(spool, 10)
    out = publisher(spool, producer, clock)
    producer.fail_next.extend([None, None, None, *[KafkaError.TOPIC_AUTHORIZATION_FAILED] * 7])
    out.pump()
    assert spool.acked == 3
    assert out.pump() == 0
    clock.now += RETRY_S
    assert out.drain(5) is True
    assert producer.values() == values
    assert out.acked_total == 10


def test_waits_for_what_follows_a_failure_before_sending_again(spool: Spool, clock: Clock) -> None:
    producer = FakeProducer()
    producer.away = True
    fill(spool, 3)
    out = publisher(spool, producer, clock)
    out.pump()
    _, report = producer.queue.popleft()
    report(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), None)
    clock.now += 10
    assert out.pump() == 0
    producer.away = False
    producer.poll()
    out.pump()
    clock.now += RETRY_S
    out.drain(5)
    assert producer.values() == [b"000002", b"000003", b"000001", b"000002", b"000003"]
    assert out.acked_total == 3


def test_a_record_that_is_never_taken_is_counted_and_stepped_over(spool: Spool, clock: Clock) -> None:
    producer = FakeProducer()
    values = fill(spool, 4)
    out = publisher(spool, producer, clock)
    producer.refuse.append(KafkaError.MSG_SIZE_TOO_LARGE)
    producer.fail_next.extend([KafkaError.MSG_SIZE_TOO_LARGE, None])
    assert out.drain(5) is True
    assert producer.values() == values[2:]
    assert (out.refused_total, out.acked_total, spool.acked) == (2, 2, 4)


def test_a_fatal_producer_is_replaced_and_goes_on_from_the_first_in_doubt(spool: Spool, clock: Clock) -> None:
    made: list[FakeProducer] = []

    def make() -> FakeProducer:
        made.append(FakeProducer())
        return made[-1]

    producer = RebuildingProducer(make)
    values = fill(spool, 20)
    out, other = publisher(spool, producer, clock), publisher(spool, producer, clock)
    out.pump(5)
    out.pump(5)
    made[0].away = True
    out.pump(5)
    made[0].away = False
    made[0].fatal = True
    out.drain(5)
    assert len(made) == 2
    assert made[0].purged == 1
    assert made[0].values() + made[1].values() == values
    assert out.acked_total == 20
    assert other.pump() == 0


def test_a_fatal_producer_that_cannot_be_replaced_ends_the_process(spool: Spool, clock: Clock) -> None:
    producer = FakeProducer()
    producer.fatal = True
    fill(spool, 1)
    out = publisher(spool, producer, clock)
    out.pump()
    with pytest.raises(PublishError, match="restart the agent: the spool keeps its place"):
        out.pump()


def test_late_reports_of_a_replaced_producer_do_no_harm(spool: Spool, clock: Clock) -> None:
    producers = [FakeProducer(), FakeProducer()]
    queue = list(producers)
    producer = RebuildingProducer(lambda: queue.pop(0))
    fill(spool, 5)
    out = publisher(spool, producer, clock)
    producers[0].away = True
    out.pump()
    late = [report for _, report in producers[0].queue]
    producer.rebuild(0, "test")
    late[0](None, None)
    late[1](KafkaError(KafkaError._PURGE_QUEUE), None)
    assert out.drain(5) is True
    assert producers[1].values() == [b"000002", b"000003", b"000004", b"000005"]
    assert out.acked_total == 5


def ack(seq: int) -> PowerApplied:
    return PowerApplied(
        cluster="c",
        node="n1",
        ts_ns=1,
        event="command",
        epoch=1,
        seq=seq,
        gpu=AckColumns(
            uuid=(),
            status=(),
            reason=(),
            requested_limit_w=(),
            effective_limit_w=(),
            previous_limit_w=(),
            requested_sm_mhz=(),
            effective_sm_mhz=(),
            measured_w=(),
        ),
        quality="simulated",
        ack_seq=seq,
        capper_id="abc",
    )


def test_acknowledgements_survive_a_restart_and_carry_their_identity(tmp_path: Path, clock: Clock) -> None:
    def open_spool() -> Spool:
        return Spool(tmp_path / "acks", max_bytes=1 << 20, segment_bytes=1 << 14, clock=clock)

    away = FakeProducer()
    away.away = True
    spool = open_spool()
    events = EventPublisher(spool, away)
    events.put(ack(1))
    events.put(ack(2))
    events.pump()
    assert events.idle is False
    spool.close()

    spool, producer = open_spool(), FakeProducer()
    events = EventPublisher(spool, away)
    events.use(producer)
    assert events.drain(5) is True
    spool.close()
    assert [codec.decode(PowerApplied, v).ack_seq for v in producer.values()] == [1, 2]
    topic, key, _, headers = producer.delivered[1]
    assert (topic, key) == (APPLIED.name, b"n1")
    assert dict(headers)["ce_id"] == b"n1-abc-2"
    assert dict(headers)["ce_type"] == APPLIED.name.encode()
    assert events.acked_total == 2
