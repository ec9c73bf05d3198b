"""The slow step in the actuation job: what is planned, what is granted of it, and what is only said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.control.profiles import TWIN_STACK
from streams.contract.records import EngineControl, EngineReading, NodeFeatures, PowerDesired
from streams.contract.topics import APPLIED, FEATURES
from streams.errors import StreamsError
from streams.jobs.actuation import ActuationJob
from streams.jobs.actuation_rows import rows_of
from streams.plan import MEMORY, PLAN, of_workers
from tests.unit.jobs.support import Clock, FakeState, ack, context, features
from tests.unit.jobs.test_actuation import Bench, Words, intent

NODES = ("n1", "n2", "n3")


def plan_of(bench: Bench) -> dict[str, Any]:
    state = bench.ctx.state
    assert isinstance(state, FakeState)
    found: dict[str, Any] = msgspec.json.decode(state.saved[PLAN, 0].data)
    return found


class Loaded(Bench):
    """The job's bench whose engines are of a known stack and count what they serve; `per_s` requests of each engine."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.per_s, self.power_w, self.stack, self.holdout_w = 2.0, 450.0, TWIN_STACK, 600.0
        self.running: int | None = 8
        super().__init__(folder, **settings)
        self.job._count_partitions = lambda _: 1

    def reports(self, nodes: Any = NODES, **more: float) -> list[NodeFeatures]:
        return [self._loaded(one) for one in super().reports(nodes, power_w=self.power_w, **more)]

    def _loaded(self, record: NodeFeatures) -> NodeFeatures:
        served = int(self.clock.now_s * self.per_s)
        engines = tuple(self._engine(engine, served) for engine in record.engines)
        held = {u for n in self.latest().values() for u, h in zip(n.gpu.uuid, n.gpu.holdout, strict=True) if h}
        watts = tuple(self.holdout_w if uuid in held else self.power_w for uuid in record.uuid)
        columns = {**record.features, "power_w_last": watts}
        return msgspec.structs.replace(record, engines=engines, features=columns)

    def _engine(self, engine: EngineReading, served: int) -> EngineReading:
        return msgspec.structs.replace(
            engine,
            stack=self.stack,
            running=self.running,
            requests_total=served,
            prompt_tokens_total=served * 1600,
            generation_tokens_total=served * 100,
            kv_tokens=8 * 1700,
            waiting_tokens=0,
        )

    def answer(self, commands: list[PowerDesired], status: str = "applied") -> None:
        for command in commands:
            self.feed(APPLIED, ack(command, ts_ns=self.clock.wall_ns(), status=status))

    def run(self, seconds: int, *, answers: bool = True, nodes: Any = NODES) -> None:
        for _ in range(seconds):
            sent = self.beat(nodes=nodes)
            if answers:
                self.answer(sent)

    def ceilings(self) -> dict[str, float | None]:
        return {u: w for c in self.latest().values() for u, w in zip(c.gpu.uuid, c.gpu.max_power_w, strict=True)}


def test_each_mode_writes_a_plan_with_a_sentence_and_its_fields(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, mode="observe", slow_interval_s=5.0)
    bench.run(25)
    plan = plan_of(bench)
    (pool,) = plan["pools"]
    assert plan["mode"] == "observe" and pool["stack"] == TWIN_STACK and pool["quality"] == "simulated"
    assert pool["serving"] == 6 and 2 <= pool["recommended"] <= 6 and pool["executed"] is False
    assert pool["fields"]["rate"] == pytest.approx(12.0, rel=0.05)
    assert "12.0 requests/s now" in pool["reason"] and 1 <= pool["batch"] <= 256
    assert pool["fields"]["cost_per_h"] is None and pool["fields"]["carbon_g_per_h"] is None
    assert bench.wire.written == []


def test_more_load_wants_more_replicas_and_unknown_load_changes_nothing(tmp_path: Path) -> None:
    few, many = Loaded(tmp_path / "a", mode="observe"), Loaded(tmp_path / "b", mode="observe", replicas_max=40)
    many.per_s = 12.0
    few.run(60)
    many.run(60)
    assert plan_of(many)["pools"][0]["recommended"] > plan_of(few)["pools"][0]["recommended"]
    blind = Bench(tmp_path / "c", mode="observe")
    for _ in range(15):
        blind.beat()
    (pool,) = plan_of(blind)["pools"]
    assert pool["recommended"] is None and "no profile" in pool["reason"]


def test_bad_counters_make_the_rate_unknown_never_zero(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, mode="observe", slow_interval_s=5.0)
    for broken in ({"requests_total": -(2**63)}, {"requests_total": 2**62}, {"requests_total": None}, {"ts_ns": 0}):
        for step in range(12):
            bench.clock.now_s += 1.0
            bench.tick()
            records = bench.reports()
            if step % 2:
                records = [
                    msgspec.structs.replace(r, engines=tuple(msgspec.structs.replace(e, **broken) for e in r.engines))
                    for r in records
                ]
            bench.feed(FEATURES, *records)
        (pool,) = plan_of(bench)["pools"]
        assert pool["recommended"] is None or 2 <= pool["recommended"] <= 6
        assert pool["fields"].get("rate") is None or pool["fields"]["rate"] < 100.0


def test_a_clock_that_goes_back_does_not_stop_the_plan(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, mode="observe", slow_interval_s=5.0)
    bench.run(20)
    back = bench.clock.wall_ns
    bench.ctx.wall_ns.__self__.now_s -= 0.0  # type: ignore[attr-defined]  # the clock itself
    object.__setattr__(bench.ctx, "wall_ns", lambda: back() - 3600 * 10**9)
    bench.run(20)
    assert plan_of(bench)["pools"][0]["recommended"] is not None


# --- who may leave ---


def test_engines_that_are_not_needed_are_named_one_by_one_and_nothing_is_sent(tmp_path: Path) -> None:
    state = FakeState()
    bench = Loaded(tmp_path, mode="observe", state=state)
    bench.per_s = 0.4
    for _ in range(100):
        bench.beat(10.0)
    (pool,) = plan_of(bench)["pools"]
    held = {
        e.engine
        for r in bench.reports()
        for e in r.engines
        if bench.job._parts[0].held_out(e.gpu_uuid[0], bench.job._options)
    }
    intent = pool["intent"]
    assert pool["recommended"] == intent["serve"] < pool["serving"] == 6 and pool["executed"] is False
    assert [one["do"] for one in intent["engines"]] == ["drain"]  # they still have requests: one at a time
    assert not {one["engine"] for one in intent["engines"]} & held and held
    assert intent["serve"] >= pool["fields"]["least"] and intent["serve"] >= 2
    assert intent["lease_until_ns"] == pytest.approx(bench.clock.wall_ns() + 30 * 10**9, abs=11 * 10**9)
    assert plan_of(bench)["nodes_off"] == [] and bench.wire.written == []

    bench.running = 0  # drained: an orchestrator that follows
    for _ in range(30):
        bench.beat(10.0)
    plan = plan_of(bench)
    off = {one["engine"] for one in plan["pools"][0]["intent"]["engines"] if one["do"] == "off"}
    assert len(off) == 6 - plan["pools"][0]["intent"]["serve"] >= 3 and not off & held and plan["nodes_off"]
    assert all({f"{node}-e0", f"{node}-e1"} <= off for node in plan["nodes_off"])

    new = Loaded(tmp_path, mode="observe", state=state)
    new.clock.now_s, new.seq, new.per_s = bench.clock.now_s, 10_000, 0.4
    new.run(15)
    again = {one["engine"] for one in plan_of(new)["pools"][0]["intent"]["engines"]}
    assert again == off


def test_an_unknown_rate_names_nobody(tmp_path: Path) -> None:
    blind = Bench(tmp_path, mode="observe")
    for _ in range(15):
        blind.beat()
    (pool,) = plan_of(blind)["pools"]
    assert pool["intent"] is None


# --- what the nodes have learned ---


def with_control(bench: Loaded, seconds: int, *controls: EngineControl | None) -> dict[str, Any]:
    """The pool's plan when the engines report these, one after the other."""
    for _ in range(seconds):
        bench.clock.now_s += 1.0
        bench.tick()
        records, number = bench.reports(), 0
        for k, record in enumerate(records):
            engines = []
            for engine in record.engines:
                engines.append(msgspec.structs.replace(engine, control=controls[number % len(controls)]))
                number += 1
            records[k] = msgspec.structs.replace(record, engines=tuple(engines))
        bench.feed(FEATURES, *records)
    (pool,) = plan_of(bench)["pools"]
    return dict(pool["fields"])


def test_ratios_and_slack_of_the_nodes_decide_how_many_are_enough(tmp_path: Path) -> None:
    plain = EngineControl(state="controlled", decode_ratio=1.0, prefill_ratio=1.0, slack_ratio=1.0)
    found = {}
    for name, change in {
        "plain": {},
        "slow": {"prefill_ratio": 1.5, "decode_ratio": 1.5},
        "late": {"slack_ratio": 0.1},
        "early": {"slack_ratio": 2.0},
    }.items():
        bench = Loaded(tmp_path / name, mode="observe", slow_interval_s=5.0, replicas_max=60)
        bench.per_s = 12.0
        found[name] = with_control(bench, 25, msgspec.structs.replace(plain, **change))
    assert found["slow"]["least"] > 1.3 * found["plain"]["least"] and found["slow"]["prefill_ratio"] == 1.5
    assert found["late"]["slack"] == pytest.approx(0.1)  # answered slowly: tests/unit/models/policy/test_replicas.py
    assert found["early"]["least"] == found["plain"]["least"]  # room given back is not packed into
    # A slow stack has bounds in its own seconds: it still has a number that keeps them.
    assert found["slow"]["wall_w"] is not None


def test_an_engine_that_was_rolled_back_brings_the_whole_fleet_back(tmp_path: Path) -> None:
    """Its requests missed the SLO at lower clocks, or on fewer replicas: nobody knows which."""
    found = {}
    for state in ("controlled", "rolled_back"):
        bench = Loaded(tmp_path / state, mode="observe", slow_interval_s=5.0, replicas_max=60)
        told = EngineControl(state="controlled", decode_ratio=1.0, prefill_ratio=1.0, slack_ratio=2.0)
        found[state] = with_control(bench, 25, told, msgspec.structs.replace(told, state=state))
    assert found["controlled"]["least"] < 20 and found["rolled_back"]["least"] == 60


def test_what_no_controller_can_have_learned_is_left_out(tmp_path: Path) -> None:
    good = EngineControl(
        state="controlled", decode_ratio=1.2, prefill_ratio=1.1, slack_ratio=0.9, wait_price_w=40.0, meet_ratio=0.6
    )
    bad = [
        EngineControl(state="recalibrating", decode_ratio=2.9, prefill_ratio=2.9),
        EngineControl(state="unknown_stack", decode_ratio=2.9),
        EngineControl(
            state="controlled",
            decode_ratio=-5.0,
            prefill_ratio=1e9,
            slack_ratio=0.0,
            wait_price_w=1e300,
            meet_ratio=-1.0,
        ),
        EngineControl(state="watched", slack_ratio=0.3, wait_price_w=0.4),
        None,
    ]
    bench = Loaded(tmp_path, mode="observe", slow_interval_s=5.0)
    fields = with_control(bench, 25, good, *bad)
    told = (fields["decode_ratio"], fields["prefill_ratio"], fields["slack"], fields["wait_price_w"], fields["meet"])
    assert told == pytest.approx((1.2, 1.1, 0.9, 40.0, 0.6))
    none = with_control(Loaded(tmp_path / "none", mode="observe", slow_interval_s=5.0), 25, *bad)
    assert (none["prefill_ratio"], none["slack"], none["wait_price_w"]) == (None, None, None)


# --- rows ---


def test_a_row_keeps_its_budget_with_the_hold_out_at_its_own_limit(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, row_budget_w=12_000.0)
    bench.run(40)
    held = bench.holdout()
    ceilings = bench.ceilings()
    assert held and all(ceilings[uuid] is None for uuid in held)
    ours = [w for uuid, w in ceilings.items() if uuid not in held]
    assert all(w is not None and 200.0 <= w < 700.0 for w in ours)
    total = sum(w for w in ours if w is not None) + 700.0 * len(held)
    assert 11_000.0 < total <= 12_000.0
    (row,) = plan_of(bench)["rows"]
    assert row["committed_w"] <= 12_000.0 + 1e-6 and not row["refused"]
    newest = bench.latest()["n1"]
    assert newest.brake is not None and newest.brake.from_ratio == (0.9, 0.97) and newest.on_expiry == "hold"
    pairs = zip(newest.brake.max_power_w[1], newest.brake.max_power_w[0], strict=True)
    assert all(hard <= soft for hard, soft in pairs if hard is not None and soft is not None)
    assert any("Row row: at most" in reason for reason in newest.gpu.reason)


def test_a_budget_below_the_floors_is_refused_in_one_sentence_and_nothing_is_granted_for_it(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, row_budget_w=3_000.0)
    bench.run(30)
    (row,) = plan_of(bench)["rows"]
    held = len(bench.holdout())
    assert row["refused"] and row["least_w"] == pytest.approx(200.0 * (24 - held) + 700.0 * held)
    assert f"give at least {row['least_w']:.0f} W" in row["reason"]
    assert set(bench.ceilings().values()) == {None}


def test_a_join_never_lifts_the_sum_and_waits_for_the_answers(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, row_budget_w=9_000.0)
    bench.run(40, nodes=("n1", "n2"))
    in_force = {u: w for u, w in bench.ceilings().items() if w is not None}
    bench.run(30, answers=False, nodes=NODES)
    for uuid, watts in bench.ceilings().items():
        if watts is not None:
            in_force[uuid] = max(in_force.get(uuid, 0.0), watts)
    assert sum(in_force.values()) + 700.0 * len(bench.holdout()) <= 9_000.0
    assert all(w is None for u, w in bench.ceilings().items() if u.startswith("GPU-n3"))
    bench.run(40)
    assert any(w is not None for u, w in bench.ceilings().items() if u.startswith("GPU-n3"))
    ours = sum(w for w in bench.ceilings().values() if w is not None)
    assert ours + 700.0 * len(bench.holdout()) <= 9_000.0


def test_a_paused_node_counts_with_its_own_limit_and_the_others_make_room(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, row_budget_w=13_000.0)
    bench.run(40)
    bench.words.say(intent(bench, "pause", "node/n1"))
    bench.run(40)
    ours = {u: w for u, w in bench.ceilings().items() if w is not None}
    assert not any(u.startswith("GPU-n1") for u in ours)
    outside = 8 + len([u for u in bench.holdout() if not u.startswith("GPU-n1")])
    assert sum(ours.values()) + 700.0 * outside <= 13_000.0


def test_a_new_process_goes_on_with_the_ceilings_of_the_old_one(tmp_path: Path) -> None:
    state = FakeState()
    old = Loaded(tmp_path, row_budget_w=12_000.0, state=state)
    old.run(40)
    before = old.ceilings()
    old.job.stop()
    new = Loaded(tmp_path, row_budget_w=12_000.0, state=state)
    new.clock.now_s = old.clock.now_s
    new.seq = 10_000
    new.run(1)
    assert {u: w for u, w in new.ceilings().items() if w is not None} == {
        u: w for u, w in before.items() if w is not None
    }


def test_a_new_process_sends_nothing_without_the_brake_table(tmp_path: Path) -> None:
    state = FakeState()
    old = Loaded(tmp_path, row_budget_w=12_000.0, state=state)
    old.run(40)
    old.job.stop()
    new = Loaded(tmp_path, row_budget_w=12_000.0, state=state)
    new.clock.now_s, new.seq = old.clock.now_s + 1.0, 10_000
    new.feed(FEATURES, *new.reports())
    assert new.wire.written == []  # its rows are not planned yet, and a node may be braking
    new.run(8)
    granted = [c for c in new.wire.written if any(w is not None for w in c.gpu.max_power_w)]
    assert granted and all(c.brake is not None for c in granted)


def test_a_rollback_keeps_the_row_although_it_frees_the_clocks(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, row_budget_w=12_000.0)
    bench.run(40)
    for pool in list(bench.job._pools.guards):
        bench.job._pools.guards[pool] = msgspec_free_rollback(bench)
    bench.run(10)
    command = bench.latest()["n2"]
    granted = [i for i, held in enumerate(command.gpu.holdout) if not held]
    assert all(command.gpu.max_sm_mhz[i] is None for i in granted)
    assert all((command.gpu.max_power_w[i] or 0.0) >= 200.0 for i in granted)


def msgspec_free_rollback(bench: Bench) -> Any:
    from models.policy.guard import GuardState

    return GuardState(default_until_ns=bench.clock.wall_ns() + 10**12)


def test_several_workers_each_keep_their_share(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, row_budget_w=36_000.0)
    bench.job._count_partitions = lambda _: 3
    bench.run(30)
    (row,) = plan_of(bench)["rows"]
    assert row["budget_w"] == pytest.approx(12_000.0) and "keeps 33% of the row" in row["reason"]


def test_a_partition_that_moves_takes_its_ceilings_along_and_its_new_worker_waits(tmp_path: Path) -> None:
    state = FakeState()
    old = Loaded(tmp_path, row_budget_w=12_000.0, state=state)
    old.run(40)
    before = {u: w for u, w in old.ceilings().items() if w is not None}
    held = old.holdout()
    old.job.revoke(frozenset({0}))
    saved = msgspec.json.decode(state.saved["actuation", 0].data)
    assert {u for gpus in saved["outside"].values() for u in gpus} == held
    assert old.job.slow.row("GPU-n1-0") == (None, "")  # nothing of it is kept where it was

    new = Loaded(tmp_path, row_budget_w=36_000.0, state=state)  # half of it is more than all that was
    new.job._count_partitions = lambda _: 2
    new.clock.now_s, new.seq = old.clock.now_s, 10_000
    others: list[dict[str, Any]] = []
    new.job._read_plans = lambda _: others
    new.run(20)
    assert {u: w for u, w in new.ceilings().items() if w is not None} == before
    (row,) = plan_of(new)["rows"]
    assert "Partitions have moved: nothing rises for" in row["reason"] and row["share_w"] == 18_000.0
    new.run(80)
    assert {u: w for u, w in new.ceilings().items() if w is not None} == before
    assert "nothing rises, because no newer plan tells of partitions 1" in plan_of(new)["rows"][0]["reason"]
    others.append({"ts_ns": new.clock.wall_ns(), "partitions": [1], "rows": [{"committed_w": 9e3, "share_w": 18e3}]})
    new.run(30)
    assert sum(w for w in new.ceilings().values() if w is not None) > 1.1 * sum(before.values())


def test_rows_wait_while_the_partitions_cannot_be_counted(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, row_budget_w=12_000.0)

    def away(_: object) -> int:
        raise StreamsError("the broker is away")

    bench.job._count_partitions = away
    bench.run(20)
    assert plan_of(bench)["rows"] == [] and set(bench.ceilings().values()) == {None}
    bench.job._count_partitions = lambda _: 1
    bench.run(15)
    assert any(w is not None for w in bench.ceilings().values())


ROWS = """
[[row]]
name = "r1"
budget_w = 6000
nodes = ["n1"]
low = ["chat"]
[[row]]
name = "r2"
budget_w = 9000
nodes = ["n*"]
overhead_w = 500
"""


def test_rows_from_a_file_have_nodes_classes_and_overheads(tmp_path: Path) -> None:
    path = tmp_path / "rows.toml"
    path.write_text(ROWS)
    bench = Loaded(tmp_path / "job", rows_file=path)
    bench.run(40)
    rows = {row["name"]: row for row in plan_of(bench)["rows"]}
    assert set(rows) == {"r1", "r2"} and rows["r2"]["outside_w"] >= 1000.0
    held = [uuid for uuid in bench.holdout() if not uuid.startswith("GPU-n1")]
    assert rows["r2"]["outside_w"] == 1000.0 + 700.0 * len(held)
    bench.run(60, nodes=("n1", "n2"))  # a silent node's host and hold-outs still draw
    assert {row["name"]: row for row in plan_of(bench)["rows"]}["r2"]["outside_w"] == rows["r2"]["outside_w"]
    first = sum(w for u, w in bench.ceilings().items() if w is not None and u.startswith("GPU-n1"))
    assert first <= 6000.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no [[row]]"),
        ("[[row]]\nname='a'\nbudget_w=-5", "budget_w of row a is -5; give a number from 1 to 1e+09"),
        ("[[row]]\nbudget_w=5", "a row has no name"),
        ("[[row]]\nname='a'\nbudget_w=5\ncolour=1", "a row has colour; it may have budget_w"),
        ("[[row]]\nname='a'\nbudget_w=5\nnodes='n1'", "nodes of row a is 'n1'; give a list of patterns"),
        ("[[row]]\nname='a'\nbudget_w=5\n[[row]]\nname='a'\nbudget_w=5", "two rows have the same name"),
        ("[[row]\n", "EO_ROWS_FILE"),
        ("[[row]]\nname='a'\nbudget_w=nan", "budget_w of row a is nan"),
    ],
)
def test_a_wrong_rows_file_is_refused_with_its_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rows.toml"
    path.write_text(text)
    with pytest.raises(StreamsError) as caught:
        rows_of(None, path)
    assert words in str(caught.value) and "docs/policy.md" in str(caught.value)


# --- PID ---


def test_pid_moves_limits_to_the_target_and_says_what_it_is_blind_to(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, power_target_w=400.0, power_floor_w=300.0, pid_kp=0.5, pid_ki=0.1, slow_interval_s=5.0)
    bench.power_w = 600.0
    bench.run(80)
    command = bench.latest()["n1"]
    granted = [i for i, held in enumerate(command.gpu.holdout) if not held]
    assert granted and all(command.gpu.max_sm_mhz[i] is None for i in granted)
    assert all(300.0 <= (command.gpu.max_power_w[i] or 0.0) < 500.0 for i in granted)
    assert "pid: blind to latency" in command.gpu.reason[granted[0]]
    assert plan_of(bench)["pid"]["kind"] == "pid: blind to latency"


def test_pid_keeps_its_limit_on_unknown_power(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, power_target_w=400.0, slow_interval_s=5.0)
    bench.power_w = float("nan")
    bench.run(40)
    assert plan_of(bench)["pid"]["limit_w_mean"] == 700.0


# --- ml-driven ---


def test_ml_driven_logs_propensities_in_canary_and_shows_its_gate(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, strategy="ml-driven", mode="canary", slow_interval_s=10.0)
    bench.run(60)
    (learning,) = plan_of(bench)["learning"]
    assert learning["gate"]["open"] is False and "Stays in recommend" in learning["gate"]["reason"]
    assert learning["acting"] and 0.02 <= learning["propensity"] < 1.0
    assert {round(c.propensity, 6) for c in bench.latest().values()} == {round(learning["propensity"], 6)}


def test_ml_driven_behaves_like_balanced_until_its_gate_is_open(tmp_path: Path) -> None:
    ours = Loaded(tmp_path / "a", strategy="ml-driven", slow_interval_s=10.0)
    plain = Loaded(tmp_path / "b", strategy="balanced", slow_interval_s=10.0)
    ours.run(60)
    plain.run(60)
    assert ours.ceilings() == plain.ceilings()
    assert [c.gpu.min_sm_mhz for c in ours.latest().values()] == [c.gpu.min_sm_mhz for c in plain.latest().values()]
    assert {c.propensity for c in ours.latest().values()} == {1.0}
    assert not plan_of(ours)["learning"][0]["acting"]


# --- price and carbon, memory ---


def test_price_and_carbon_come_from_files_or_are_null(tmp_path: Path) -> None:
    now = 1_700_000_000 + 1_000
    (tmp_path / "p.csv").write_text(f"timestamp_s,eur_per_kwh\n{now - 60},0.30\n{now + 3600},0.10\n")
    bench = Loaded(tmp_path / "job", mode="observe", price_file=tmp_path / "p.csv")
    bench.run(25)
    fields = plan_of(bench)["pools"][0]["fields"]
    assert fields["price_per_kwh"] == 0.30 and fields["g_per_kwh"] is None and fields["carbon_g_per_h"] is None
    assert fields["cost_per_h"] == pytest.approx(fields["wall_w"] / 1e3 * 0.30)
    assert plan_of(bench)["pools"][0]["currency"] == "EUR" and fields["weight"] > 1.0


def test_a_wrong_price_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("timestamp_s,eur_per_kwh\n5,300\n")
    with pytest.raises(StreamsError, match=r"EO_PRICE_FILE .*p\.csv: row 2 says 300 eur_per_kwh; give -10 to 100"):
        ActuationJob(lambda _: Words()).start(context(tmp_path, Clock(), price_file=tmp_path / "p.csv"))


def test_what_took_days_to_see_outlives_the_process(tmp_path: Path) -> None:
    state = FakeState()
    old = Loaded(tmp_path, mode="observe", state=state, slow_interval_s=60.0)
    for _ in range(36):
        old.beat(20.0)
    assert (MEMORY, 0) in state.saved
    new = Loaded(tmp_path, mode="observe", state=state)
    new.clock.now_s = old.clock.now_s
    new.run(15)
    bins = [one.planner.forecast.remember()["bins"] for one in new.job.slow._replicas._plans.values()]
    assert bins and all(len(b) >= 2 for b in bins)  # type: ignore[arg-type]  # dictionaries


def test_a_message_never_grows_beyond_what_a_broker_takes(tmp_path: Path) -> None:
    bench = Loaded(tmp_path, mode="observe", slow_interval_s=5.0)
    for step in range(8):
        bench.clock.now_s += 1.0
        bench.tick()
        records = bench.reports()
        names = [f"{'x' * 20_000}-{step}-{i}" for i in range(len(records) * 2)]
        for k, one in enumerate(records):
            engines = tuple(msgspec.structs.replace(e, stack=names[2 * k + j]) for j, e in enumerate(one.engines))
            records[k] = msgspec.structs.replace(one, engines=engines)
        bench.feed(FEATURES, *records)
    bench.run(5)
    state = bench.ctx.state
    assert isinstance(state, FakeState)
    assert len(bytes(state.saved[PLAN, 0].data)) < 900_000
    plan = plan_of(bench)
    assert plan["left_out"] > 0 and plan["pools"]


def test_a_plan_whose_partitions_moved_is_not_shown_twice() -> None:
    plans = [
        {"ts_ns": 1, "partitions": [0, 1, 2]},
        {"ts_ns": 5, "partitions": [0, 1]},
        {"ts_ns": 4, "partitions": [2]},
    ]
    assert [p["ts_ns"] for p in of_workers(plans)] == [5, 4]


def test_features_helper_is_of_a_known_device() -> None:
    assert features("n1", 1, ts_ns=1).name == ("NVIDIA H100 80GB HBM3",) * 8
