"""The real broker: found again, healed, explained, and looked at by `eo doctor kafka`."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.cli import brokers
from agents.cli.base import EoError
from agents.cli.brokers import kafka_jars, mesh, processes, ready
from agents.cli.brokers.unavailable import Unavailable
from agents.cli.doctor_kafka import checks
from agents.cli.main import main
from streams.contract.layout import Layout
from tests.conftest import KafkaForTests

pytestmark = pytest.mark.integration
NO_CLUSTER = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP"}


@pytest.fixture
def mesh_port(tmp_path: Path) -> Iterator[int]:
    """A Kafka-compatible broker that sends its clients to a port where nothing listens."""
    try:
        binary = mesh.program()
    except Unavailable as reason:
        pytest.skip(str(reason))
    port = processes.free_port()
    pid = mesh.start(binary, port, tmp_path / "mesh.log", advertised="127.0.0.1:1")
    mark = processes.start_mark(pid)
    assert mark is not None
    try:
        assert processes.wait_until(lambda: ready.refusal("127.0.0.1", port) is None, 20)
        yield port
    finally:
        assert processes.end(pid, mark)


def test_a_second_up_finds_the_first(kafka: KafkaForTests) -> None:
    kafka.healthy()
    again = brokers.up(kafka.layout, env=NO_CLUSTER)
    assert (again.pid, again.bootstrap) == (kafka.pid, kafka.bootstrap)
    assert brokers.status(kafka.layout, env={}) == again


def test_kill_is_seen_and_restart_keeps_address_and_topics(kafka: KafkaForTests, topics: str) -> None:
    before = kafka.pid
    kafka.kill()
    assert brokers.status(kafka.layout, env={}) is None, "a stale pid is no broker"
    with pytest.raises(EoError, match="run `eo broker up`"):
        brokers.resolve_bootstrap(kafka.layout, {})
    kafka.restart()
    assert kafka.pid != before and kafka.bootstrap == topics
    assert {check.verdict for check in checks(kafka.layout, {})} == {"ok"}


def test_a_lost_broker_json_is_explained_with_the_pid_that_holds_the_store(kafka: KafkaForTests) -> None:
    kafka.healthy()
    note = kafka.layout.broker / "broker.json"
    kept = note.read_text()
    note.unlink()
    try:
        with pytest.raises(EoError, match=rf"is in use by another Kafka process \(pid {kafka.pid}\); end that one"):
            brokers.up(kafka.layout, kind="kafka-jars", env=NO_CLUSTER)
    finally:
        note.write_text(kept)


def test_a_fresh_node_formats_heals_and_starts(tmp_path: Path, kafka: KafkaForTests) -> None:
    assert kafka.bootstrap  # the jars are here
    layout = Layout(tmp_path)
    half = layout.broker / "store"
    half.mkdir(parents=True)
    (half / "meta.properties").write_text("version=1\nnode.")  # torn by a crash in the middle
    (layout.broker / "store.new").mkdir()  # left over by another
    node = kafka_jars.Node(layout.broker, kafka_jars.java(), kafka_jars.jars())
    node.format()
    assert "cluster.id=" in (half / "meta.properties").read_text()
    assert not (layout.broker / "store.new").exists()
    first = (half / "meta.properties").read_text()
    node.format()
    assert (half / "meta.properties").read_text() == first


def test_doctor_kafka_on_a_good_broker(
    kafka: KafkaForTests, topics: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", topics)
    assert main(["doctor", "kafka", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(check["name"], check["verdict"]) for check in told["checks"]] == [
        ("listeners", "ok"),
        ("group coordinator", "ok"),
        ("transactions", "ok"),
        ("topics", "ok"),
        ("rights", "ok"),
        ("round trip", "ok"),
        ("clock", "ok"),
    ]
    from confluent_kafka.admin import AdminClient

    left = AdminClient(ready.client_config(topics)).list_topics(timeout=10).topics
    assert not [name for name in left if name.startswith("energy.doctor.")]


def test_doctor_kafka_sees_a_clock_that_is_ahead(kafka: KafkaForTests, topics: str) -> None:
    found = {check.name: check for check in checks(kafka.layout, {}, wall_ns=lambda: time.time_ns() + 45 * 10**9)}
    assert found["clock"].verdict == "fail"
    assert "this machine's clock is 45" in found["clock"].found and "ahead of the broker's" in found["clock"].found


def test_an_advertised_listener_that_cannot_be_reached(mesh_port: int) -> None:
    with pytest.raises(EoError) as told:
        brokers.up(Layout(Path("unused")), env={"KAFKA_BOOTSTRAP": f"127.0.0.1:{mesh_port}"})
    assert str(told.value).startswith(
        f"the broker at 127.0.0.1:{mesh_port} answers, but sends clients to 127.0.0.1:1 (broker "
    )
    assert (
        "which this machine cannot reach: connection refused: nothing listens there; set advertised.listeners"
        in str(told.value)
    )


def test_the_mesh_wheel_is_a_broker_of_last_resort(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    try:
        mesh.program()
    except Unavailable as reason:
        pytest.skip(str(reason))
    folder = tmp_path / "empty"
    folder.mkdir()
    info = brokers.up(layout, env={"PATH": str(folder), "EO_CACHE_DIR": str(tmp_path / "cache")})
    try:
        assert (info.kind, info.label) == ("mesh", "Kafka-compatible, memory only")
        assert ready.check_listeners(info.bootstrap)
    finally:
        assert brokers.down(layout)
    shutil.rmtree(folder)
    assert processes.start_mark(info.pid or 0) is None


def test_a_paused_broker_is_told_within_the_bound(kafka: KafkaForTests) -> None:
    kafka.healthy()
    kafka.pause()
    try:
        with pytest.raises(EoError, match=f"something listens at {kafka.bootstrap} but gives no Kafka metadata"):
            ready.check_listeners(kafka.bootstrap, 1.0)
    finally:
        kafka.resume()
    kafka.healthy()
