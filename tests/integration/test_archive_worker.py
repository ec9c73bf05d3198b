"""The archive worker as a process on a real broker: killed at each failpoint, poisoned, and exact in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from streams.contract import codec
from streams.contract.dlq import DeadLetter
from streams.contract.kafka import assigned_consumer_config, producer_config
from streams.contract.topics import DLQ, TELEMETRY, topic_of
from tests.fakes import archive as fake
from tests.fakes.archive_rig import rows_of

pytestmark = pytest.mark.integration
FAILPOINTS = (
    "archive.mid_rowgroup",
    "archive.before_footer",
    "archive.before_rename",
    "archive.after_rename_before_commit",
)
SECONDS = 12  # per round


class Worker:
    """`eo worker archive` with a data folder and a group of its own."""

    def __init__(self, bootstrap: str, folder: Path, cluster: str) -> None:
        self.archive = folder / "archive"
        self._log = (folder / "worker.log").open("ab")
        self._env = {
            **os.environ,
            "KAFKA_BOOTSTRAP": bootstrap,
            "EO_DATA_DIR": str(folder),
            "EO_CLUSTER": cluster,
            "EO_ARCHIVE_FLUSH_S": "0.3",
            "EO_INSTANCE_ID": "archive-0",  # a restart keeps its partitions instead of waiting for a session to end
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, failpoint: str = "") -> None:
        command = [sys.executable, "-c", "from agents.cli.main import entry; entry()", "worker", "archive"]
        env = {**self._env, "EO_FAILPOINT": failpoint}
        self._process = subprocess.Popen(command, env=env, stdout=self._log, stderr=self._log)

    def wait(self, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait(30)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()


@pytest.fixture
def worker(topics: str, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(topics, tmp_path, f"arch-{uuid.uuid4().hex[:8]}")
    yield made
    made.close()


def poll(what: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.2)
    return False


class Sender:
    """Nodes of one run, told apart from those of other tests by their boot id, and a poison message per round."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(producer_config(bootstrap, "archive-test"))
        self.boot_id = f"boot-{uuid.uuid4().hex}"
        self.seconds = 0
        self.poison: set[bytes] = set()

    def round(self) -> None:
        for second in range(self.seconds, self.seconds + SECONDS):
            for node in fake.NODES:
                record = fake.telemetry(node, second, boot_id=self.boot_id)
                copies = 2 if second % 5 == 0 else 1
                for _ in range(copies):
                    topic = topic_of(type(record)).name
                    self._producer.produce(topic, key=node.encode(), value=codec.encode(record))
        poison = b"not a record " + uuid.uuid4().hex.encode()
        self._producer.produce(TELEMETRY.name, key=b"node-a", value=poison)
        self.poison.add(poison)
        self.seconds += SECONDS
        assert self._producer.flush(30) == 0


def archived(worker: Worker, boot_id: str, dataset: str) -> Counter[tuple[str, int]]:
    rows = rows_of(worker.archive, dataset, "node, seq, boot_id")
    return Counter((node, seq) for node, seq, boot in rows if boot == boot_id)


def letters(bootstrap: str) -> set[bytes]:
    """Values that the archive has put on the dead-letter queue."""
    consumer = Consumer(assigned_consumer_config(bootstrap, f"dlq-{uuid.uuid4().hex[:8]}"))
    found: set[bytes] = set()
    try:
        places = [
            TopicPartition(DLQ.name, number, 0) for number in consumer.list_topics(DLQ.name).topics[DLQ.name].partitions
        ]
        left = sum(consumer.get_watermark_offsets(place)[1] for place in places)
        consumer.assign(places)
        deadline = time.monotonic() + 20
        while left > 0 and time.monotonic() < deadline:
            for message in consumer.consume(500, 0.5):
                left -= 1
                if DeadLetter.from_headers(message.headers()).component == "archive":
                    found.add(bytes(message.value() or b""))
    finally:
        consumer.close()
    return found


def test_killed_at_each_failpoint_every_acknowledged_sample_is_one_row(topics: str, worker: Worker) -> None:
    sender = Sender(topics)
    for failpoint in FAILPOINTS:
        sender.round()
        worker.start(f"{failpoint}:kill")
        assert worker.wait(60) == -signal.SIGKILL, f"{failpoint} was not reached"
    sender.round()
    worker.start()
    expected = Counter({(node, second): 1 for second in range(sender.seconds) for node in fake.NODES})
    complete = poll(lambda: archived(worker, sender.boot_id, "host.reading") >= expected, 60)
    assert complete, f"archived {archived(worker, sender.boot_id, 'host.reading').total()} of {expected.total()}"
    assert worker.stop() == 0
    assert archived(worker, sender.boot_id, "host.reading") == expected
    gpus = {"node-a": 4, "node-b": 3}
    per_gpu = Counter({(node, second): gpus[node] for node, second in expected})
    assert archived(worker, sender.boot_id, "telemetry.node") == per_gpu
    assert sender.poison <= letters(topics)
    assert not any(path.suffix for path in (worker.archive / "_tmp").iterdir())
