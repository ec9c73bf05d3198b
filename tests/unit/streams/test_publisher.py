"""Receipts tell exactly when a batch's outputs are on the broker; dead letters keep their bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams import publisher as publisher_module
from streams.contract import records as r
from streams.contract.dlq import DeadLetter
from streams.contract.topics import DLQ, STATE
from streams.errors import DeliveryFailed
from streams.publisher import Publisher


class FakeProducer:
    """Named faults: `full` = produce raises BufferError this many times; `broken` = produce raises for good."""

    def __init__(self, *, full: int = 0, broken: bool = False) -> None:
        self.full, self.broken = full, broken
        self.messages: list[tuple[str, dict[str, Any]]] = []

    def produce(self, topic: str, **kwargs: Any) -> None:
        from confluent_kafka import KafkaError, KafkaException

        if self.broken:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "Message size too large"))
        if self.full > 0:
            self.full -= 1
            raise BufferError("queue full")
        self.messages.append((topic, kwargs))

    def report(self, at: int, error: str | None = None) -> None:
        class Message:
            def topic(self) -> str:
                return "t"

        self.messages[at][1]["on_delivery"](error, Message())

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        return len(self)

    def __len__(self) -> int:
        return len(self.messages)


def made(**faults: Any) -> tuple[Publisher, FakeProducer]:
    producer = FakeProducer(**faults)
    return Publisher("nowhere:1", "test", producer=producer), producer


def test_a_receipt_covers_what_was_sent_since_the_last_seal() -> None:
    publisher, producer = made()
    publisher.send_raw("a", b"1", b"x")
    first = publisher.seal()
    publisher.send_raw("a", b"2", b"x")
    second = publisher.seal()
    producer.report(1)
    assert (first.done, second.done) == (False, True)
    producer.report(0)
    assert first.done and first.error is None
    assert (first.sent, second.sent) == (1, 1)


def test_a_receipt_without_outputs_is_done_at_once_but_not_before_its_seal() -> None:
    publisher, _ = made()
    assert publisher.seal().done
    assert not publisher._open.done


def test_a_refused_message_stands_in_the_receipt() -> None:
    publisher, producer = made()
    publisher.send_raw("a", b"1", b"x")
    receipt = publisher.seal()
    producer.report(0, "not authorised")
    assert receipt.done
    assert receipt.error == "the broker refused a message for t: not authorised"


def test_a_full_queue_is_waited_for() -> None:
    publisher, producer = made(full=3)
    publisher.send_raw("a", b"1", b"x")
    assert len(producer.messages) == 1


def test_a_queue_that_stays_full_is_an_error_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "FULL_WAIT_S", 0.0)
    publisher, _ = made(full=10**9)
    with pytest.raises(DeliveryFailed, match=r"0 messages have waited 0 s for the broker; check it with `eo doctor"):
        publisher.send_raw("a", b"1", b"x")
    assert publisher.seal().done


def test_a_message_that_can_never_be_taken_is_an_error_with_its_size() -> None:
    publisher, _ = made(broken=True)
    with pytest.raises(DeliveryFailed, match=r"^a: a message of 3 bytes was refused: .*too large"):
        publisher.send_raw("a", b"1", b"xyz")


def test_a_record_goes_to_its_topic_with_the_contracts_headers() -> None:
    publisher, producer = made()
    state = r.JobState(job="j", partition=0, ts_ns=1, offsets={}, data=msgspec.Raw(b"{}"))
    publisher.send(state, "j/0", source="j")
    ((topic, sent),) = producer.messages
    assert (topic, sent["key"]) == (STATE.name, b"j/0")
    assert dict(sent["headers"])["content-type"] == b"application/json"


def test_a_dead_letter_keeps_key_and_value_and_is_counted() -> None:
    publisher, producer = made()
    dead = DeadLetter("t", 3, 42, "why", "features", 7)
    publisher.dead_letter(dead, b"k", b"\xff")
    ((topic, sent),) = producer.messages
    assert (topic, sent["key"], sent["value"]) == (DLQ.name, b"k", b"\xff")
    assert DeadLetter.from_headers(sent["headers"]) == dead
    assert publisher.dead_letters == 1
