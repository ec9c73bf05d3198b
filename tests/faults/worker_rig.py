"""Real workers on a real broker: start, watch, kill by pid; telemetry in, and the books of what came out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Producer

from streams.contract import codec
from streams.contract.kafka import producer_config
from streams.contract.records import GpuColumns, NodeFeatures, NodeTelemetry
from streams.contract.topics import DLQ, FEATURES, TELEMETRY, Topic
from streams.replay import Replay

S = 1_000_000_000
# Short times, so that a killed member is missed within seconds.
FAST = {"EO_SESSION_S": "3", "EO_HEARTBEAT_S": "1", "EO_REBALANCE_S": "4", "EO_COMMIT_INTERVAL_S": "0.3"}
Identity = tuple[str, int]


def until(done: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Waits for a condition; fails with what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.05)


class Worker:
    """One `eo worker` process with its log."""

    def __init__(self, bootstrap: str, folder: Path, *args: str, cluster: str, **env: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / f"{uuid.uuid4().hex[:6]}.log"
        given = os.environ | FAST | {"KAFKA_BOOTSTRAP": bootstrap, "EO_DATA_DIR": str(folder), "EO_CLUSTER": cluster}
        with self.log.open("wb") as out:
            command = [sys.executable, *(args or ("-m", "agents", "worker", "features"))]
            self.process = subprocess.Popen(command, env=given | env, stdout=out, stderr=out, cwd=Path.cwd())

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self, times: int = 1, timeout_s: float = 40.0) -> None:
        """Until it has been given partitions, `times` times."""
        until(
            lambda: self._given() >= times or self.process.poll() is not None, timeout_s, f"ready: {self.text()[-800:]}"
        )
        assert self.process.poll() is None, self.text()

    def _given(self) -> int:
        lines = self.text().splitlines()
        return sum("assigned, ready" in line and "partitions []" not in line for line in lines)

    def wait_end(self, timeout_s: float = 40.0) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {timeout_s:.0f} s: {self.text()[-800:]}") from None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> int:
        self.process.terminate()
        return self.wait_end()

    def note(self, name: str) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / "run" / f"{name}.json").read_text())
        return found

    def close(self) -> None:
        """Ends it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)


@dataclass
class Fleet:
    """Telemetry of a few nodes of its own, numbered without a gap, written in the background."""

    bootstrap: str
    nodes: int = 6
    per_second: int = 150
    name: str = field(default_factory=lambda: f"f{uuid.uuid4().hex[:8]}")
    sent: set[Identity] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._producer = Producer(producer_config(self.bootstrap, f"test-{self.name}"))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more telemetry; what was written is on the broker."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
        assert self._producer.flush(60) == 0

    def _run(self) -> None:
        seq = 0
        while not self._stop.is_set():
            seq += 1
            self.write(seq)
            self._stop.wait(self.nodes / self.per_second)

    def write(self, seq: int) -> None:
        """One sample of every node; counted as sent when the broker has it."""
        for index in range(self.nodes):
            node = f"{self.name}-{index}"

            def acked(error: object, message: object, identity: Identity = (node, seq)) -> None:
                if error is None:
                    self.sent.add(identity)

            value = codec.encode(sample(node, seq))
            self._producer.produce(TELEMETRY.name, key=node.encode(), value=value, on_delivery=acked)
        self._producer.poll(0)

    def poison(self, value: bytes) -> None:
        self._producer.produce(TELEMETRY.name, key=f"{self.name}-poison".encode(), value=value)

    def outputs(self) -> list[NodeFeatures]:
        """Features of these nodes, duplicates included."""
        found = read_all(self.bootstrap, FEATURES)
        prefix = f"{self.name}-".encode()
        return [codec.decode(NodeFeatures, value) for key, value in found if key is not None and key.startswith(prefix)]

    def settle(self, timeout_s: float = 60.0) -> list[NodeFeatures]:
        """Waits until every acknowledged sample has its features; returns all outputs."""
        found: list[NodeFeatures] = []

        def complete() -> bool:
            found[:] = self.outputs()
            return {(one.node, one.seq) for one in found} >= self.sent

        until(complete, timeout_s, f"features of {len(self.sent)} samples")
        return found


def sample(node: str, seq: int) -> NodeTelemetry:
    """A small sample whose features differ from one to the next."""
    return NodeTelemetry(
        cluster="faults",
        node=node,
        boot_id="boot",
        seq=seq,
        ts_ns=1_760_000_000 * S + seq * S,
        source=("twin",),
        quality="simulated",
        gpu=GpuColumns(
            uuid=(f"GPU-{node}",),
            power_w=(100.0 + seq % 97,),
            energy_mj=(seq * 90_000,),
            util_ratio=(seq % 3 / 2,),
            temp_c=(40.0 + seq % 11,),
        ),
    )


def read_all(bootstrap: str, topic: Topic) -> list[tuple[bytes | None, bytes | None]]:
    """Every message of a topic, key and value."""
    out = []
    with Replay(bootstrap, f"test-{uuid.uuid4().hex[:8]}") as replay:
        for partition in range(replay.partitions(topic.name)):
            low, high = replay.bounds(topic.name, partition)
            for chunk in replay.read(topic.name, partition, start=low, end=high):
                out += [(record.key, record.value) for record in chunk]
    return out


def dead_letters(fleet: Fleet) -> list[bytes | None]:
    """Values of this fleet's dead letters."""
    key = f"{fleet.name}-poison".encode()
    return [value for found, value in read_all(fleet.bootstrap, DLQ) if found == key]


def check_books(fleet: Fleet, outputs: Sequence[NodeFeatures]) -> int:
    """0 lost, and a duplicate repeats its first values exactly; returns how many duplicates there were."""
    first: dict[Identity, dict[str, tuple[float | None, ...]]] = {}
    duplicates = 0
    for one in outputs:
        identity = (one.node, one.seq)
        duplicates += identity in first
        assert first.setdefault(identity, one.features) == one.features, f"{identity} came out differently"
    assert set(first) == fleet.sent
    assert len(fleet.sent) > 100
    return duplicates
