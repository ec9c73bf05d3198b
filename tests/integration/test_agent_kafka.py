"""A real agent process on a real broker: samples survive a killed and a paused broker and a killed agent; commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agents.node.commands import CommandReader
from agents.node.spool import Spool
from streams.contract import codec
from streams.contract.kafka import assigned_consumer_config, partition_of, producer_config
from streams.contract.records import NodeTelemetry, PowerApplied, PowerDesired
from streams.contract.topics import APPLIED, DESIRED, TELEMETRY
from tests.fakes.sources import desired

pytestmark = pytest.mark.integration
PARTITIONS = 4
DEADLINE_S = 60.0


def until(condition: Callable[[], Any], seconds: float = DEADLINE_S) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.1)
    return found


class Tap:
    """Everything of one node in one topic, from its own partition."""

    def __init__(self, bootstrap: str, topic: str, node: str) -> None:
        self._node = node.encode()
        self._consumer = Consumer(assigned_consumer_config(bootstrap, "tap"))
        self._consumer.assign([TopicPartition(topic, partition_of(self._node, PARTITIONS), 0)])
        self.values: list[bytes] = []
        self.headers: list[dict[str, bytes]] = []

    def read(self) -> list[bytes]:
        for message in self._consumer.consume(10_000, 0.2):
            if message.error() is None and message.key() == self._node:
                self.values.append(message.value())
                self.headers.append(dict(message.headers()))
        return self.values

    def telemetry(self) -> list[NodeTelemetry]:
        return [codec.decode(NodeTelemetry, value) for value in self.read()]

    def close(self) -> None:
        self._consumer.close()


class Agent:
    """`eo agent` as a process, ten samples a second."""

    def __init__(self, folder: Path, node: str, bootstrap: str) -> None:
        self._folder, self._node, self._bootstrap = folder, node, bootstrap
        self.spool = folder / "data/spool" / node / "telemetry"

    def start(self, failpoint: str = "") -> None:
        env = {
            **os.environ,
            "EO_DATA_DIR": str(self._folder / "data"),
            "EO_NODE_NAME": self._node,
            "EO_NODE_SAMPLE_INTERVAL_S": "0.1",
            "EO_NODE_METRICS_PORT": "0",
            "EO_FAILPOINT": failpoint,
            "KAFKA_BOOTSTRAP": self._bootstrap,
        }
        self._log = (self._folder / "agent.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agents", "agent", "--source", "procfs"], env=env, stdout=self._log, stderr=self._log
        )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(30)
        self._log.close()
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.wait()

    def spools_more(self, samples: int) -> None:
        """Waits until so many more samples lie on the disk."""

        def size() -> int:
            return sum(path.stat().st_size for path in self.spool.glob("*.seg"))

        goal = size() + samples * 500
        until(lambda: size() > goal)

    def log(self) -> str:
        return (self._folder / "agent.log").read_text()


@pytest.fixture
def node(tmp_path: Path) -> str:
    return f"node-{tmp_path.name}"


@pytest.fixture
def agent(topics: str, tmp_path: Path, node: str) -> Iterator[Agent]:
    made = Agent(tmp_path, node, topics)
    yield made
    made.end()


@pytest.fixture
def tap(topics: str, node: str) -> Iterator[Tap]:
    made = Tap(topics, TELEMETRY.name, node)
    yield made
    made.close()


def in_order(records: list[NodeTelemetry]) -> dict[str, list[int]]:
    """Sequence numbers by boot, first arrivals only; each boot must be whole and in order."""
    boots: dict[str, list[int]] = {}
    for record in records:
        seen = boots.setdefault(record.boot_id, [])
        if record.seq not in seen:
            seen.append(record.seq)
    for seqs in boots.values():
        assert seqs == list(range(1, len(seqs) + 1))
    return boots


def test_samples_survive_a_killed_and_a_paused_broker(agent: Agent, tap: Tap, kafka: Any) -> None:
    agent.start()
    until(lambda: len(tap.telemetry()) >= 5)
    kafka.kill()
    before = len(tap.values)
    agent.spools_more(20)
    kafka.restart()
    until(lambda: len(tap.telemetry()) >= before + 25)
    kafka.pause()
    agent.spools_more(20)
    kafka.resume()
    before = len(tap.values)
    until(lambda: len(tap.telemetry()) >= before + 25)
    assert agent.stop() == 0, agent.log()
    until(lambda: max(in_order(tap.telemetry()).values())[-1] >= before)
    records = tap.telemetry()
    (seqs,) = in_order(records).values()
    assert len(seqs) >= 50
    assert {record.lost_total for record in records} == {0}
    assert max(record.spool_depth or 0 for record in records) > 5
    assert tap.headers[0] == {"content-type": b"application/json", "schema": b"1"}
    assert records[-1].host is not None
    spool = Spool(agent.spool)
    assert (spool.depth, spool.acked) == (0, seqs[-1])
    spool.close()


def test_a_killed_agent_loses_nothing_and_repeats_little(agent: Agent, tap: Tap) -> None:
    agent.start("agent.after_produce_before_ack:kill:15")
    assert agent.wait() == -signal.SIGKILL
    agent.start("agent.after_sample:kill:12")
    assert agent.wait() == -signal.SIGKILL
    agent.start()
    until(lambda: len(in_order(tap.telemetry())) >= 3 and len(tap.values) >= 40)
    assert agent.stop() == 0, agent.log()
    boots = in_order(tap.telemetry())
    assert [len(seqs) for seqs in boots.values()][:2] == [15, 11]
    assert {record.lost_total for record in tap.telemetry()} == {0}


def test_metrics_and_run_file_come_and_go(agent: Agent, tmp_path: Path, node: str) -> None:
    from urllib.request import urlopen

    agent.start()
    note = tmp_path / "data/run" / f"agent-{node}.json"
    until(note.exists)
    facts = json.loads(note.read_text())
    assert (facts["role"], facts["pid"]) == ("agent", agent.process.pid)

    def published() -> bool:
        with urlopen(facts["metrics"], timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        value = next(line for line in lines if line.startswith("eo_published_total{"))
        return float(value.split()[-1]) >= 3

    until(published)
    assert agent.stop() == 0, agent.log()
    assert not note.exists()


def test_commands_without_a_capper_are_answered_with_the_reason(agent: Agent, topics: str, node: str) -> None:
    agent.start()
    tap = Tap(topics, APPLIED.name, node)
    producer = Producer(producer_config(topics, "test"))
    raw = desired(1, issued_at_ns=time.time_ns())
    producer.produce(DESIRED.name, raw, node.encode())
    assert producer.flush(20) == 0
    until(lambda: tap.read())
    ack = codec.decode(PowerApplied, tap.values[0])
    assert (ack.node, ack.seq, set(ack.gpu.status)) == (node, 1, {"refused"})
    assert "start it with `eo capper`" in ack.gpu.reason[0]
    assert tap.headers[0]["ce_type"] == APPLIED.name.encode()
    tap.close()


def test_commands_of_a_transactional_writer_are_read_from_the_compacted_start(topics: str, node: str) -> None:
    producer = Producer({**producer_config(topics, "writer"), "transactional.id": node})
    producer.init_transactions(30)
    partition = partition_of(node.encode(), PARTITIONS)

    def write(*seqs: int, commit: bool = True, age_s: float = 0.0) -> None:
        producer.begin_transaction()
        for seq in seqs:
            raw = desired(seq, issued_at_ns=time.time_ns() - int(age_s * 1e9))
            producer.produce(DESIRED.name, raw, node.encode(), partition=partition)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.flush(10)
            producer.abort_transaction(30)

    write(1, 2, 3)
    write(4, commit=False)
    got: list[int] = []

    def take(raw: bytes, _received_ns: int) -> None:
        got.append(codec.decode(PowerDesired, raw).seq)

    reader = CommandReader(Consumer(assigned_consumer_config(topics, node)), None, {node: take})
    until(lambda: reader.poll(100, 0.3) or got)
    assert got == [3]
    write(5)
    write(6)
    until(lambda: reader.poll(100, 0.3) and got[-1] == 6)
    assert got in ([3, 5, 6], [3, 6])
    reader.close()

    write(7, age_s=120)
    got.clear()
    late = CommandReader(Consumer(assigned_consumer_config(topics, node)), None, {node: take})
    until(lambda: late.poll(100, 0.3) == 0 and not late.catching_up)
    assert (got, late.stale_total) == ([], 1)
    late.close()
