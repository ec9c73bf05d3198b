"""Ranks of one job on one node: the real control loop and capper, one simulated rank on each GPU, in virtual time."""

from __future__ import annotations

from math import exp
from pathlib import Path
from random import Random

import numpy as np
import pytest

from agents.capper.core import Capper
from agents.node.control_loop import ControlLoop
from agents.node.training_rules import TrainingRules
from models.twin.job import JobLaw, one_job, run
from streams.contract.codec import encode
from streams.contract.records import (
    EngineReading,
    EnvelopeColumns,
    GpuColumns,
    Histogram,
    LatencyTarget,
    NodeTelemetry,
    PowerDesired,
)
from streams.contract.training import group_of, workload_of
from tests.fakes.actuators import FakeActuator
from tests.fakes.capper_rig import ALLOWED, KEYRING, SIGNER, T0_NS

LAW = JobLaw(static_w=110.0, v_min=0.70, x_knee=0.60, x_floor=0.17)
JOB = one_job(time_s=1.0, light_share=0.3, dynamic_w=520, light_ratio=0.6, clock_share=1.0, static_w=120)
TOP, LOW = 1980, 1200
UUIDS = ("GPU-a", "GPU-b", "GPU-c")


def curve(mhz: float) -> tuple[float, float]:
    time_s, watts = run(LAW, JOB, lock_x=np.array([[mhz / TOP]]), limit_w=np.array([[700.0]]))
    return float(time_s[0, 0]), float(watts[0, 0])


class Node:
    """Three ranks in lockstep, each on its GPU."""

    def __init__(
        self, folder: Path, *, group: str | None = "bert", slower: tuple[float, ...] = (1.0, 1.0, 1.2)
    ) -> None:
        self.slower, self.rng, self.now_s, self.seq = list(slower), Random(3), 1000.0, 0
        self.clock = FakeActuator("sm_lock_mhz", UUIDS)
        self.capper = Capper(
            node="n1", cluster="c1", settings=ALLOWED, power=None, clock=self.clock, folder=folder / "capper",
            keyring=KEYRING, monotonic=lambda: self.now_s, wall_ns=self.wall_ns, sleep=lambda _: None,
        )  # fmt: skip
        self.capper.start()
        names = [f"rank-{k}" for k in range(3)]
        rules = TrainingRules(
            steps=dict.fromkeys(names, 40_000), groups={} if group is None else dict.fromkeys(names, group)
        )
        self.loop = ControlLoop(
            "n1", self.capper, cluster="c1", monotonic=lambda: self.now_s, wall_ns=self.wall_ns, training=rules
        )
        self.steps, self.energy = 0, [0.0] * 3
        self.hidden: set[int] = set()
        self.held: set[int] = set()
        self.pace_ms: float | None = None
        self.known: dict[float, tuple[float, float]] = {}
        self.granted = True

    def wall_ns(self) -> int:
        return T0_NS + int(self.now_s * 1e9)

    def busy_s(self, rank: int, mhz: float | None = None) -> float:
        mhz = float(self.clock.values[UUIDS[rank]] or TOP) if mhz is None else mhz
        if mhz not in self.known:
            self.known[mhz] = curve(mhz)
        return self.known[mhz][0] * self.slower[rank]

    def slowdown(self) -> float:
        """Of a step as all are set, between two blocks that measure."""
        for _ in range(3000):
            if not any("measuring" in why for why in self.loop.reasons.values()):
                break
            self.run(1)
        return max(self.busy_s(k) for k in range(3)) / max(self.busy_s(k, TOP) for k in range(3)) - 1.0

    def run(self, steps: int) -> None:
        """Steps of about a second, each told as it ends."""
        for _ in range(steps):
            self.steps += 1
            busy = [self.busy_s(k) * exp(self.rng.gauss(0.0, 0.02)) for k in range(3)]
            length = max(busy)
            self.now_s += length
            for k, uuid in enumerate(UUIDS):
                watts = self.known[float(self.clock.values[uuid] or TOP)][1]
                self.energy[k] += watts * busy[k] + 150.0 * (length - busy[k])
            if self.granted and self.steps % 5 == 0:
                self.grant()
            self.capper.tick()
            self.loop.step(self.now_s, self.telemetry(busy, length))

    def telemetry(self, busy: list[float], length: float) -> NodeTelemetry:
        now_ns = self.wall_ns()
        engines = tuple(
            EngineReading(
                engine=f"rank-{k}", kind="training", stack="s", workload=workload_of("bert"), gpu_uuid=(UUIDS[k],),
                ts_ns=now_ns, requests_total=self.steps,
                e2e=Histogram(index=(1,), count=(1,), sum_ms=length * 1e3),
                tbt=Histogram(index=(1,), count=(1,), sum_ms=(length - busy[k]) * 1e3),
            )
            for k in range(3) if k not in self.hidden
        )  # fmt: skip
        gpu = GpuColumns(uuid=UUIDS, energy_mj=tuple(int(e * 1e3) for e in self.energy), sm_max_mhz=(TOP,) * 3)
        return NodeTelemetry(
            cluster="c1", node="n1", boot_id="b", seq=self.steps, ts_ns=now_ns, source=("t",), quality="simulated",
            engines=engines, gpu=gpu,
        )  # fmt: skip

    def grant(self) -> None:
        self.seq += 1
        targets = tuple(LatencyTarget(engine=f"rank-{k}", e2e_ms=self.pace_ms) for k in range(3))
        gpu = EnvelopeColumns(
            uuid=UUIDS, min_sm_mhz=tuple(None if k in self.held else LOW for k in range(3)),
            max_sm_mhz=tuple(None if k in self.held else TOP for k in range(3)), max_power_w=(None,) * 3,
            engine=("rank-0", "rank-1", "rank-2"), holdout=tuple(k in self.held for k in range(3)),
            reason=("test",) * 3,
        )  # fmt: skip
        command = PowerDesired(
            cluster="c1", node="n1", epoch=1, seq=self.seq, issued_at_ns=self.wall_ns(), sample_ts_ns=self.wall_ns(),
            ttl_ms=20_000, on_expiry="restore", mode="on", strategy="balanced", policy_version="1", gpu=gpu,
            reason="test", targets=targets,
        )  # fmt: skip
        self.loop.on_command(encode(SIGNER.sign(command)), self.wall_ns())

    @property
    def locks(self) -> list[float]:
        return [float(self.clock.values[uuid] or TOP) for uuid in UUIDS]

    def until_chosen(self, most: int = 6000) -> None:
        for _ in range(most // 50):
            self.run(50)
            states = [self.loop.report(f"rank-{k}") for k in range(3) if k not in self.hidden]
            if all(state is not None and state.state == "chosen" for state in states):
                self.run(60)
                return
        raise AssertionError(self.loop.reasons)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    made = Node(tmp_path_factory.mktemp("ranks"))
    made.until_chosen()
    return made


def test_ranks_that_wait_run_slower_than_the_straggler_within_the_bound(node: Node) -> None:
    first, second, slow = node.locks
    assert max(first, second) < slow - 150.0 and node.slowdown() <= 0.05


def test_a_straggler_that_leaves_and_one_that_appears(node: Node) -> None:
    node.slower[2] = 1.0
    node.run(60)
    assert node.slowdown() <= 0.05
    node.slower[0] = 1.2
    node.run(200)
    assert node.slowdown() <= 0.05
    node.slower[:] = [1.0, 1.0, 1.2]
    node.run(400)
    assert node.slowdown() <= 0.05


def test_a_straggler_whose_steps_become_unknown_is_at_its_default_and_the_others_get_no_room(node: Node) -> None:
    node.hidden.add(2)
    node.run(20)
    assert node.locks[2] == TOP
    assert all(node.busy_s(k) <= node.busy_s(k, TOP) * 1.05 for k in (0, 1))
    node.hidden.clear()
    node.run(120)
    assert node.slowdown() <= 0.05


def test_everything_goes_back_with_the_lease(node: Node) -> None:
    node.granted = False
    node.run(40)
    assert node.locks == [TOP] * 3
    assert all(value is None for value in node.clock.values.values())
    node.granted = True


def test_a_held_out_straggler_sets_the_pace_and_stays_at_its_default(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.held.add(2)
    for _ in range(80):
        node.run(50)
        states = [node.loop.report(f"rank-{k}") for k in (0, 1)]
        if all(state is not None and state.state == "chosen" for state in states):
            break
    node.run(300)
    assert node.slowdown() <= 0.05 and node.locks[2] == TOP
    assert max(node.locks[:2]) < TOP - 150.0
    assert all(node.busy_s(k) > 1.1 * node.busy_s(k, TOP) for k in (0, 1))


def test_without_a_group_waits_give_no_room_unless_the_envelope_tells_the_pace(tmp_path: Path) -> None:
    node = Node(tmp_path, group=None)
    node.until_chosen()
    assert all(node.busy_s(k) <= node.busy_s(k, TOP) * 1.05 for k in range(3))
    node.pace_ms = 1200.0  # the slowest rank, wherever it is
    node.run(3000)
    assert max(node.locks[:2]) < node.locks[2] - 150.0 and node.slowdown() <= 0.05
    node.pace_ms = None  # nobody knows it any more
    node.run(10)
    assert all(node.busy_s(k) <= node.busy_s(k, TOP) * 1.05 for k in range(3))
    node.pace_ms = 1200.0
    node.run(60)
    assert max(node.locks[:2]) < node.locks[2] - 150.0
    node.slower[2], node.pace_ms = 1.0, 1000.0
    node.run(30)
    assert node.slowdown() <= 0.05


def test_the_pace_of_another_job_under_the_same_name_is_not_believed(tmp_path: Path) -> None:
    node = Node(tmp_path, group=None, slower=(1.0, 1.0, 1.0))
    node.pace_ms = 1300.0
    node.until_chosen()
    node.run(300)
    assert node.slowdown() <= 0.05


def test_a_rank_says_its_job_in_its_workload() -> None:
    assert group_of(workload_of("bert")) == "bert"
    assert group_of("training") is None and group_of("rank-of:") is None and group_of("") is None
