"""A training job on a node: the real agent, capper and chooser on a simulated job, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from agents.capper.actuators.twin import TwinActuator, TwinRegisters
from agents.capper.core import Capper
from agents.capper.settings import CapperSettings
from agents.fleet import registers as fleet_registers
from agents.fleet.bank import CONTROL, RECORD
from agents.fleet.training import TrainingJobs
from agents.node.agent import NodeAgent
from agents.node.control_loop import ControlLoop
from agents.node.publisher import EventPublisher
from agents.node.sources.base import Probe, Reading
from agents.node.spool import Spool
from agents.node.training_rules import TrainingRules
from models.twin.job import Jobs, one_job
from streams.contract import signing
from streams.contract.codec import encode
from streams.contract.records import EngineReading, EnvelopeColumns, GpuColumns, PowerDesired
from tests.unit.fleet.conftest import T0_NS, Bench, NoBroker

GPUS = 8
STEP_S = 0.5
Pair = tuple[float, float]


class JobSource:
    """Registers and job of one node as a source of the agent."""

    name = "job"

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def probe(self) -> Probe:
        return Probe(True)

    def read(self, now_ns: int) -> Reading:
        self._rig.jobs.overlay()
        r = self._rig.registers
        gpu = GpuColumns(
            uuid=r.uuids, power_w=tuple(r.power_w.tolist()), energy_mj=tuple(int(e) for e in r.energy_mj.tolist()),
            sm_mhz=tuple(int(m) for m in r.sm_mhz.tolist()), sm_max_mhz=tuple(int(m) for m in r.sm_max_mhz.tolist()),
            throttle=(self._rig.throttle,) * GPUS,
        )  # fmt: skip
        engines = (self._rig.jobs.engine(0, now_ns, RECORD),)
        return Reading(source="job", ts_ns=now_ns, quality="simulated", gpu=gpu, engines=engines)

    def engines_now(self, now_ns: int, only: frozenset[str] | None = None) -> tuple[EngineReading, ...]:
        return () if self._rig.silent else (self._rig.jobs.engine(0, now_ns, CONTROL),)

    def close(self) -> None:
        return None


class Rig:
    """One node that trains, its leases renewed every ten seconds."""

    def __init__(
        self,
        root: Path,
        *,
        run_steps: int | None = 40_000,
        job: Jobs | None = None,
        low: int = 1200,
        knob: str = "clock",
        ceiling_w: float | None = None,
        floor_w: float | None = None,
    ) -> None:
        self.base: Pair = (0.0, 0.0)
        self.now_s, self.seq, self.low, self.ceiling_w = 100.0, 0, low, ceiling_w
        self.throttle, self.silent, self.granted = 0, False, True
        self.registers = fleet_registers.create(root / "fleet", cluster="c", nodes=1, gpus_per_node=GPUS)
        given = {} if job is None else {"job": job}
        self.jobs = TrainingJobs(self.registers, [0], seed=5, **given)
        self.signer = signing.generate("k", root / "key")
        (root / "ring").write_text(self.signer.public_line() + "\n")
        ring = signing.KeyRing.load(root / "ring")
        rows = dict(self.registers.rows)
        view = cast(TwinRegisters, self.registers)
        self.capper = Capper(
            node="sim-001", cluster="c", folder=root / "capper", keyring=ring, wall_ns=self.wall_ns,
            settings=CapperSettings(
                opt_in=True, max_mode="on", actuator="twin", max_ttl_s=30.0, power_floor_w=floor_w
            ),
            power=TwinActuator(view, "power_limit_w", rows), clock=TwinActuator(view, "sm_lock_mhz", rows),
            monotonic=lambda: self.now_s,
        )  # fmt: skip
        self.capper.start()
        self.control = ControlLoop(
            "sim-001", self.capper, cluster="c", monotonic=lambda: self.now_s, wall_ns=self.wall_ns,
            training=TrainingRules(steps={} if run_steps is None else {"sim-001/train": run_steps}, knob=knob),
        )  # fmt: skip
        events = EventPublisher(Spool(root / "acks"), NoBroker())
        self.agent = NodeAgent("c", "sim-001", [JobSource(self)], Spool(root / "spool"), self.control, events=events)

    def wall_ns(self) -> int:
        return T0_NS + int(self.now_s * 1e9)

    def run(self, seconds: float) -> Pair:
        """Runs on; (seconds, joules of a step) of the steps that ended meanwhile."""
        job = self.jobs.nodes[0]
        before = (job.steps, self.now_s, self.energy_j())
        for half in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            self.jobs.advance(STEP_S)
            if self.granted and half % 20 == 0:
                self.grant()
            if half % 2 == 0:
                self.agent.sample(self.wall_ns())
            self.capper.tick()
            self.agent.control_step(self.now_s)
        steps = job.steps - before[0]
        return (self.now_s - before[1]) / steps, (self.energy_j() - before[2]) / steps

    def energy_j(self) -> float:
        self.jobs.overlay()
        return float(self.registers.energy_mj.sum()) / 1e3

    def grant(self, **changes: object) -> None:
        self.seq += 1
        uuids = self.registers.uuids
        gpu = EnvelopeColumns(
            uuid=uuids, min_sm_mhz=(self.low,) * GPUS, max_sm_mhz=(1980,) * GPUS, max_power_w=(self.ceiling_w,) * GPUS,
            engine=("sim-001/train",) * GPUS, holdout=(False,) * GPUS, reason=("test",) * GPUS,
        )  # fmt: skip
        record = PowerDesired(
            cluster="c", node="sim-001", epoch=1, seq=self.seq, issued_at_ns=self.wall_ns(), sample_ts_ns=0,
            ttl_ms=20_000, on_expiry="restore", mode="on", strategy="balanced", policy_version="1", gpu=gpu,
            reason="test",
        )  # fmt: skip
        self.agent.command(encode(self.signer.sign(record)), self.wall_ns())

    @property
    def lock(self) -> float:
        locks = set(self.registers.sm_lock_mhz.tolist())
        assert len(locks) == 1  # all GPUs of the job, or none
        return float(locks.pop())

    @property
    def reason(self) -> str:
        return self.control.reasons["sim-001/train"]

    def until_chosen(self, most_s: float = 4000.0) -> None:
        for _ in range(int(most_s / 20.0)):
            self.run(20.0)
            if self.state == "chosen":
                return
        raise AssertionError(self.reason)

    @property
    def state(self) -> str:
        report = self.control.report("sim-001/train")
        assert report is not None
        return report.state


def test_energy_falls_and_the_slowdown_keeps_the_bound(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.granted = False
    base_s, base_j = rig.run(300.0)
    assert rig.lock == 0.0 and rig.reason == "not every GPU of the engine is granted"
    rig.granted = True
    rig.until_chosen()
    own_s, own_j = rig.run(600.0)
    assert rig.lock > 0.0
    assert own_s / base_s - 1.0 <= 0.05
    assert 1.0 - own_j / base_j > 0.05
    assert "less energy at" in rig.reason
    report = rig.control.report("sim-001/train")
    assert report is not None and report.slowdown_ratio is not None and report.saving_ratio is not None
    assert report.slowdown_ratio <= 0.05
    assert report.saving_ratio == pytest.approx(1.0 - own_j / base_j, abs=0.02)
    # The record carries it, and default clocks come back with the end of the lease.
    assert rig.agent.last is not None
    control = rig.agent.last.engines[0].control
    assert control is not None and (control.state, control.decode_ratio) == ("chosen", None)
    rig.granted = False
    rig.run(25.0)
    assert rig.lock == 0.0 and rig.registers.changed() == ()


def test_a_job_that_changes_goes_back_to_default_clocks_and_is_measured_anew(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.until_chosen()
    rig.jobs._job = one_job(time_s=1.2, light_share=0.3, dynamic_w=520, light_ratio=0.6, clock_share=0.6, static_w=120)
    rig.jobs._known.clear()
    for _ in range(30):
        rig.run(4.0)
        if "so the job has changed" in rig.reason:
            break
    assert rig.lock == 0.0 and rig.reason.endswith("default clocks while it is measured anew")
    rig.until_chosen()
    assert rig.lock > 0.0


def test_heat_a_silent_job_and_one_that_stands_still_get_default_clocks(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.until_chosen()
    chosen = rig.lock
    rig.throttle = 0x20
    rig.run(2.0)
    assert rig.lock == 0.0 and "thermal or power-brake reason 0x20" in rig.reason
    rig.throttle = 0
    rig.run(4.0)
    assert rig.lock == chosen
    rig.jobs._job = one_job(time_s=1e6, light_share=0.1, dynamic_w=560, light_ratio=0.6, clock_share=1.0, static_w=120)
    rig.jobs._known.clear()
    for _ in range(80):
        rig.now_s += STEP_S
        rig.jobs.advance(STEP_S)
        rig.grant()
        rig.agent.sample(rig.wall_ns())
        rig.agent.control_step(rig.now_s)
    assert rig.lock == 0.0 and "no step has ended for" in rig.reason


def test_outside_the_envelope_nothing_is_tried(tmp_path: Path) -> None:
    rig, seen = Rig(tmp_path, low=1800), set[float]()
    for _ in range(60):
        rig.run(20.0)
        seen.add(rig.lock)
    assert seen - {0.0} and min(seen - {0.0}) >= 1800.0


def test_a_run_of_unknown_length_is_measured_as_it_goes(tmp_path: Path) -> None:
    rig = Rig(tmp_path, run_steps=None)
    low = 0
    for _ in range(300):
        rig.run(10.0)
        low += rig.lock > 0.0
    assert 0 < low <= 0.07 * 300


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A job that runs at a chosen power limit."""
    rig = Rig(tmp_path_factory.mktemp("limited"), knob="power", ceiling_w=700.0)
    rig.granted = False
    rig.base = rig.run(300.0)
    rig.granted = True
    rig.until_chosen()
    return rig


def limits(rig: Rig) -> set[float]:
    return set(rig.registers.limit_w.tolist())


def test_a_power_limit_is_chosen_instead_of_a_clock_and_the_slowdown_keeps_the_bound(limited: Rig) -> None:
    rig, (base_s, base_j) = limited, limited.base
    [chosen] = limits(rig)
    assert 315.0 <= chosen < 700.0 and rig.lock == 0.0
    own_s, own_j = rig.run(600.0)
    assert own_s / base_s - 1.0 <= 0.05 and 1.0 - own_j / base_j > 0.04
    report = rig.control.report("sim-001/train")
    assert report is not None and report.saving_ratio == pytest.approx(1.0 - own_j / base_j, abs=0.02)
    # Renewed leases leave it, and nothing is sent that is in force already.
    status = rig.capper.status()["gpus"]
    assert isinstance(status, dict)
    calls = sum(gpu["set_calls"] for gpu in status.values())
    rig.run(60.0)
    after = rig.capper.status()["gpus"]
    assert isinstance(after, dict) and sum(gpu["set_calls"] for gpu in after.values()) == calls
    assert limits(rig) == {chosen}


def test_heat_gives_the_ceiling_back_and_the_end_of_the_lease_what_was_found(limited: Rig) -> None:
    rig = limited
    [chosen] = limits(rig)
    rig.throttle = 0x20
    rig.run(2.0)
    assert limits(rig) == {700.0}
    rig.throttle = 0
    rig.run(4.0)
    assert limits(rig) == {chosen}
    rig.granted = False
    rig.run(25.0)
    assert limits(rig) == {700.0} and rig.registers.changed() == ()
    rig.granted = True
    rig.run(12.0)
    assert limits(rig) == {chosen}


def test_an_envelope_without_a_ceiling_leaves_clocks_as_the_knob(tmp_path: Path) -> None:
    rig = Rig(tmp_path, knob="power")
    rig.until_chosen()
    assert rig.lock > 0.0 and limits(rig) == {700.0}


def test_the_search_ends_above_what_the_owner_of_the_node_allows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The capper takes no limit below the owner's floor: what lies beyond is left alone, the rest is searched."""
    rig = Rig(tmp_path, knob="power", ceiling_w=700.0, floor_w=560.0)
    seen: set[float] = set()
    for _ in range(200):
        rig.run(20.0)
        seen |= limits(rig)
        if rig.state == "chosen":
            break
    assert min(seen) >= 560.0 and rig.state == "chosen"
    assert "sim-001/train: a power of" in caplog.text and "is not taken here" in caplog.text
    assert limits(rig) == {600.0}


def test_a_fleet_trains_on_some_nodes_and_serves_on_the_others(bench: Bench) -> None:
    registers, bank = bench.fleet.registers, bench.fleet._bank
    bank.training = TrainingJobs(registers, [2], seed=1)
    bench.run(12.0)
    records = [r for r in bench.telemetry() if r.node == "sim-003"]
    last = records[-1]
    [job] = last.engines
    assert (job.engine, job.kind, len(job.gpu_uuid)) == ("sim-003/train", "training", 8)
    assert job.requests_total is not None and 10 <= job.requests_total <= 16
    steps = sum(sum(e.e2e.count) for r in records for e in r.engines if e.e2e is not None)
    assert job.requests_total - 2 <= steps <= job.requests_total  # each step stands in one record
    assert last.gpu is not None and last.gpu.power_w is not None and min(w for w in last.gpu.power_w if w) > 400.0
    other = [r for r in bench.telemetry() if r.node == "sim-001"][-1]
    assert {engine.kind for engine in other.engines} == {"twin"}
