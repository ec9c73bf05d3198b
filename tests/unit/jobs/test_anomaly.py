"""The anomaly job under recorded load on the twin: silent when nothing is wrong, right when something is."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streams.contract.records import AnomalyVerdict, EngineControl, NodeFeatures
from streams.contract.topics import FEATURES
from streams.jobs.anomaly import AnomalyJob
from streams.jobs.base import Outcome
from tests.unit.jobs.support import T0_NS, Clock, FakePublisher, FakeState, context, features, messages
from tests.unit.jobs.twin_load import Floats, twin_features

SECONDS = 600
FAULT_S = 420.0
Beats = list[list[NodeFeatures]]


class Bench:
    def __init__(self, folder: Path, state: FakeState | None = None) -> None:
        self.clock, self.state, self.offset = Clock(), state or FakeState(), 0
        self.ctx = context(folder, self.clock, state=self.state)
        self.start()

    def start(self) -> None:
        self.job = AnomalyJob()
        self.job.start(self.ctx)
        self.job.assign(frozenset({0}))

    def feed(self, beats: Iterable[list[NodeFeatures]]) -> list[AnomalyVerdict]:
        before = len(self.verdicts)
        for nodes in beats:
            self.clock.now_s += 5
            batch = messages(nodes, self.offset)
            self.offset += len(batch)
            assert self.job.process(FEATURES, 0, batch) is Outcome.ACK
            assert list(self.job.tick()) == []
        return self.verdicts[before:]

    @property
    def publisher(self) -> FakePublisher:
        assert isinstance(self.ctx.publisher, FakePublisher)
        return self.ctx.publisher

    @property
    def verdicts(self) -> list[AnomalyVerdict]:
        return self.publisher.of(AnomalyVerdict)


def broken(second: float, sample: dict[str, Floats]) -> None:
    """GPU 3 draws a quarter less than its peers, GPU 9 heats up."""
    if second >= FAULT_S:
        sample["power_w"][3] *= 0.75
        sample["temp_c"][9] += min((second - FAULT_S) / 6.0, 60.0)


@pytest.fixture(scope="module")
def faulty() -> Beats:
    return list(twin_features(replicas=4, seconds=SECONDS, fault=broken))


@pytest.fixture(scope="module")
def normal() -> Beats:
    """Normal load, with our own clock locks coming and going on half of the engines after seven minutes."""

    def lock(second: float, free: Floats) -> Floats:
        out = free.copy()
        if second > FAULT_S and int(second) % 60 > 10:
            out[8:] = max(1200.0, 1980.0 - 60.0 * (second - FAULT_S))
        return np.asarray(out)

    return list(twin_features(replicas=4, seconds=SECONDS, lock=lock, seed=3))


def test_normal_load_and_our_own_locks_are_no_anomaly(tmp_path: Path, normal: Beats) -> None:
    assert Bench(tmp_path).feed(normal) == []


def test_broken_gpus_are_named_once_with_evidence(tmp_path: Path, faulty: Beats) -> None:
    verdicts = Bench(tmp_path).feed(faulty)
    frozen = {(v.gpu_uuid, v.metric) for v in verdicts if v.action == "freeze"}
    assert frozen == {("GPU-n0-3", "power_ratio_to_peers"), ("GPU-n1-1", "temp_slope_c_per_min_over_peers")}
    # A drift belongs to the stack: it names the engine whose reading brought it out, not the cause.
    assert {v.gpu_uuid for v in verdicts if v.metric != "power_w_drift"} == {"GPU-n0-3", "GPU-n1-1"}
    for verdict in verdicts:
        assert FAULT_S <= (verdict.ts_ns - T0_NS) / 1e9 <= FAULT_S + 90
        assert verdict.window_start_ns < verdict.window_end_ns == verdict.ts_ns
        assert verdict.stack and verdict.workload == "chat" and verdict.evidence
        assert verdict.quality == "simulated"
    assert len(frozen) == len([v for v in verdicts if v.action == "freeze"])


def test_a_replay_gives_the_same_verdicts(tmp_path: Path, faulty: Beats) -> None:
    first, second = Bench(tmp_path).feed(faulty), Bench(tmp_path).feed(faulty)
    assert [v.verdict_id for v in first] == [v.verdict_id for v in second] and first


def test_a_node_whose_clock_runs_ahead_blinds_nobody(tmp_path: Path, faulty: Beats) -> None:
    """It used to make every other GPU look gone, so that no detector ever had a past to judge by."""
    bench = Bench(tmp_path)
    bench.clock.now_s += SECONDS
    ahead_ns = bench.clock.wall_ns() + 86_400 * 10**9
    strange = [
        msgspec.structs.replace(
            nodes[0],
            node="ahead",
            uuid=tuple(f"A-{u}" for u in nodes[0].uuid),
            engines=(),
            window_end_ns=ahead_ns + nodes[0].window_end_ns - T0_NS,
        )
        for nodes in faulty
    ]
    found = bench.feed([[*nodes, one] for nodes, one in zip(faulty, strange, strict=True)])
    named = {(v.gpu_uuid, v.metric) for v in found if v.action == "freeze" and not v.gpu_uuid.startswith("A-")}
    assert named == {("GPU-n0-3", "power_ratio_to_peers"), ("GPU-n1-1", "temp_slope_c_per_min_over_peers")}


def test_repeated_records_change_nothing(tmp_path: Path, faulty: Beats) -> None:
    doubled = [nodes for nodes in faulty for _ in (0, 1)]
    ids = [v.verdict_id for v in Bench(tmp_path).feed(faulty)]
    assert [v.verdict_id for v in Bench(tmp_path).feed(doubled)] == ids


def test_one_big_batch_is_judged_as_many_small_ones(tmp_path: Path, faulty: Beats) -> None:
    bench = Bench(tmp_path)
    bench.clock.now_s += SECONDS  # a backlog: the half-space allowance is full at most, the other two judge everything
    bench.job.process(FEATURES, 0, messages([one for nodes in faulty for one in nodes]))
    small = [v.verdict_id for v in Bench(tmp_path).feed(faulty) if v.model == "robust_z"]
    assert [v.verdict_id for v in bench.verdicts if v.model == "robust_z"] == small


def test_models_survive_a_restart_as_numbers(tmp_path: Path, faulty: Beats) -> None:
    bench = Bench(tmp_path)
    split = int(FAULT_S / 5) - 2
    bench.feed(faulty[:split])
    bench.job.revoke(frozenset({0}))
    saved = bench.state.saved["anomaly", 0]
    text = bytes(saved.data)
    assert len(text) < 100_000 and set(msgspec.json.decode(text)) == {"baseline", "forests", "regressions"}
    bench.start()
    verdicts = bench.feed(faulty[split:])
    assert {v.gpu_uuid for v in verdicts if v.action == "freeze"} == {"GPU-n0-3", "GPU-n1-1"}
    cold = Bench(tmp_path)
    assert not [v for v in cold.feed(faulty[split:]) if v.action == "freeze"], (
        "without a snapshot it warms up in silence"
    )


def test_an_unreadable_snapshot_is_no_reason_to_stop(tmp_path: Path, faulty: Beats) -> None:
    state = FakeState()
    state.save("anomaly", 0, {"forests": {"x/chat": {"counter": 1, "windows": 3, "reference": [], "latest": []}}}, {})
    assert Bench(tmp_path, state).feed(faulty[:3]) == []


def test_poison_goes_to_the_dead_letters(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    good = features("n1", 1, ts_ns=bench.clock.wall_ns())
    bench.job.process(FEATURES, 0, messages([b"\xff\x00", good, b'{"cluster":"c1"}']))
    assert len(bench.publisher.dead) == 2


def test_unknown_features_are_unknown_not_zero(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    beats = [[features("n1", i, ts_ns=bench.clock.wall_ns() + i * 5 * 10**9, engines=i % 2 == 0)] for i in range(1, 60)]
    assert bench.feed(beats) == []


def test_rows_of_gone_gpus_are_used_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for i in range(4):
        bench.feed([[features(f"n{i}", i, ts_ns=bench.clock.wall_ns())]])
        bench.clock.now_s += 700
        bench.feed([[features("stays", i, ts_ns=bench.clock.wall_ns())]])
        list(bench.job.tick())
    part = bench.job._parts[0]
    assert len(part.row_of) <= 16 and max(part.row_of.values()) < 24


# --- controllers that go on missing what their engines do ---


def missing_by(errors: Iterable[float], *, engine: str = "n1-e0") -> Beats:
    """One node, a record a second; the controller of one engine misses by these errors."""
    beats: Beats = []
    for second, error in enumerate(errors):
        report = features("n1", second + 1, ts_ns=T0_NS + second * 10**9)
        engines = tuple(
            msgspec.structs.replace(
                one, control=EngineControl(state="controlled", time_error_ratio=error, decode_ratio=1.0)
            )
            if one.engine == engine
            else one
            for one in report.engines
        )
        beats.append([msgspec.structs.replace(report, engines=engines)])
    return beats


def test_a_controller_that_goes_on_missing_freezes_its_engine_and_says_so_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    found = bench.feed(missing_by([0.01, -0.01] * 150 + [0.12] * 200))
    assert {(v.metric, v.action, v.model) for v in found} == {("model_drift", "freeze", "adwin")}
    assert {v.gpu_uuid for v in found} == {f"GPU-n1-{i}" for i in range(4)}  # its own GPUs, not the neighbour's
    times = sorted({(v.ts_ns - T0_NS) / 1e9 for v in found})
    assert 300 + 30 <= times[0] <= 300 + 75
    assert all(later - earlier == pytest.approx(60.0, abs=2.0) for earlier, later in pairwise(times))
    assert found[0].score > found[0].threshold == 6.0 and found[0].evidence["time_error_ratio"] == 0.12
    assert found[0].stack and found[0].quality == "simulated"


def test_records_that_come_twice_or_in_a_bunch_do_not_make_a_drift_of_seconds(tmp_path: Path) -> None:
    """A node short of time: the broker gets its records late and some of them twice; their own times say how long."""
    calm, bad = missing_by([0.01] * 300), missing_by([0.01] * 300 + [0.4] * 9)[300:]
    assert Bench(tmp_path).feed([*calm, *(bad * 5)]) == []
    whole = missing_by([0.01] * 300 + [0.4] * 60)[300:]
    late = [[record for beat in whole for record in beat]]  # a minute in one batch
    assert {v.metric for v in Bench(tmp_path / "b").feed([*calm, *late])} == {"model_drift"}


def test_a_controller_that_learns_within_seconds_is_left_alone(tmp_path: Path) -> None:
    assert Bench(tmp_path).feed(missing_by([0.01] * 300 + [0.5] * 6 + [0.01] * 200)) == []
    assert Bench(tmp_path / "b").feed(missing_by([0.05] * 400)) == []
