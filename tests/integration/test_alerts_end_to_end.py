"""From a fault to a receiver and back: real Kafka, the two jobs as processes, the real Alertmanager, a real receiver.

Each of the five kinds that the brief names (high energy, low efficiency, carbon budget, system failure, performance
degradation) must be seen firing within 60 s of its fault, and resolved within 60 s of its end, by a webhook receiver
that checks signatures and by Alertmanager. Windows are short by the rules' own files, nothing else is special.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from streams.contract import codec
from streams.contract.kafka import producer_config
from streams.contract.records import DeviceColumns, NodeTelemetry, Record
from streams.contract.topics import topic_of
from streams.jobs import alerts_rules
from streams.sinks.receivers import Receiver, Receivers
from tests.fakes import alert_peers
from tests.fakes.alert_peers import Listener
from tests.faults.worker_rig import Worker, until
from tests.integration.test_actuation import Site
from tests.unit.jobs.support import features
from tests.unit.jobs.test_alerts import FACTORS

pytestmark = pytest.mark.integration
WITHIN_S = 60.0
KINDS = {"high_energy", "low_efficiency", "carbon_budget", "agent_silent", "performance_degradation"}
# Numbers of the rules' files, short enough for a test.
SHORT = {
    "high_energy": {"k": 2, "n": 2, "every_s": 1.0},
    "low_efficiency": {"k": 2, "n": 2, "every_s": 1.0, "threshold": 5.0, "clear": 4.0, "relative_to_stack": 0},
    "carbon_budget": {"k": 1, "every_s": 1.0, "threshold": 1.0, "window_h": 0.002},
    "agent_silent": {"threshold": 4.0},
    "performance_degradation": {"k": 1, "n": 1, "every_s": 1.0, "window_s": 5},
}


def short_rules(folder: Path) -> Path:
    folder.mkdir()
    for name, values in SHORT.items():
        text = (alerts_rules.SHIPPED / f"{name}.toml").read_text()
        for key, value in values.items():
            line = f"{key} = {value}"
            text, found = re.subn(rf"^{key} = .*$", line, text, flags=re.MULTILINE)
            text = text if found else f"{line}\n{text}"
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    yield one
    one.close()


@pytest.fixture
def alertmanager(listener: Listener, tmp_path: Path) -> Iterator[str]:
    with alert_peers.alertmanager(listener, tmp_path) as address:
        yield address


class Cluster:
    """Three nodes that report each second: n0 is the one with faults, n1 the one that dies, n2 the healthy one."""

    def __init__(self, site: Site) -> None:
        self.site, self.faulty = site, False
        self._seq, self._stop = 0, threading.Event()
        self._producer = Producer(producer_config(site.bootstrap, "test-nodes"))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self._seq += 1
            for node in self.site.nodes[:3]:
                if not (self.faulty and node == self.site.nodes[1]):
                    for record in self._second(node):
                        self._producer.produce(
                            topic_of(type(record)).name, key=node.encode(), value=codec.encode(record)
                        )
            self._producer.poll(0)

    def _second(self, node: str) -> list[Record]:
        now_ns, bad = time.time_ns(), self.faulty and node == self.site.nodes[0]
        seen = NodeTelemetry(
            cluster=self.site.cluster, node=node, boot_id="b", seq=self._seq, ts_ns=now_ns, source=("test",),
            quality="simulated",
        )  # fmt: skip
        record = features(
            node, self._seq, ts_ns=now_ns, power_w=695.0 if bad else 300.0,
            tbt_ms={f"{node}-e0": 60.0 if bad else 30.0}, energy_j_delta=40_000.0 if bad else 10.0,
            j_per_token_60s=9.0 if bad else 2.0,
        )  # fmt: skip
        device = DeviceColumns(limit_default_w=(700.0,) * 8)
        return [seen, msgspec.structs.replace(record, cluster=self.site.cluster, device=device)]

    def hold_out(self) -> None:
        """The second engine of the healthy node is the hold-out, by an envelope."""
        from tests.unit.jobs.test_alerts import Bench, held

        bench = Bench(self.site.layout.root / "bench")
        flags = {f"{node}-e{k}": (node == self.site.nodes[2]) for node in self.site.nodes[:3] for k in (0, 1)}
        envelope = held(bench, **{name.replace("-", "_"): flag for name, flag in flags.items()})
        gpu = msgspec.structs.replace(envelope.gpu, engine=tuple(sorted(flags)))
        fixed = msgspec.structs.replace(envelope, cluster=self.site.cluster, gpu=gpu, node=self.site.nodes[2])
        signed = _signer(self.site).sign(fixed)
        self._producer.produce(topic_of(type(signed)).name, key=signed.node.encode(), value=codec.encode(signed))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        assert self._producer.flush(30) == 0


def _signer(site: Site) -> Any:
    from streams.contract.signing import Signer

    return Signer.load(site.layout.actuation_key)


@pytest.fixture
def cluster(topics: str, tmp_path: Path) -> Iterator[Cluster]:
    one = Cluster(Site(topics, tmp_path / "data"))
    yield one
    one.stop()


def test_all_five_kinds_reach_alertmanager_and_a_receiver_and_are_resolved(
    cluster: Cluster, listener: Listener, alertmanager: str, tmp_path: Path
) -> None:
    site = cluster.site
    hook = Receiver(
        name="hook",
        url=f"http://127.0.0.1:{listener.port}/hook",
        allow_hosts=("127.0.0.1",),
        allow_ports=(listener.port,),
    )
    listener.secret = Receivers(site.layout.deliver / "webhooks.json").add(hook) or ""
    (tmp_path / "factors.toml").write_text(FACTORS)
    env = {
        "EO_ALERT_RULES_DIR": str(short_rules(tmp_path / "rules")),
        "EO_LOCATION": "FR",
        "EO_CARBON_FACTORS": str(tmp_path / "factors.toml"),
        "EO_ALERTMANAGER_URL": alertmanager,
    }
    jobs: list[Worker] = []

    def begin() -> None:
        for job in ("alerts", "deliver"):
            command = ("-m", "agents", "worker", job)
            jobs.append(Worker(site.bootstrap, site.layout.root, *command, cluster=site.cluster, **env))
        for worker in jobs[-2:]:
            worker.wait_ready()

    try:
        cluster.hold_out()
        begin()
        assert listener.ours == [], "a healthy cluster is no news"
        cluster.faulty = True
        until(lambda: listener.seen("firing") >= KINDS, WITHIN_S, f"firing: {listener.ours} {listener.theirs}")
        for worker in jobs:
            worker.kill()
        begin()  # in the middle of it all: nothing is told twice, and the end is still seen
        cluster.faulty = False
        until(lambda: listener.seen("resolved") >= KINDS, WITHIN_S, f"resolved: {listener.ours} {listener.theirs}")
        assert listener.wrong == []
        assert {rule for rule, _ in listener.ours} == KINDS
        for rule, subject, _ in listener.ids:
            states = [state for one, about, state in listener.ids if (one, about) == (rule, subject)]
            assert states == ["firing", "resolved"], (rule, subject, states)
        assert [job.stop() for job in jobs[-2:]] == [0, 0]
    finally:
        for job in jobs:
            job.close()
