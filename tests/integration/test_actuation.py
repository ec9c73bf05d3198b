"""The actuation job against a real broker: transactions, fencing, epochs, intents and dead letters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from nacl.signing import SigningKey

from agents.cli.config import ensure_keys
from streams.commands_out import Fenced, PartitionWriter
from streams.contract import codec
from streams.contract.dlq import DeadLetter
from streams.contract.kafka import partition_of, producer_config
from streams.contract.layout import Layout
from streams.contract.records import OperatorIntent, PowerDesired, Record
from streams.contract.signing import KeyRing, Signer
from streams.contract.topics import DESIRED, DLQ, FEATURES, INTENT, Topic, topic_of
from streams.jobs.actuation import ActuationJob
from streams.jobs.actuation_retry import patiently
from streams.jobs.base import JobContext
from streams.publisher import Publisher
from streams.replay import Replay, ReplayRecord
from streams.settings import WorkerSettings
from streams.state import StateStore
from tests.conftest import KafkaForTests
from tests.unit.jobs.support import Clock, features

pytestmark = pytest.mark.integration
WAIT_S = 30.0


class Site:
    """One cluster name of its own on the shared broker, with keys and a folder."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap, self.cluster = bootstrap, f"t{uuid.uuid4().hex[:8]}"
        self.layout = Layout(folder)
        ensure_keys(self.layout)
        self.keyring = KeyRing.load(self.layout.keyring)
        self.operator = Signer.load(self.layout.operator_key)
        self.clock = Clock(now_s=time.time() - 1_700_000_000)
        self.jobs: list[Running] = []
        with Replay(bootstrap, f"site-{self.cluster}") as replay:
            self.partitions = replay.partitions(DESIRED.name)
            self.start = {t.name: self._ends(replay, t) for t in (DESIRED, DLQ)}
        # Nodes of one partition, so that one job with one partition sees them all.
        names = (f"{self.cluster}-n{i}" for i in range(1000))
        self.nodes = [n for n in names if partition_of(n.encode(), self.partitions) == 0][:6]

    @staticmethod
    def _ends(replay: Replay, topic: Topic) -> dict[int, int]:
        # A topic made a moment ago may not have told everybody its leaders yet.
        return patiently(
            lambda: {p: replay.bounds(topic.name, p)[1] for p in range(replay.partitions(topic.name))}, timeout_s=WAIT_S
        )

    def context(self, **settings: object) -> JobContext:
        chosen = WorkerSettings(
            cluster=self.cluster,
            bootstrap=self.bootstrap,
            data_dir=self.layout.root,
            **{"mode": "on", **settings},  # type: ignore[arg-type]  # validated by pydantic
        )
        import logging

        publisher = Publisher(self.bootstrap, f"eo-{self.cluster}")
        state = StateStore(self.bootstrap, publisher, cluster=self.cluster, client_id=f"eo-{self.cluster}")
        return JobContext(
            settings=chosen,
            publisher=publisher,
            state=state,
            layout=self.layout,
            wall_ns=self.clock.wall_ns,
            monotonic=self.clock.monotonic,
            log=logging.getLogger("tests"),
        )

    def read(self, topic: Topic) -> list[ReplayRecord]:
        """What committed transactions and others have written since this site began."""
        out: list[ReplayRecord] = []
        with Replay(self.bootstrap, f"read-{self.cluster}") as replay:
            for partition, start in self.start[topic.name].items():
                end = replay.bounds(topic.name, partition)[1]
                for chunk in replay.read(topic.name, partition, start=start, end=end):
                    out += chunk
        return out

    def commands(self) -> list[PowerDesired]:
        """All envelopes that this site's jobs have committed. A commit is acknowledged before readers see its records,
        so this waits until they do."""
        found: list[PowerDesired] = []

        def complete() -> bool:
            decoded = [codec.decode(PowerDesired, r.value) for r in self.read(DESIRED)]
            found[:] = [c for c in decoded if c.cluster == self.cluster]
            return len(found) >= sum(job.written for job in self.jobs)

        until(complete)
        return found

    def send(self, record: Record, key: str) -> None:
        producer = Producer(producer_config(self.bootstrap, "test"))
        producer.produce(topic_of(type(record)).name, key=key.encode(), value=codec.encode(record))
        assert producer.flush(WAIT_S) == 0

    def intent(self, kind: str, scope: str, signer: Signer | None = None) -> OperatorIntent:
        raw = OperatorIntent(
            cluster=self.cluster,
            scope=scope,
            intent_id=uuid.uuid4().hex,
            ts_ns=self.clock.wall_ns(),
            actor="ada",
            kind=kind,  # type: ignore[arg-type]  # a literal by the caller's word
            reason="test",
        )
        return (signer or self.operator).sign(raw)


class Running:
    """A job on one partition, driven by hand: the runtime's own part is tested elsewhere."""

    def __init__(self, site: Site, **settings: object) -> None:
        self.site, self.ctx, self.job = site, site.context(**settings), ActuationJob()
        self.seq = 0
        self.job.start(self.ctx)
        self.job.assign(frozenset({0}))
        site.jobs.append(self)
        self.tokens: list[tuple[str, int, int]] = []
        until(lambda: self.job._writer is None or self.job._writer.ready(0))

    @property
    def written(self) -> int:
        return 0 if self.job._writer is None else self.job._writer.written_total

    def beat(self, seconds: float = 1.0, *raw: bytes) -> None:
        """Time passes, every node reports, envelopes are committed."""
        self.send(seconds, *raw)
        if self.job._writer is not None:
            self.job._writer.drain(WAIT_S)
        self.tokens += list(self.job.tick())

    def send(self, seconds: float = 1.0, *raw: bytes) -> None:
        """Time passes and every node reports."""
        from tests.unit.jobs.support import messages

        self.site.clock.now_s += seconds
        self.seq += 1
        now = self.site.clock.wall_ns()
        reports = [
            msgspec.structs.replace(features(n, int(now // 10**6), ts_ns=now), cluster=self.site.cluster)
            for n in self.site.nodes
        ]
        self.tokens += list(self.job.tick())
        self.job.process(FEATURES, 0, messages([*raw, *reports], self.seq * 100))

    def stop(self) -> None:
        self.job.revoke(frozenset({0}))
        self.job.stop()
        assert self.ctx.publisher.flush(WAIT_S) == 0


def until(condition: Callable[[], bool], seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def site(topics: str, tmp_path: Path) -> Iterator[Site]:
    yield Site(topics, tmp_path)


def test_envelopes_are_signed_numbered_and_in_their_node_s_partition(site: Site) -> None:
    running = Running(site)
    for _ in range(6):
        running.beat()
    running.beat(6.0)
    running.stop()
    assert site.commands()
    records = [r for r in site.read(DESIRED) if (r.key or b"").decode() in site.nodes]
    commands = [codec.decode(PowerDesired, r.value) for r in records]
    assert {c.node for c in commands} == set(site.nodes)
    for record, command in zip(records, commands, strict=True):
        site.keyring.verify(command)
        assert record.key == command.node.encode()
        assert dict(record.headers)["ce_type"] == DESIRED.name.encode()
    counters = [(c.epoch, c.seq) for c in commands]
    assert counters == sorted(counters) and len(set(counters)) == len(counters)
    assert running.tokens[-1] == (FEATURES.name, 0, running.seq * 100 + len(site.nodes) - 1)
    assert any(mhz is not None for c in commands for mhz in c.gpu.max_sm_mhz)
    for command in commands:
        for held, mhz, watts in zip(command.gpu.holdout, command.gpu.max_sm_mhz, command.gpu.max_power_w, strict=True):
            assert not held or (mhz, watts) == (None, None)


def test_observe_writes_nothing_to_the_broker(site: Site) -> None:
    running = Running(site, mode="observe")
    for _ in range(8):
        running.beat()
    running.stop()
    assert site.commands() == []


def test_the_epoch_goes_on_after_a_restart(site: Site) -> None:
    epochs = []
    for _ in range(3):
        running = Running(site)
        for _ in range(5):
            running.beat()
        running.stop()
        epochs.append(max(c.epoch for c in site.commands()))
    assert epochs == [epochs[0], epochs[0] + 1, epochs[0] + 2]


def test_a_zombie_is_fenced_and_nothing_of_it_is_readable(site: Site) -> None:
    old = Running(site)
    for _ in range(5):
        old.beat()
    before = len(site.commands())
    new = Running(site)
    with pytest.raises(Fenced, match="another actuation job has taken over"):
        old.beat(6.0)
    assert len(site.commands()) == before
    for _ in range(5):
        new.beat()
    assert len(site.commands()) > before
    assert {c.epoch for c in site.commands()[before:]} == {max(c.epoch for c in site.commands()[:before]) + 1}
    new.stop()
    old.job.stop()


def test_forged_commands_do_not_raise_the_epoch(site: Site) -> None:
    running = Running(site)
    for _ in range(5):
        running.beat()
    running.stop()
    genuine = site.commands()[-1]
    site.send(msgspec.structs.replace(genuine, epoch=2**60), genuine.node)
    writer = PartitionWriter(
        site.bootstrap,
        site.cluster,
        0,
        signer=Signer.load(site.layout.actuation_key),
        keyring=site.keyring,
        wall_ns=time.time_ns,
    )
    assert writer.open() == genuine.epoch + 1
    assert writer.forged_total >= 1
    writer.close()


def test_a_pause_is_obeyed_and_a_forged_resume_is_not(site: Site) -> None:
    running = Running(site)
    for _ in range(5):
        running.beat()
    site.send(site.intent("pause", "cluster"), "cluster")
    until(lambda: running.job._book.accepted_total == 1 or (running.beat(0.1), False)[1])
    running.beat(0.1)
    before = site.commands()
    last = {c.node: c for c in before}
    assert set(last) == set(site.nodes) and all(mhz is None for c in last.values() for mhz in c.gpu.max_sm_mhz)
    site.send(site.intent("resume", "cluster", Signer(SigningKey.generate(), "operator")), "cluster")
    until(lambda: running.job._book.refused_total == 1 or (running.beat(6.0), False)[1])
    running.beat(6.0)
    assert len(site.commands()) == len(before)
    running.stop()
    letters = [DeadLetter.from_headers(list(r.headers)) for r in site.read(DLQ)]
    assert [letter.topic for letter in letters] == [INTENT.name]


def test_a_pause_from_before_the_start_is_known_before_anything_is_granted(site: Site) -> None:
    site.clock.now_s += 1
    site.send(site.intent("pause", "cluster"), "cluster")
    running = Running(site)
    for _ in range(8):
        running.beat()
    running.stop()
    granted = [mhz for c in site.commands() for mhz in c.gpu.max_sm_mhz]
    assert granted and set(granted) == {None}


def test_poison_is_dead_lettered_before_its_batch_is_acknowledged(site: Site) -> None:
    running = Running(site)
    for _ in range(5):
        running.beat()
    running.beat(6.0, b"\x00poison", b"{}")
    assert running.tokens[-1][2] == running.seq * 100 + len(site.nodes) + 1
    letters = [r for r in site.read(DLQ) if DeadLetter.from_headers(list(r.headers)).topic == FEATURES.name]
    assert sorted(r.value or b"" for r in letters) == [b"\x00poison", b"{}"]
    running.stop()


def test_a_broker_that_pauses_costs_envelopes_and_nothing_else(site: Site, kafka: KafkaForTests) -> None:
    running = Running(site)
    for _ in range(5):
        running.beat()
    before = len(site.commands())
    assert running.job._writer is not None
    kafka.pause()
    try:
        started = time.monotonic()
        running.send(6.0)
        until(lambda: time.monotonic() - started > 10.5)  # beyond the message timeout of 9 s
    finally:
        kafka.resume()
    until(lambda: (running.beat(6.0), len(site.commands()) > before)[1], 60)
    found = site.commands()
    counters = [(c.node, c.epoch, c.seq) for c in found]
    assert len(set(counters)) == len(counters)
    running.stop()


ZOMBIE = """
import sys, time
from pathlib import Path
from streams import commands_out
from streams.contract.layout import Layout
from streams.contract.signing import Signer
from streams.contract.records import PowerDesired
from streams.contract import codec
layout = Layout(Path(sys.argv[3]))
signer = Signer.load(layout.actuation_key)
writer = commands_out.PartitionWriter(sys.argv[1], sys.argv[2], 0, signer=signer, keyring=None, wall_ns=time.time_ns)
writer.open()
draft = codec.decode(PowerDesired, sys.stdin.readline().encode())
print("open", flush=True)
sys.stdin.readline()
writer.write([draft])
"""


def test_a_process_killed_inside_a_transaction_leaves_nothing(site: Site) -> None:
    running = Running(site)
    for _ in range(5):
        running.beat()
    running.stop()
    before = len(site.commands())
    draft = codec.encode(msgspec.structs.replace(site.commands()[-1], reason="from the killed process"))
    env = {**os.environ, "EO_FAILPOINT": "streams.in_transaction:kill"}
    process = subprocess.Popen(
        [sys.executable, "-c", ZOMBIE, site.bootstrap, site.cluster, str(site.layout.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(draft + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"open\n"
        process.stdin.write(b"go\n")
        process.stdin.flush()
        assert process.wait(WAIT_S) == -signal.SIGKILL
    after = Running(site)
    for _ in range(4):
        after.beat()
    after.stop()
    found = site.commands()
    assert len(found) > before
    assert "from the killed process" not in {c.reason for c in found}
