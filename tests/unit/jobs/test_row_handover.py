"""One row, several workers, partitions that move: the ceilings in force never sum above the budget. Virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from models.policy.arbiter import Device, Facts
from models.policy.row import RowSettings
from streams.contract.records import AckColumns, EngineReading, PowerApplied
from streams.errors import StreamsError
from streams.jobs import actuation_handover
from streams.jobs.actuation_handover import Handover, Plans, still_above
from streams.jobs.actuation_rows import Row, RowOrders
from streams.jobs.actuation_state import NodeState, PartitionState
from streams.plan import of_workers

PARTITIONS, PER_PARTITION, GPUS = 4, 2, 2
BUDGET_W = 400.0 * PARTITIONS * PER_PARTITION * GPUS
DEFAULT_W, HOLD_S, FRESH_S, DETECT_S = 700.0, 66.0, 30.0, 16.0
ROW = Row(RowSettings("r1", BUDGET_W), high=("hi-*",))
Watts = dict[str, dict[str, float]]  # by node and GPU
Command = tuple[tuple[int, int], int, dict[str, float]]  # (epoch, seq), issued, ceilings by GPU


def facts_of(part: PartitionState, node: NodeState, index: int, engine: EngineReading | None) -> Facts:
    held = node.uuid[index].endswith("held")
    return Facts(device=Device(1980, DEFAULT_W, 200.0, DEFAULT_W), holdout=held)


@dataclass
class Node:
    """Holds what it was told last (`hold`, a protected breaker). Away: neither telemetry nor commands pass; deaf: no
    command does."""

    name: str
    partition: int
    limits: dict[str, float]
    mark: tuple[int, int] = (0, 0)
    away_until_s: int = 0
    deaf_until_s: int = 0
    mail: list[tuple[int, Command]] = field(default_factory=list)


class Worker:
    def __init__(self, name: str, *, hold_s: float, plans: Plans) -> None:
        self.name, self.parts, self.epoch = name, dict[int, PartitionState](), dict[int, int]()
        self.rows = RowOrders((ROW,), floor_w=None, ceiling_w=None, assumed_s=None, handover_s=hold_s, plans=plans)
        self.seq, self.moved, self.issued = 0, False, dict[str, int]()


class Cluster:
    """Workers, nodes, the state topic and a group that moves partitions."""

    def __init__(self, *, seed: int, hold_s: float = HOLD_S, held_out: bool = False) -> None:
        self.rng, self.now_s, self.hold_s, self.epochs = random.Random(seed), 1_000_000, hold_s, 0
        self.workers: dict[str, Worker] = {}
        self.published: list[dict[str, Any]] = []
        self.store: dict[int, tuple[Watts, Watts, Watts]] = {}
        self.nodes: dict[str, Node] = {}
        for p in range(PARTITIONS):
            for k in range(PER_PARTITION):
                name = f"{'hi' if p < 2 else 'lo'}-{p}-{k}"
                uuids = [f"{name}-{g}" for g in range(GPUS)]
                if held_out and (p, k) == (0, 0):
                    uuids[0] += "-held"
                self.nodes[name] = Node(name, p, dict.fromkeys(uuids, DEFAULT_W))

    # --- the group ---

    def assign(self, owners: dict[int, str]) -> None:
        """An eager rebalance: everybody lets go, then takes what is theirs."""
        for worker in self.workers.values():
            for p in list(worker.parts):
                self.revoke(worker, p)
        for p, name in owners.items():
            if name not in self.workers:
                self.workers[name] = Worker(name, hold_s=self.hold_s, plans=lambda: of_workers(self.published))
            worker = self.workers[name]
            part = PartitionState(p, since_s=self.now_s)
            part.ceilings, part.unsettled, part.outside = self.store.get(p, ({}, {}, {}))
            worker.parts[p], worker.moved = part, True
            self.epochs += 1
            worker.epoch[p] = self.epochs
            worker.rows.recover(self.now_s, part.ceilings, part.unsettled, part.outside)

    def revoke(self, worker: Worker, p: int) -> None:
        part = worker.parts.pop(p)
        self.note(worker, p, part)
        worker.rows.release(part.nodes.keys() | part.ceilings.keys() | part.outside.keys())
        worker.moved = True

    def crash(self, name: str) -> None:
        del self.workers[name]

    def note(self, worker: Worker, p: int, part: PartitionState) -> None:
        nodes = part.nodes.keys() | part.ceilings.keys() | part.outside.keys()
        part.ceilings, part.unsettled = worker.rows.granted(nodes), worker.rows.unsettled(self.now_s, nodes)
        part.outside = worker.rows.outside(nodes)
        self.store[p] = (part.ceilings, part.unsettled, part.outside)

    # --- time ---

    def second(self) -> None:
        self.now_s += 1
        for worker in self.workers.values():
            self.report(worker)
            self.plan(worker)
        for node in self.nodes.values():
            self.deliver(node)

    def run(self, seconds: int, *, checked: bool = True) -> None:
        for _ in range(seconds):
            self.second()
            if checked:
                total = sum(w for node in self.nodes.values() for w in node.limits.values())
                assert total <= BUDGET_W + 1e-6, f"{total} W in force at {self.now_s}"

    def report(self, worker: Worker) -> None:
        for node in self.nodes.values():
            part = worker.parts.get(node.partition)
            if part is not None and self.now_s >= node.away_until_s:
                state = part.nodes.setdefault(node.name, NodeState(node.name))
                state.uuid, state.window_end_ns = tuple(node.limits), self.now_s * 10**9
                state.power_w = (300.0,) * GPUS

    def plan(self, worker: Worker) -> None:
        hurried: set[str] = set()
        if worker.parts and (worker.moved or self.now_s % 10 == ord(worker.name) % 10):
            fresh_ns = int((self.now_s - FRESH_S) * 1e9)
            hurried = worker.rows.step(
                float(self.now_s), worker.parts, {}, facts_of, fresh_ns=fresh_ns, partitions=PARTITIONS
            )
            worker.moved = False
            plan = {"ts_ns": self.now_s * 10**9, "partitions": sorted(worker.parts), "rows": worker.rows.told()}
            self.published = [*self.published, msgspec.json.decode(msgspec.json.encode(plan))][-30:]
            for p, part in worker.parts.items():
                self.note(worker, p, part)
        for p, part in worker.parts.items():
            for name, state in part.nodes.items():
                if name in hurried or self.now_s - worker.issued.get(name, 0) >= 5:
                    self.issue(worker, p, state)

    def issue(self, worker: Worker, p: int, state: NodeState) -> None:
        worker.issued[state.node] = self.now_s
        worker.seq += 1
        found = {u: w for u in state.uuid if (w := worker.rows.ceiling(u)) is not None}
        command = ((worker.epoch[p], worker.seq), self.now_s, found)
        self.nodes[state.node].mail.append((self.now_s + self.rng.randrange(3), command))

    def deliver(self, node: Node) -> None:
        if self.now_s < max(node.away_until_s, node.deaf_until_s):
            return
        due = [command for at, command in node.mail if at <= self.now_s]
        node.mail = [(at, command) for at, command in node.mail if at > self.now_s]
        for mark, issued, ceilings in sorted(due)[-1:]:
            if mark > node.mark:
                node.mark = mark
                node.limits.update(ceilings)
                self.answer(node, issued)

    def answer(self, node: Node, issued: int) -> None:
        owner = next((w for w in self.workers.values() if node.partition in w.parts), None)
        if owner is None or self.rng.random() < 0.1:
            return
        n, uuids = len(node.limits), tuple(node.limits)
        columns = AckColumns(
            uuid=uuids,
            status=("applied",) * n,
            reason=("",) * n,
            requested_limit_w=(None,) * n,
            effective_limit_w=tuple(node.limits.values()),
            previous_limit_w=(DEFAULT_W,) * n,
            requested_sm_mhz=(None,) * n,
            effective_sm_mhz=(None,) * n,
            measured_w=(None,) * n,
        )
        owner.rows.answered(
            PowerApplied(
                cluster="c1",
                node=node.name,
                ts_ns=self.now_s * 10**9,
                event="command",
                epoch=1,
                seq=1,
                gpu=columns,
                quality="simulated",
                issued_at_ns=issued * 10**9,
            )
        )

    def in_force_w(self, prefix: str) -> float:
        return sum(w for n in self.nodes.values() if n.name.startswith(prefix) for w in n.limits.values())


ALONE = dict.fromkeys(range(PARTITIONS), "a")
HALVES = {0: "a", 1: "a", 2: "b", 3: "b"}


def settled(seed: int, **more: float | bool) -> Cluster:
    cluster = Cluster(seed=seed, **more)  # type: ignore[arg-type]
    cluster.assign(ALONE)
    cluster.run(60, checked=False)
    cluster.run(20)
    assert cluster.in_force_w("hi") > 1.5 * cluster.in_force_w("lo")  # pooled: one half lends to the other
    return cluster


def away(cluster: Cluster, prefix: str, seconds: int) -> None:
    for node in cluster.nodes.values():
        if node.name.startswith(prefix):
            node.away_until_s = cluster.now_s + seconds


def test_a_second_worker_waits_until_the_first_ones_half_is_down() -> None:
    cluster = settled(1)
    cluster.assign(HALVES)
    away(cluster, "hi-", 25)  # those that must come down hear of it late
    cluster.run(40)
    plan = cluster.workers["b"].rows.plans["r1"]
    assert cluster.in_force_w("lo") <= BUDGET_W / 4 + 1 and "Partitions have moved: nothing rises for" in plan.reason
    cluster.run(120)
    assert cluster.in_force_w("lo") == pytest.approx(BUDGET_W / 2)
    assert cluster.in_force_w("hi") == pytest.approx(BUDGET_W / 2)
    cluster.assign(ALONE)
    cluster.run(60)
    assert cluster.in_force_w("hi") > 1.5 * cluster.in_force_w("lo")  # one worker fills the whole row again


def test_without_the_wait_and_the_question_it_would_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actuation_handover, "still_above", lambda *_: "")
    cluster = settled(1, hold_s=0.0)
    cluster.assign(HALVES)
    away(cluster, "hi-", 25)
    with pytest.raises(AssertionError, match="W in force at"):
        cluster.run(40)


def test_a_worker_that_dies_leaves_its_half_counted() -> None:
    cluster = settled(2)
    cluster.assign(HALVES)
    cluster.run(150)
    cluster.crash("b")
    cluster.run(int(DETECT_S))
    cluster.assign(ALONE)
    away(cluster, "lo-2", 25)
    cluster.run(120)
    assert cluster.in_force_w("hi") > 1.5 * cluster.in_force_w("lo")


def test_a_lost_snapshot_makes_members_unknown_and_nobody_rises_until_leases_are_over() -> None:
    cluster = settled(3)
    del cluster.store[2]
    for p in (0, 1, 3):
        cluster.note(cluster.workers["a"], p, cluster.workers["a"].parts[p])
    cluster.workers.clear()  # all die at once, and one snapshot is not readable
    cluster.assign({0: "a", 1: "a", 2: "b", 3: "b"})
    cluster.run(5)
    (plan,) = cluster.workers["b"].rows.plans.values()
    assert plan.outside_w == DEFAULT_W * PER_PARTITION * GPUS  # at their default limit
    assert not any(u.startswith("lo-2") for u in plan.ceilings_w)
    cluster.run(int(HOLD_S) + 60)
    (plan,) = cluster.workers["b"].rows.plans.values()
    assert any(u.startswith("lo-2") for u in plan.ceilings_w) and plan.outside_w == 0.0


def test_two_workers_that_start_together_do_not_wait_for_each_other_for_ever() -> None:
    cluster = Cluster(seed=8)
    cluster.assign(HALVES)
    cluster.run(int(HOLD_S) - 5, checked=False)
    assert cluster.in_force_w("") == DEFAULT_W * PARTITIONS * PER_PARTITION * GPUS  # nobody knows what may be in force
    cluster.run(40, checked=False)
    cluster.run(60)
    assert cluster.in_force_w("hi") == cluster.in_force_w("lo") == pytest.approx(BUDGET_W / 2)
    assert all(not worker.rows.handover.active for worker in cluster.workers.values())


def test_what_was_lowered_and_not_answered_moves_with_its_partition() -> None:
    cluster = settled(4)
    for name in ("hi-0-0", "hi-0-1"):
        cluster.nodes[name].deaf_until_s = cluster.now_s + 400
    cluster.assign(HALVES)
    cluster.run(25)
    assert set(cluster.store[0][1]) == {"hi-0-0", "hi-0-1"}
    assert {w for node in cluster.store[0][1].values() for w in node.values()} == {600.0}
    cluster.assign({0: "c", 1: "a", 2: "b", 3: "b"})
    cluster.run(200)
    assert cluster.workers["c"].rows.plans["r1"].committed_w == pytest.approx(2_400.0)
    cluster.assign(ALONE)
    cluster.run(250)


def test_a_hold_out_on_a_silent_node_still_counts() -> None:
    cluster = settled(5, held_out=True)
    away(cluster, "hi-0", 90)
    cluster.run(85)
    assert cluster.workers["a"].rows.plans["r1"].outside_w == DEFAULT_W
    cluster.assign(dict.fromkeys(range(PARTITIONS), "b"))
    away(cluster, "hi-0", 60)
    cluster.run(60)
    assert cluster.workers["b"].rows.plans["r1"].outside_w == DEFAULT_W


def test_the_same_partitions_that_come_back_are_a_move_too() -> None:
    """Others had them meanwhile, and lent and borrowed in their own way."""
    cluster = settled(6)
    cluster.assign(HALVES)
    cluster.run(150)
    cluster.assign(dict.fromkeys(range(PARTITIONS), "c"))
    cluster.run(60)
    assert cluster.in_force_w("hi") > 1.5 * cluster.in_force_w("lo")
    cluster.assign(HALVES)
    away(cluster, "hi-", 25)
    cluster.run(120)


@pytest.mark.parametrize("seed", range(8))
def test_any_course_of_moves_crashes_and_silences_keeps_the_budget(seed: int) -> None:
    cluster = settled(seed, held_out=seed % 2 == 1)
    for _ in range(10):
        names = cluster.rng.sample(["a", "b", "c"], cluster.rng.randrange(1, 4))
        if len(cluster.workers) > 1 and cluster.rng.random() < 0.3:
            cluster.crash(cluster.rng.choice(sorted(cluster.workers)))
            cluster.run(int(DETECT_S))
        cluster.assign({p: cluster.rng.choice(names) for p in range(PARTITIONS)})
        for node in cluster.nodes.values():
            if cluster.rng.random() < 0.3:
                node.away_until_s = cluster.now_s + cluster.rng.randrange(5, 28)
        cluster.run(cluster.rng.randrange(3, 160))


HALF = {"ts_ns": 2_000_000 * 10**9, "partitions": [1], "rows": [{"committed_w": 500.0, "share_w": 500.0}]}


def test_a_clock_that_goes_back_begins_the_wait_anew() -> None:
    wait = Handover(60.0, lambda: [HALF])
    wait.observe(1000.0, frozenset({0}), 2, {"r1": 100.0})
    wait.observe(1050.0, frozenset({0}), 2, {"r1": 300.0})
    assert wait.active and wait.budget_w("r1", 500.0, outside_w=50.0, oversubscribe=1.0) == 150.0
    wait.observe(500.0, frozenset({0}), 2, {})
    wait.observe(559.0, frozenset({0}), 2, {})
    assert wait.active
    wait.observe(560.0, frozenset({0}), 2, {})
    assert not wait.active and wait.budget_w("r1", 500.0, outside_w=50.0, oversubscribe=1.0) == 500.0
    wait.observe(561.0, frozenset({0, 1}), 2, {})
    assert not wait.active  # everything is in this book


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (HALF, ""),
        (HALF | {"rows": []}, ""),
        (
            HALF | {"rows": [{"committed_w": 700.0, "share_w": 500.0}]},
            "partitions 1 may still draw 700 W of their 500 W",
        ),
        (HALF | {"rows": [{"budget_w": 500.0}]}, "partitions 1 may still draw 0 W of their 0 W"),
        (HALF | {"ts_ns": 5}, "no newer plan tells of partitions 1"),
        (HALF | {"partitions": [0, 1]}, "no newer plan tells of partitions 1"),
    ],
)
def test_what_the_others_must_have_said(plan: dict[str, Any], words: str) -> None:
    assert still_above([plan], frozenset({0}), 2, 1_000_000 * 10**9) == words


def test_plans_that_cannot_be_read_are_waited_for_and_said() -> None:
    def away() -> list[dict[str, Any]]:
        raise StreamsError("the broker is away")

    wait = Handover(60.0, away)
    for now_s in (1000.0, 1060.0, 1070.0):
        wait.observe(now_s, frozenset({0}), 2, {})
    assert wait.active
    assert wait.note(1070.0) == (
        " Partitions have moved: nothing rises, because the other workers' plans cannot be read (the broker is away)."
    )
