"""The agent's Kafka side without Kafka: no broker, one that appears later, a command reader that fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.node import kafka_side
from agents.node.errors import PublishError
from agents.node.kafka_side import ASK_AGAIN_S, KafkaSide
from agents.node.spool import Spool
from tests.fakes.kafka_producer import FakeProducer
from tests.fakes.sources import applied


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spools(tmp_path: Path, clock: Clock) -> Iterator[tuple[Spool, Spool]]:
    pair = [Spool(tmp_path / name, max_bytes=1 << 20, segment_bytes=1 << 16, clock=clock) for name in ("t", "a")]
    yield pair[0], pair[1]
    for spool in pair:
        spool.close()


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> FakeProducer:
    made = FakeProducer()
    monkeypatch.setattr(kafka_side, "_producer", lambda address, node: made)
    return made


def side(spools: tuple[Spool, Spool], clock: Clock, addresses: list[str | None]) -> KafkaSide:
    def bootstrap() -> str | None:
        return addresses.pop(0) if addresses else None

    return KafkaSide("n1", *spools, bootstrap=bootstrap, deliver=lambda raw, ns: None, monotonic=clock)


def test_without_a_broker_it_keeps_and_syncs(spools: tuple[Spool, Spool], clock: Clock) -> None:
    kafka = side(spools, clock, [])
    spools[0].append(b"n1", b"x")
    clock.now = 1.0
    kafka.pump()
    assert (kafka.published, kafka.busy, spools[0].depth) == (0, False, 1)
    assert spools[0].sync() is False  # it just did
    assert kafka.drain(1.0) is False


def test_asks_again_for_a_broker_and_then_sends_everything(
    spools: tuple[Spool, Spool], clock: Clock, producer: FakeProducer, caplog: pytest.LogCaptureFixture
) -> None:
    addresses: list[str | None] = [None, None, "127.0.0.1:9"]
    kafka = side(spools, clock, addresses)
    spools[0].append(b"n1", b"sample")
    kafka.events.put(applied("command", "applied"))
    for _ in range(4):
        kafka.pump()
        clock.now += ASK_AGAIN_S / 2
    assert len(addresses) == 1
    assert len([r for r in caplog.records if "no broker is known" in r.message]) == 1
    clock.now += ASK_AGAIN_S
    kafka.pump()
    assert addresses == []
    assert kafka.drain(5) is True
    assert kafka.close(0) is True
    assert kafka.published == 1
    assert len(producer.delivered) == 2


def test_a_command_reader_that_fails_ends_the_agent(
    spools: tuple[Spool, Spool], clock: Clock, producer: FakeProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Consumer:
        def poll(self, timeout: float) -> Any:
            raise RuntimeError("broken client")

        def list_topics(self, topic: str, timeout: float) -> Any:
            raise RuntimeError("broken client")

        def close(self) -> None:
            done.set()

    done = threading.Event()
    monkeypatch.setattr(kafka_side, "_consumer", lambda address, node: Consumer())
    kafka = side(spools, clock, ["127.0.0.1:9"])
    kafka.start()
    assert done.wait(10)
    with pytest.raises(PublishError, match=r"broken client\); start the agent again"):
        kafka.pump()
    kafka.close(0)
