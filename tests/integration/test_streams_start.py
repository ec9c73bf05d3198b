"""A worker that cannot work says so in one sentence and exits, where Faust alone would hang for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from agents.cli.brokers.processes import free_port
from streams import preflight
from streams.contract.topics import DESIRED, FEATURES, TELEMETRY, Topic
from streams.errors import PreflightFailed
from tests.faults.worker_rig import Fleet, Worker, until
from tests.integration.test_broker_rights import _login, secured

__all__ = ["secured"]
pytestmark = pytest.mark.integration


def check(bootstrap: str, *topics: Topic, job: str = "nobody") -> None:
    preflight.check(bootstrap, job=job, topics=topics, group="eo-test-start", timeout_s=10)


@pytest.fixture
def made(topics: str) -> Callable[..., Topic]:
    """Makes a topic of its own with these partitions and cleanup."""

    def make(partitions: int, cleanup: str) -> Topic:
        name = f"test.{uuid.uuid4().hex[:8]}"
        new = NewTopic(name, partitions, 1, config={"cleanup.policy": cleanup})
        admin = AdminClient({"bootstrap.servers": topics})
        admin.create_topics([new])[name].result(30)
        until(lambda: len(admin.list_topics(name, timeout=10).topics[name].partitions) == partitions, 30, "the topic")
        return replace(TELEMETRY, name=name)

    return make


def test_the_contracts_own_topics_pass(topics: str) -> None:
    check(topics, TELEMETRY, job="features")
    check(topics, FEATURES, DESIRED, job="actuation")


def test_a_missing_topic_is_named(topics: str) -> None:
    with pytest.raises(
        PreflightFailed, match=rf"^topic energy\.none\.v1 does not exist on {topics}; run `eo topics ap"
    ):
        check(topics, replace(TELEMETRY, name="energy.none.v1"))


def test_topics_that_cannot_be_assigned_together_are_named(topics: str, made: Callable[..., Topic]) -> None:
    odd = made(3, "delete")
    text = f"topic {odd.name} has 3 partitions where 4 are needed (as {TELEMETRY.name} has); `eo topics plan` shows the"
    with pytest.raises(PreflightFailed) as told:
        check(topics, TELEMETRY, odd)
    assert str(told.value).startswith(text)
    with pytest.raises(PreflightFailed, match="has 3 partitions where 1 are needed; `eo topics plan`"):
        check(topics, replace(odd, partitions=1))


def test_a_wrong_cleanup_is_named(topics: str, made: Callable[..., Topic]) -> None:
    with pytest.raises(PreflightFailed, match=r"has cleanup.policy 'compact' where 'delete' is needed; `eo topics app"):
        check(topics, made(4, "compact"))


def test_no_broker_is_told_with_the_address(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        PreflightFailed, match=rf"^no broker answers at {address} within 2 s .* `eo doctor kafka`, or run"
    ):
        preflight.check(address, job="features", topics=(TELEMETRY,), group="g", timeout_s=2)
    with pytest.raises(
        PreflightFailed, match=r"^no broker is named: set KAFKA_BOOTSTRAP=host:port or run `eo broker up`"
    ):
        preflight.check("", job="features", topics=(TELEMETRY,), group="g")


def test_the_command_exits_1_with_the_sentence_alone(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    env = os.environ | {"KAFKA_BOOTSTRAP": address, "EO_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "agents", "worker", "features"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"eo worker features: no broker answers at {address} within 5 s")
    assert "Traceback" not in done.stderr


def test_missing_rights_are_named_before_faust_would_hang(secured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _login(monkeypatch, "reader", "reader-pw")
    with pytest.raises(PreflightFailed, match=rf"^this user has no WRITE right on topic {FEATURES.name}; ask for it"):
        check(secured, TELEMETRY, job="features")
    with pytest.raises(PreflightFailed, match=r"^this user may not join group eo-test-start: READ on the group prefix"):
        check(secured, TELEMETRY)
    with pytest.raises(PreflightFailed, match=rf"^this user has no DESCRIBE right on topic {DESIRED.name}; ask for it"):
        check(secured, DESIRED)


def test_a_worker_logs_in_with_sasl(secured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _login(monkeypatch, "admin", "admin-pw")
    fleet = Fleet(secured)
    for seq in range(1, 20):
        fleet.write(seq)
    fleet.stop()
    worker = Worker(secured, tmp_path, cluster=fleet.name)
    try:
        worker.wait_ready()
        assert {(one.node, one.seq) for one in fleet.settle()} == fleet.sent
        assert worker.stop() == 0
    finally:
        worker.close()
