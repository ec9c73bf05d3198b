"""The wall with hosts that rest: the rule's own figure where they do not, between its bounds, more when busier."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest

pytest.importorskip("numba")

from models.bench import state as st
from models.bench.compare import cell, truth_of
from models.bench.hosts import busy_ratio, resting_wall_j
from models.bench.load import Stream
from models.bench.plantparts import Node
from models.bench.protocol import b0, b1, static
from models.bench.run import Case, Outcome, Policy, cost_of, never_off, run
from models.policy.replicas import NodeCost
from models.twin.node import HIGH, LOW, MID, NodeParams, node_power

PLANT = truth_of("mid")
HALF = Policy("lock", static(0.6), "fixed")


def _outcome(policy: Policy, rate: float = 4.0, replicas: int = 5, seconds: float = 1800.0) -> Outcome:
    rng = np.random.default_rng(3)
    arrival = np.sort(rng.uniform(0.0, seconds, int(rate * seconds)))
    count = len(arrival)
    stream = Stream(arrival, np.full(count, 900, np.int32), np.full(count, 40, np.int32), seconds)
    return run(Case(stream, replicas, PLANT, PLANT), policy)


def _hosts_j(outcome: Outcome, host: NodeParams) -> float:
    """What the hosts alone take, dark ones included."""
    board = outcome.gpu_j * (1.0 + outcome.node.host_per_gpu_w)
    return float((resting_wall_j(outcome, host) * outcome.node.supply_ratio - board).sum())


@pytest.mark.parametrize("policy", [b0(), b1()])
def test_a_host_that_never_rests_gives_the_rules_figure(policy: Policy) -> None:
    found = _outcome(policy)
    constant = replace(MID, host_idle_w=Node().host_w, host_busy_w=Node().host_w)
    assert resting_wall_j(found, constant) == pytest.approx(found.wall_j, rel=1e-12)


@pytest.mark.parametrize("policy", [b0(), b1(), HALF])
@pytest.mark.parametrize("host", [LOW, MID, HIGH])
def test_energy_lies_between_hosts_at_rest_and_hosts_at_work(policy: Policy, host: NodeParams) -> None:
    found = _outcome(policy)
    least, most = (replace(host, host_idle_w=w, host_busy_w=w) for w in (host.host_idle_w, host.host_busy_w))
    below, mine, above = (resting_wall_j(found, one) for one in (least, host, most))
    assert (below < mine).all() and (mine < above).all()


def test_a_busier_host_never_draws_less() -> None:
    runs = [_outcome(b0(), rate) for rate in (0.5, 2.0, 8.0, 300.0)]
    busy, watts = [busy_ratio(one) for one in runs], [_hosts_j(one, MID) for one in runs]
    assert busy == sorted(busy) and watts == sorted(watts) and busy[0] < 0.5 < 0.95 < busy[-1] <= 1.0
    locked = _outcome(HALF, 2.0)  # the same work at a lower clock keeps its host busy for longer
    assert busy_ratio(locked) > busy[1] and _hosts_j(locked, MID) > watts[1]


def test_a_fleet_that_never_works_and_one_that_always_does_have_the_twins_host() -> None:
    """Five replicas are two nodes and a half; the run goes on for a minute after its stream."""
    for rate, share in ((0.001, 0.0), (300.0, 1.0)):
        found = _outcome(b0(), rate, seconds=600.0)
        twin = node_power(MID, gpu_w=np.array([1000.0]), busy_ratio=np.array([share])).host_w[0]
        assert _hosts_j(found, MID) == pytest.approx(2.5 * 660.0 * twin, rel=0.005)
        assert found.hours[:, st.H_HOST_S].sum() == pytest.approx(2.5 * 660.0)


def test_a_comparison_says_both_and_judges_by_the_rule() -> None:
    zero, one, mine = _outcome(b0(), 0.5), _outcome(b1(), 0.5), _outcome(HALF, 0.5)
    row = cell(mine, zero, one, None)
    assert row["wall_saving_ratio"]["b0"] == 1.0 - mine.wall_j.sum() / zero.wall_j.sum()
    second = row["wall_saving_resting_host_ratio"]
    assert second["b0"] == row["wall_saving_resting_host_b0_ratio"]["mid"] != row["wall_saving_ratio"]["b0"]
    assert set(row["wall_saving_resting_host_b0_ratio"]) == {"low", "mid", "high"}
    assert cell(zero, zero, one, None)["wall_saving_resting_host_ratio"]["b0"] == 0.0
    assert cell(one, zero, one, None)["wall_saving_resting_host_ratio"]["b1"] == 0.0
    assert 0.0 < cell(zero, zero, one, None)["host_busy_ratio"] < row["host_busy_ratio"] < 1.0


def test_nodes_that_are_never_off_cost_their_hosts_and_bare_gpus_and_change_nothing_else() -> None:
    off, live = _outcome(b1(), 0.5), _outcome(replace(b1(), nodes_off=False), 0.5)
    seats_s = 1_860.0  # five replicas are two nodes and a half
    assert live.hours[:, st.H_HOST_J].sum() == pytest.approx(2.5 * seats_s * 1_500.0)
    dark_s = 5.0 * seats_s - 2.0 * off.total(st.H_HOST_S)  # of seats on nodes that are off
    assert dark_s > 0.0
    assert live.gpu_j.sum() - off.gpu_j.sum() == pytest.approx(dark_s * PLANT.gpus * 70.0)
    assert live.total(st.H_ON_S) == off.total(st.H_ON_S) and live.quantile_s("e2e", 0.99) == off.quantile_s("e2e", 0.99)


def test_a_plan_knows_whether_nodes_go_off() -> None:
    assert cost_of(Node(), PLANT.gpus) == NodeCost()
    assert cost_of(never_off(Node()), PLANT.gpus).off_w == pytest.approx(1_500.0 + 8 * 70.0 * 1.2)


def test_a_fleet_in_the_dark_has_no_busy_share() -> None:
    found = _outcome(b0(), 0.5)
    assert isnan(busy_ratio(replace(found, hours=np.zeros_like(found.hours))))


def test_minutes_add_up_to_the_run() -> None:
    found = _outcome(b1())
    assert len(found.minutes) == 31 and (np.diff(found.minutes, axis=0) >= 0.0).all()
    columns = (st.H_GPU_J, st.H_REQUESTS, st.H_MISSED)
    assert found.minutes[-1] == pytest.approx([found.total(column) for column in columns])
