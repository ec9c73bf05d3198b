"""Snapshots: each cluster, job and partition finds its own, and only its own."""

from __future__ import annotations

import pytest

from streams.contract import codec
from streams.contract.kafka import partition_of
from streams.contract.records import Record
from streams.contract.topics import STATE
from streams.replay import ReplayRecord
from streams.state import StateStore
from tests.unit.streams.support import MemoryReplay

PARTITIONS = 4


class Topic:
    """The state topic: a publisher to write it, a replay per partition to read it."""

    def __init__(self) -> None:
        self.logs: dict[int, list[ReplayRecord]] = {number: [] for number in range(PARTITIONS)}

    def send(self, record: Record, key: str, *, source: str) -> None:
        log = self.logs[partition_of(key.encode(), PARTITIONS)]
        log.append(ReplayRecord(len(log), key.encode(), codec.encode(record), (), 0))


class Reader(MemoryReplay):
    def __init__(self, topic: Topic) -> None:
        super().__init__([])
        self._topic = topic

    def partitions(self, topic: str) -> int:
        assert topic == STATE.name
        return PARTITIONS

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        self.log = self._topic.logs[partition]  # type: ignore[assignment]  # records of either kind have what is read
        return super().bounds(topic, partition)


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    made = Topic()
    monkeypatch.setattr("streams.state.Replay", Reader(made))
    return made


def store(topic: Topic, cluster: str) -> StateStore:
    return StateStore("nowhere:1", topic, cluster=cluster, client_id="t")  # type: ignore[arg-type]  # a stand-in


def test_clusters_on_one_broker_do_not_take_each_other_s_snapshots(topic: Topic) -> None:
    ours, theirs = store(topic, "ours"), store(topic, "theirs")
    assert ours.load("actuation", 0) is None
    theirs.save("actuation", 0, "theirs", {})
    assert ours.load("actuation", 0) is None
    ours.save("actuation", 0, "ours", {"t": 7})
    theirs.save("actuation", 0, "theirs again", {})
    found = ours.load("actuation", 0)
    assert found is not None and (bytes(found.data), found.offsets) == (b'"ours"', {"t": 7})
    assert ours.load("actuation", 1) is None and ours.load("features", 0) is None
