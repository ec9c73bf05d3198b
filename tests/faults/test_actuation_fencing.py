"""The actuation worker as a process: fenced by a second writer, killed inside a transaction, ended by SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer

from streams.commands_out import PartitionWriter
from streams.contract import codec
from streams.contract.kafka import producer_config
from streams.contract.signing import Signer
from streams.contract.topics import FEATURES
from tests.faults.worker_rig import Worker, until
from tests.integration.test_actuation import Site
from tests.unit.jobs.support import features

pytestmark = pytest.mark.integration
ON = {"EO_MODE": "on", "EO_ENVELOPE_INTERVAL_S": "1"}


class Nodes:
    """Nodes of a site that report twice a second, in this machine's time, until stopped."""

    def __init__(self, site: Site) -> None:
        self._site, self._stop, self._seq = site, threading.Event(), 0
        self._producer = Producer(producer_config(site.bootstrap, "test-nodes"))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._seq += 1
            for node in self._site.nodes:
                record = features(node, self._seq, ts_ns=time.time_ns())
                value = codec.encode(msgspec.structs.replace(record, cluster=self._site.cluster))
                self._producer.produce(FEATURES.name, key=node.encode(), value=value)
            self._producer.poll(0)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert self._producer.flush(30) == 0


@pytest.fixture
def site(topics: str, tmp_path: Path) -> Iterator[Site]:
    site = Site(topics, tmp_path / "data")
    nodes = Nodes(site)
    yield site
    nodes.stop()


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def begin(**env: str) -> Worker:
        command = ("-m", "agents", "worker", "actuation")
        worker = Worker(site.bootstrap, site.layout.root, *command, cluster=site.cluster, **{**ON, **env})
        workers.append(worker)
        return worker

    yield begin
    for worker in workers:
        worker.close()


def writing(site: Site, after: int = 0) -> None:
    until(lambda: len(site.commands()) > after, 60, "envelopes")


def test_a_fenced_worker_ends_with_an_error_and_its_words_are_never_read(
    site: Site, start: Callable[..., Worker]
) -> None:
    worker = start()
    writing(site)
    signer = Signer.load(site.layout.actuation_key)
    other = PartitionWriter(site.bootstrap, site.cluster, 0, signer=signer, keyring=site.keyring, wall_ns=time.time_ns)
    epoch = other.open()
    before = len(site.commands())
    assert worker.wait_end() == 1
    assert "another actuation job has taken over the commands" in worker.text()
    assert {c.epoch for c in site.commands()} == {epoch - 1}
    assert len(site.commands()) == before, "nothing of the fenced worker became readable"
    other.close()


def test_a_worker_killed_inside_a_transaction_is_followed_by_the_next(site: Site, start: Callable[..., Worker]) -> None:
    dying = start(EO_FAILPOINT="streams.in_transaction:kill:3")
    assert dying.wait_end(60) == -signal.SIGKILL
    before = site.commands()
    following = start()
    writing(site, len(before))
    found = site.commands()
    counters = [(c.node, c.epoch, c.seq) for c in found]
    assert len(set(counters)) == len(counters)
    for node in site.nodes:
        mine = [(c.epoch, c.seq) for c in found if c.node == node]
        assert mine == sorted(mine)
    assert max(c.epoch for c in found) == max((c.epoch for c in before), default=found[-1].epoch - 1) + 1
    assert following.stop() == 0
