"""The batch transport on transactional and compacted topics, snapshots, and reading a stretch again: real Kafka."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from streams.app import _serve
from streams.contract.kafka import producer_config
from streams.contract.topics import DESIRED, STATE, TELEMETRY, Topic
from streams.errors import JobFailed, StreamsError
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.liveness import EndOffsets
from streams.progress import Partition
from streams.publisher import Publisher
from streams.replay import Replay
from streams.settings import WorkerSettings
from streams.state import StateStore

pytestmark = pytest.mark.integration


class Collector:
    """Keeps what it reads of the commands topic; ends its worker at `last`, or raises after `fail_after` batches."""

    name = "ledger"
    topics: tuple[Topic, ...] = (DESIRED,)

    def __init__(self, last: bytes, *, fail: bool = False) -> None:
        self.last, self.fail = last, fail
        self.seen: list[tuple[int, int, bytes | None]] = []
        self.batches: list[int] = []

    def start(self, ctx: JobContext) -> None:
        self.ctx = ctx

    def assign(self, partitions: frozenset[int]) -> None:
        return None

    def revoke(self, partitions: frozenset[int]) -> None:
        return None

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        if self.fail:
            raise ValueError("cannot go on")
        self.batches.append(len(records))
        self.seen += [(partition, record.offset, record.value) for record in records]
        return Outcome.ACK

    def tick(self) -> Iterable[tuple[str, int, int]]:
        if any(value == self.last for _, _, value in self.seen):
            asyncio.get_running_loop().call_later(1.0, self._end)
            self.last = b"\0"
        return ()

    def _end(self) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        return None


def settings(bootstrap: str, folder: Path) -> WorkerSettings:
    return WorkerSettings(
        cluster=f"t{uuid.uuid4().hex[:8]}", bootstrap=bootstrap, data_dir=folder, max_batch=50, commit_interval_s=0.2
    )


def write_transactions(bootstrap: str, mark: str, *, rounds: int) -> list[bytes]:
    """Committed and aborted transactions in turn on partition 0; returns the committed values."""
    config = producer_config(bootstrap, mark) | {"transactional.id": mark}
    config.pop("message.timeout.ms")
    producer = Producer(config)
    producer.init_transactions(30)
    committed = []
    for number in range(rounds):
        producer.begin_transaction()
        values = [f"{mark}-{number}-{index}".encode() for index in range(10)]
        for index, value in enumerate(values):
            producer.produce(DESIRED.name, value, key=f"{mark}-{index}".encode(), partition=0)
        if number % 3 == 1:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
            committed += values
    return committed


def committed_offset(bootstrap: str, group: str, tp: Partition) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        (found,) = consumer.committed([TopicPartition(*tp)], timeout=20)
        return int(found.offset)
    finally:
        consumer.close()


def test_transactions_are_read_once_committed_ones_only_and_commits_pass_their_markers(
    topics: str, tmp_path: Path
) -> None:
    mark = f"txn{uuid.uuid4().hex[:6]}"
    wanted = write_transactions(topics, mark, rounds=15)
    job, conf = Collector(wanted[-1]), settings(topics, tmp_path)
    asyncio.run(_serve(job, conf))
    ours = [value for _, _, value in job.seen if value is not None and value.startswith(mark.encode())]
    assert ours == wanted
    assert max(job.batches) <= 50
    last = max(offset for partition, offset, _ in job.seen if partition == 0)
    assert committed_offset(topics, conf.group("ledger"), Partition(DESIRED.name, 0)) == last + 1
    again = Collector(wanted[-1])
    extra = write_transactions(topics, f"{mark}x", rounds=1)
    again.last = extra[-1]
    asyncio.run(_serve(again, conf))
    assert [value for _, _, value in again.seen] == extra


def test_a_job_that_fails_commits_nothing(topics: str, tmp_path: Path) -> None:
    write_transactions(topics, f"fail{uuid.uuid4().hex[:6]}", rounds=1)
    job, conf = Collector(b"", fail=True), settings(topics, tmp_path)
    with pytest.raises(
        JobFailed, match=r"^job ledger failed processing energy\.power\.desired\.v1 \d@\d+\.\.\d+: Value"
    ):
        asyncio.run(_serve(job, conf))
    for partition in range(4):
        assert committed_offset(topics, conf.group("ledger"), Partition(DESIRED.name, partition)) < 0


def test_end_offsets_are_those_of_the_log_and_none_without_a_broker(topics: str) -> None:
    tp = Partition(DESIRED.name, 0)
    write_transactions(topics, f"end{uuid.uuid4().hex[:6]}", rounds=1)
    with Replay(topics, "test-ends") as replay:
        _, high = replay.bounds(*tp)
    assert EndOffsets(topics, "test-ends").ask([tp], 20) == {tp: high}
    assert EndOffsets("127.0.0.1:1", "test-ends").ask([tp], 0.5) is None
    assert EndOffsets(topics, "test-ends").ask([], 1) == {}


def test_a_stretch_is_read_exactly(topics: str) -> None:
    mark = uuid.uuid4().hex[:8].encode()
    producer = Producer(producer_config(topics, "test-stretch"))
    begun_ms = int(time.time() * 1000)
    for number in range(1200):
        producer.produce(TELEMETRY.name, mark + b"-%d" % number, key=b"k", partition=1, headers=[("h", b"1")])
    assert producer.flush(30) == 0
    with Replay(topics, "test-stretch") as replay:
        _, high = replay.bounds(TELEMETRY.name, 1)
        chunks = list(replay.read(TELEMETRY.name, 1, start=high - 1100, end=high - 100))
        records = [record for chunk in chunks for record in chunk]
        assert [record.value for record in records] == [mark + b"-%d" % number for number in range(100, 1100)]
        assert (records[0].key, records[0].headers, records[0].offset) == (b"k", (("h", b"1"),), high - 1100)
        assert abs(records[0].timestamp - begun_ms) < 60_000
        assert list(replay.read(TELEMETRY.name, 1, start=5, end=5)) == []
        assert sum(map(len, replay.read(TELEMETRY.name, 1, start=high - 3, end=high + 1000))) == 3
        assert replay.offset_at(TELEMETRY.name, 1, begun_ms - 1) <= high - 1200
        assert replay.offset_at(TELEMETRY.name, 1, begun_ms + 3_600_000) == high
        with pytest.raises(StreamsError, match="cannot be read"):
            replay.partitions("energy.none.v1")


class Taken(msgspec.Struct):
    number: int


def test_the_newest_readable_snapshot_of_a_partition_is_found(topics: str) -> None:
    publisher = Publisher(topics, "test-state")
    store = StateStore(topics, publisher, cluster="c1", client_id="test-state", interval_s=30.0)
    job = f"job{uuid.uuid4().hex[:6]}"
    assert store.load(job, 3) is None
    for number in range(400):  # more than the first look holds
        store.save(job, 3, Taken(number), {TELEMETRY.name: number}, 7)
        store.save(job, 4 + number % 9, Taken(-number), {}, 1)
    for _ in range(300):
        publisher.send_raw(STATE.name, f"c1/{job}/3".encode(), b"not json")
    assert publisher.flush(30) == 0
    found = store.load(job, 3)
    assert found is not None
    assert (found.offsets, found.data_version) == ({TELEMETRY.name: 399}, 7)
    assert msgspec.json.decode(found.data, type=Taken) == Taken(399)
    other = store.load(job, 4)
    assert other is not None and other.partition == 4
    neighbour = StateStore(topics, publisher, cluster="c2", client_id="test-state")
    assert neighbour.load(job, 3) is None  # another cluster on the same broker


def test_snapshots_are_due_once_per_interval() -> None:
    now = [100.0]
    publisher = Publisher("127.0.0.1:1", "test-due", producer=_Nowhere())
    store = StateStore("127.0.0.1:1", publisher, cluster="c1", client_id="t", interval_s=30.0, monotonic=lambda: now[0])
    assert not store.due("j", 0)
    now[0] += 30
    assert store.due("j", 0)
    store.save("j", 0, {}, {})
    assert not store.due("j", 0)


class _Nowhere:
    def produce(self, topic: str, **kwargs: object) -> None:
        return None

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        return 0

    def __len__(self) -> int:
        return 0
