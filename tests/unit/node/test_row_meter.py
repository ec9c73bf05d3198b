"""The row's meter in the agent: what is believed of it, by named fault, and the way from the reading to the limit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agents.capper.settings import CapperSettings
from agents.node.agent import NodeAgent
from agents.node.control_loop import ControlLoop
from agents.node.errors import SettingsError, SourceError
from agents.node.publisher import EventPublisher
from agents.node.row_meter import RowMeter
from agents.node.settings import NodeSettings
from agents.node.sources.base import Probe, Reading
from agents.node.spool import Spool
from streams.contract.records import BrakeColumns, DomainColumns, GpuColumns
from tests.fakes.capper_rig import ALLOWED, Rig, columns
from tests.fakes.kafka_producer import FakeProducer

GPU_W = 450.0
TABLE = BrakeColumns(row="r1", budget_w=10_000.0, from_ratio=(0.90, 0.97), max_power_w=((400.0, 400.0), (250.0, 250.0)))


class Pdu:
    """A source of two feeds and the node's GPUs. Faults: `silent` (raises), `stuck` (repeats), `one-stuck` (one feed
    stands still), `halved` (one feed has no number), `backwards` (one is below nothing), `frozen` (a cached reading,
    its old time), `gone` (no such domain), `factor` (a wrong unit)."""

    name = "redfish"

    def __init__(self) -> None:
        self.feeds_w, self.fault, self.factor, self.reads = [2_000.0, 3_000.0], "", 1.0, 0
        self.kept: Reading | None = None
        self.read_zero = False

    def probe(self) -> Probe:
        return Probe(True)

    def read(self, now_ns: int) -> Reading:
        self.reads += 1
        if self.fault == "silent":
            raise SourceError("the PDU does not answer")
        if self.fault == "frozen" and self.kept is not None:
            return self.kept
        ripple = 0.0 if self.fault == "stuck" else self.reads % 7
        watts: list[float | None] = [self.feeds_w[0] * self.factor + ripple, self.feeds_w[1] * self.factor + ripple]
        if self.read_zero:
            watts[1] = 0.0
        if self.fault == "one-stuck":
            watts[1] = 2_999.0
        if self.fault == "backwards":
            watts = [8_000.0 + ripple, -3_000.0]
        if self.fault == "halved":
            watts[1] = None
        names = ("elsewhere", "pdu-b") if self.fault == "gone" else ("pdu-a", "pdu-b")
        self.kept = Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            gpu=GpuColumns(uuid=("GPU-a", "GPU-b"), power_w=(GPU_W, GPU_W)),
            domains=DomainColumns(
                name=names,
                kind=("other", "other"),
                source=("redfish", "redfish"),
                quality=("measured", "measured"),
                power_w=tuple(watts),
            ),
        )
        return self.kept

    def close(self) -> None:
        return None


class Node:
    """An agent with a meter and a real capper on fake devices, in one virtual time."""

    def __init__(self, folder: Path, *, settings: CapperSettings | None = None) -> None:
        self.rig = Rig(folder / "capper", settings=settings or replace(ALLOWED, row_meter=True))
        self.pdu, self.spool = Pdu(), Spool(folder / "t", max_bytes=1 << 20, segment_bytes=1 << 16)
        self.acks = Spool(folder / "a", max_bytes=1 << 20, segment_bytes=1 << 16)
        self.meter = RowMeter(["pdu-a", "pdu-b"], monotonic=lambda: self.rig.now_s)
        self.loop = ControlLoop(
            "n1",
            self.rig.capper,
            cluster="c1",
            monotonic=lambda: self.rig.now_s,
            wall_ns=lambda: self.rig.wall_ns,
            row=self.meter,
        )
        events = EventPublisher(self.acks, FakeProducer())
        self.agent = NodeAgent("c1", "n1", [self.pdu], self.spool, self.loop, events=events)
        self.seq = 0

    def live(self, seconds: float) -> None:
        for k in range(round(seconds * 2)):
            self.rig.advance(0.5)
            if k % 2 == 0:
                self.agent.sample(self.rig.wall_ns)
            self.agent.control_step(self.rig.now_s)
            self.rig.capper.tick()
            if int(self.rig.now_s * 2) % 10 == 0:
                self.seq += 1
                raw = self.rig.raw(self.seq, columns(watts=500.0), brake=TABLE)
                self.agent.command(raw, self.rig.wall_ns)

    def limits(self) -> tuple[float | None, ...]:
        assert self.rig.power is not None
        return tuple(self.rig.power.values.values())

    def close(self) -> None:
        self.rig.capper.close()
        self.spool.close()
        self.acks.close()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.live(10)
    assert made.limits() == (500.0, 500.0)
    return made


def test_a_full_row_brakes_within_the_next_sample_and_the_answer_is_spooled(node: Node) -> None:
    before = node.acks.depth
    node.pdu.feeds_w = [4_800.0, 5_000.0]
    node.live(1)
    assert node.limits() == (250.0, 250.0) and node.acks.depth > before
    node.pdu.feeds_w = [2_000.0, 3_000.0]
    node.live(4)
    assert node.limits() == (250.0, 250.0)
    node.live(130)
    assert node.limits() == (500.0, 500.0)
    node.close()


@pytest.mark.parametrize(
    ("fault", "within_s", "counted"),
    [
        ("silent", 8, "missing"),
        ("halved", 8, "unknown"),
        ("gone", 8, "missing"),
        ("frozen", 8, ""),
        ("stuck", 64, "stuck"),
        ("one-stuck", 64, "stuck"),
        ("backwards", 8, "implausible"),
    ],
)
def test_a_meter_that_cannot_be_believed_brakes(node: Node, fault: str, within_s: float, counted: str) -> None:
    node.pdu.fault = fault
    node.live(3)
    assert node.limits() == (500.0, 500.0)  # a short gap is bridged
    node.live(within_s)
    assert node.limits() == (250.0, 250.0)
    assert not counted or node.meter.faults[counted] == 1
    node.close()


@pytest.mark.parametrize("factor", [0.0, 1e-3, -1.0, float("nan")])
def test_zero_a_wrong_unit_and_nonsense_are_no_reading(node: Node, factor: float) -> None:
    node.pdu.factor = factor
    node.live(8)
    assert node.limits() == (250.0, 250.0) and sum(node.meter.faults.values()) == 1
    node.pdu.factor = 1.0
    node.live(140)
    assert node.limits() == (500.0, 500.0)
    node.close()


def test_each_change_is_said_once_with_what_there_is(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agents.node.row_meter")
    node.pdu.fault = "gone"
    node.live(10)
    node.pdu.fault = ""
    node.live(5)
    texts = [r.getMessage() for r in caplog.records if r.name == "agents.node.row_meter"]
    assert texts == [
        "row meter pdu-a+pdu-b: domain 'pdu-a' is not in the node's record; it has elsewhere, pdu-b; the node brakes "
        "when nothing newer comes",
        "row meter pdu-a+pdu-b reads again",
    ]
    node.close()


def test_a_capper_that_does_not_brake_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = Node(tmp_path, settings=ALLOWED)
    node.pdu.feeds_w = [9_000.0, 9_000.0]
    node.live(20)
    texts = [r.getMessage() for r in caplog.records if "row_meter = false" in r.getMessage()]
    assert texts == ["row meter: the capper has row_meter = false, so the brake table is not obeyed here"]
    assert node.limits() == (500.0, 500.0)
    node.close()


@pytest.mark.parametrize(("stuck_s", "sound"), [(0.0, True), (60.0, False)])
def test_a_coarse_meter_may_be_allowed_to_stand_still(stuck_s: float, sound: bool, tmp_path: Path) -> None:
    now: list[float] = [0.0]
    clock: Callable[[], float] = lambda: now[0]  # noqa: E731 - a clock that the test moves
    meter, pdu = RowMeter(["pdu-a"], stuck_s=stuck_s, monotonic=clock), Pdu()
    pdu.fault = "stuck"
    spool = Spool(tmp_path, max_bytes=1 << 20, segment_bytes=1 << 16)
    agent = NodeAgent("c1", "n1", [pdu], spool)
    for second in range(70):
        now[0] = float(second)
        meter.take(agent.sample(second * 10**9), {"redfish": second * 10**9})
    assert (meter.load()[0] is not None) is sound
    spool.close()


def test_settings_name_the_domains_once() -> None:
    assert NodeSettings.from_env({"EO_NODE_ROW_METER": "pdu-a, pdu-b"}).row_meter == ("pdu-a", "pdu-b")
    with pytest.raises(SettingsError, match="row_meter is a,a; name each domain once, their power is added"):
        NodeSettings(row_meter=("a", "a"))
    with pytest.raises(SettingsError, match="row_meter_stuck_s is -1; give 0 to 3600"):
        NodeSettings(row_meter_stuck_s=-1)


def test_a_feed_that_gives_nothing_may_stand_still(node: Node) -> None:
    node.pdu.feeds_w = [5_000.0, 0.0]
    node.pdu.read_zero = True
    node.live(150)
    assert node.limits() == (500.0, 500.0) and not node.meter.faults
    node.close()
