"""One sample of several sources: merging, quality, a source that fails, identity, acknowledgements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.node.agent import NodeAgent
from agents.node.control_loop import ControlLoop
from agents.node.publisher import EventPublisher
from agents.node.sources.twin import TwinSource
from agents.node.spool import Spool
from streams.contract import codec
from streams.contract.records import HostReading, NodeTelemetry, PowerApplied
from tests.fakes.kafka_producer import FakeProducer
from tests.fakes.sources import UUIDS, FakeBank, FakeCapper, FakeSource, applied, desired, engine, gpu_columns


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "telemetry", max_bytes=1 << 20, segment_bytes=1 << 16)
    yield made
    made.close()


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventPublisher]:
    spool = Spool(tmp_path / "applied", max_bytes=1 << 20, segment_bytes=1 << 16)
    yield EventPublisher(spool, FakeProducer())
    spool.close()


def last_spooled(spool: Spool) -> NodeTelemetry:
    return codec.decode(NodeTelemetry, spool.read(0, 1000)[-1].value)


def test_a_twin_node_gives_one_spooled_record(spool: Spool) -> None:
    agent = NodeAgent("c", "n1", [TwinSource(FakeBank(), 0)], spool)
    record = agent.sample(5)
    assert (record.node, record.seq, record.boot_id, record.quality) == ("n1", 1, spool.boot_id, "simulated")
    assert (record.source, record.spool_depth, record.lost_total) == (("twin",), 1, 0)
    assert [e.engine for e in record.engines] == ["n1/r0", "n1/r1"]
    assert last_spooled(spool) == record == agent.last
    assert agent.sample(6).seq == 2
    assert spool.read(0, 1)[0].key == b"n1"


def test_quality_is_the_most_doubtful_of_what_contributed(spool: Spool) -> None:
    measured = FakeSource("nvml", gpu=gpu_columns(2))
    estimated = FakeSource("tdp", host=HostReading(cpu_power_w=99.0), quality="estimated")
    empty = FakeSource("absent", quality="simulated")
    record = NodeAgent("c", "n1", [measured, estimated, empty], spool).sample(1)
    assert (record.quality, record.source) == ("estimated", ("nvml", "tdp"))
    assert record.capability == ("nvml.all", "tdp.all")


def test_later_sources_fill_what_is_unknown_and_override_nothing(spool: Spool) -> None:
    first = FakeSource(
        "a", gpu=gpu_columns(2, temp_c=None), host=HostReading(load1=1.0), engines=(engine(0, running=1),)
    )
    second = FakeSource(
        "b",
        gpu=gpu_columns(2, temp_c=(50.0, 51.0), power_w=(1.0, 1.0)),
        host=HostReading(load1=9.0, uptime_s=3.0),
        engines=(engine(0, running=2), engine(1)),
    )
    third = FakeSource("c", gpu=gpu_columns(3, mem_mhz=(1, 2, 3)))
    record = NodeAgent("c", "n1", [first, second, third], spool).sample(1)
    assert record.gpu is not None
    assert (record.gpu.temp_c, record.gpu.power_w, record.gpu.mem_mhz) == ((50.0, 51.0), (400.0, 400.0), (1, 2))
    assert record.host == HostReading(load1=1.0, uptime_s=3.0)
    assert sorted((e.engine, e.running) for e in record.engines) == [("n1/r0", 1), ("n1/r1", 8)]


def test_a_failing_source_is_told_once_and_the_others_go_on(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = FakeSource("bad", gpu=gpu_columns(1)), FakeSource("good", host=HostReading(load1=1.0))
    agent = NodeAgent("c", "n1", [bad, good], spool)
    bad.broken = "no driver"
    for n in range(3):
        bad.broken = f"no driver for {n} s"
        assert agent.sample(n).source == ("good",)
    bad.broken = None
    assert agent.sample(4).source == ("bad", "good")
    assert agent.failures == {"bad": 3, "good": 0}
    texts = [r.message for r in caplog.records]
    assert texts == [
        "node n1: source bad fails (SourceError: no driver for 0 s); the other sources go on",
        "node n1: source bad reads again",
    ]


def test_a_node_with_nothing_still_says_that_it_is_there(spool: Spool) -> None:
    record = NodeAgent("c", "n1", [FakeSource("none")], spool).sample(1)
    assert (record.source, record.gpu, record.host, record.capability) == ((), None, None, ())


def test_a_full_spool_does_not_stop_sampling(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = NodeAgent("c", "n1", [FakeSource("a", host=HostReading(load1=1.0))], spool)
    monkeypatch.setattr(spool, "append", lambda key, value: 0)
    assert (agent.sample(1).seq, agent.sample(2).seq) == (1, 2)


def test_locks_that_we_hold_are_in_the_record(spool: Spool, events: EventPublisher) -> None:
    control = ControlLoop("n1", FakeCapper())
    agent = NodeAgent("c", "n1", [FakeSource("nvml", gpu=gpu_columns(2))], spool, control, events=events)
    assert agent.sample(1).gpu == gpu_columns(2)
    control.locks[UUIDS[1]] = 1500
    record = agent.sample(2)
    assert record.gpu is not None
    assert record.gpu.sm_lock_mhz == (None, 1500)


def test_every_command_and_event_is_spooled_for_publishing(tmp_path: Path, spool: Spool) -> None:
    capper, producer = FakeCapper(), FakeProducer()
    ack_spool = Spool(tmp_path / "acks", max_bytes=1 << 20, segment_bytes=1 << 16)
    publisher = EventPublisher(ack_spool, producer)
    control = ControlLoop("n1", capper)
    agent = NodeAgent("c", "n1", [TwinSource(FakeBank(), 0)], spool, control, events=publisher)
    agent.sample(1)
    ack = agent.command(desired(4), 0)
    assert ack is not None
    assert ack.gpu.status[0] == "applied"
    capper.pending = [applied("restore", "restored")]
    agent.control_step(1.0)
    assert publisher.drain(5)
    assert [codec.decode(PowerApplied, v).event for v in producer.values()] == ["command", "restore"]
    ack_spool.close()


def test_an_observer_takes_no_commands(spool: Spool) -> None:
    source = FakeSource("a")
    agent = NodeAgent("c", "n1", [source], spool)
    assert agent.command(desired(1), 0) is None
    agent.control_step(1.0)
    agent.close()
    assert source.closed


def test_control_without_a_place_for_acknowledgements_is_refused(spool: Spool) -> None:
    with pytest.raises(ValueError, match="needs a place for its acknowledgements"):
        NodeAgent("c", "n1", [], spool, ControlLoop("n1", FakeCapper()))
