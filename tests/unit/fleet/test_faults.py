"""Faults of the simulated fleet: asked for by a file, begun and ended in time, seen only through the twin."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agents.fleet import grid
from agents.fleet.fault_desk import FaultDesk
from agents.fleet.faults import FAULTS, MOST, FaultFile, Wanted, known
from models.alerts.carbon import factor_at, parse
from streams.contract.codec import encode
from streams.jobs import alerts_rules
from tests.unit.fleet.conftest import GPUS, Bench

S = 1_000_000_000


@pytest.fixture
def desk(bench: Bench) -> FaultDesk:
    return FaultDesk(bench.fleet, bench.twin, bench.layout.fleet)


def run(bench: Bench, desk: FaultDesk, seconds: float) -> None:
    for _ in range(round(seconds * 2)):
        desk.look(bench.wall_ns())
        bench.run(0.5)


def ask(bench: Bench, name: str, *, after_s: float = 0.0, for_s: float = 0.0, nodes: tuple[str, ...] = ()) -> None:
    start_ns = bench.wall_ns() + int(after_s * S)
    end_ns = start_ns + int(for_s * S) if for_s else 0
    FaultFile(bench.layout.fleet).add([Wanted(name=name, start_ns=start_ns, end_ns=end_ns, nodes=nodes)])


def watts(bench: Bench) -> list[float]:
    """Mean power of each node."""
    return [float(part.mean()) for part in np.split(bench.fleet.registers.power_w, len(bench.fleet.nodes))]


def test_every_fault_leads_to_a_rule_that_ships_and_the_five_kinds_are_there() -> None:
    rules = alerts_rules.load().rules.keys() | {"carbon_budget"}
    told = {fault.alert for fault in FAULTS.values()}
    assert (
        told == {"high_energy", "low_efficiency", "carbon_budget", "agent_silent", "performance_degradation"} <= rules
    )


def test_a_real_node_has_no_way_to_be_given_a_fault() -> None:
    root = Path(grid.__file__).parents[1]
    real = [*(root / "node").rglob("*.py"), *(root / "capper").rglob("*.py"), root / "cli" / "agent.py"]
    real += [root / "cli" / "capper.py", root / "cli" / "restore.py"]
    hints = ("agents.fleet.fault", "faults.json", "twin.faults")
    assert len(real) > 50 and [path.name for path in real if any(hint in path.read_text() for hint in hints)] == []


def test_a_restarted_fleet_takes_its_faults_up_again(bench: Bench, desk: FaultDesk) -> None:
    ask(bench, "hungry-load", for_s=20.0)
    run(bench, desk, 2.0)
    bench.twin.set_faults([])  # as a new process begins
    again = FaultDesk(bench.fleet, bench.twin, bench.layout.fleet)
    run(bench, again, 2.0)
    assert watts(bench)[2] > 690.0


def test_an_unknown_name_is_answered_with_the_list() -> None:
    with pytest.raises(ValueError, match="there is no fault 'fire'; there are: hungry-load, empty-batch, dirty-grid"):
        known("fire")


def test_a_hungry_load_begins_and_ends_in_time_on_its_own_node(bench: Bench, desk: FaultDesk) -> None:
    ask(bench, "hungry-load", after_s=3.0, for_s=5.0)
    run(bench, desk, 2.5)
    assert max(watts(bench)) < 650.0
    run(bench, desk, 3.0)
    assert watts(bench)[2] > 690.0 and max(watts(bench)[:2]) < 650.0
    run(bench, desk, 6.0)
    assert max(watts(bench)) < 650.0


def test_a_fault_acts_on_the_nodes_that_were_named_and_on_no_stranger(bench: Bench, desk: FaultDesk) -> None:
    ask(bench, "hungry-load", nodes=("sim-001", "gpu-node-17"))
    run(bench, desk, 3.0)
    assert watts(bench)[0] > 690.0 and max(watts(bench)[1:]) < 650.0
    FaultFile(bench.layout.fleet).clear([], bench.wall_ns())
    ask(bench, "dead-agents", nodes=("gpu-node-17",))
    run(bench, desk, 3.0)
    assert max(watts(bench)) < 650.0 and bench.fleet.silent == frozenset()


def test_a_dead_agent_is_silent_its_lease_ends_and_it_comes_back(bench: Bench, desk: FaultDesk) -> None:
    bench.run(3.0)
    bench.command(0, bench.envelope(0))
    ask(bench, "dead-agents", for_s=10.0, nodes=("sim-001",))
    before = len(bench.telemetry())
    run(bench, desk, 8.0)
    heard = {record.node for record in bench.telemetry()[before:]}
    assert heard == {"sim-002", "sim-003"}
    assert bench.fleet.command(bench.fleet.nodes[0], encode(bench.envelope(0)), bench.wall_ns()) is None
    limits = bench.fleet.registers.limit_w[:GPUS]
    assert (limits == 700.0).all(), "the capper put the limits back when the lease of 5 s was over"
    run(bench, desk, 4.0)
    assert {record.node for record in bench.telemetry()[-3:]} == {"sim-001", "sim-002", "sim-003"}
    ack = bench.fleet.command(bench.fleet.nodes[0], encode(bench.envelope(0)), bench.wall_ns())
    assert ack is not None and set(ack.gpu.status) == {"applied"}


def tell_holdout(bench: Bench, node: int, held: int | None) -> None:
    """An envelope for a node whose engine number `held` is held out."""
    envelope = bench.envelope(node)
    engines = sorted({name for name in envelope.gpu.engine if name})
    out = tuple(held is not None and name == engines[held] for name in envelope.gpu.engine)
    raw = encode(bench.envelope(node, gpu=msgspec.structs.replace(envelope.gpu, holdout=out)))
    bench.fleet.command(bench.fleet.nodes[node], raw, bench.wall_ns())


def test_a_slow_link_leaves_the_holdout_alone(bench: Bench, desk: FaultDesk) -> None:
    for node in range(3):
        tell_holdout(bench, node, 0 if node == 0 else None)
    ask(bench, "slow-link")
    run(bench, desk, 1.0)
    assert bench.twin.engine.slow is not None
    slow = np.flatnonzero(bench.twin.engine.slow > 1.0).tolist()
    assert slow == [1], "a fifth of six engines is one, and the first is held out"


def test_a_slow_link_waits_until_it_is_known_who_is_held_out(bench: Bench, desk: FaultDesk) -> None:
    ask(bench, "slow-link", for_s=90.0)
    run(bench, desk, 2.0)
    assert bench.twin.engine.slow is None or (bench.twin.engine.slow <= 1.0).all()
    for node in range(3):
        tell_holdout(bench, node, 0 if node == 0 else None)
    run(bench, desk, 1.0)
    assert bench.twin.engine.slow is not None and np.flatnonzero(bench.twin.engine.slow > 1.0).tolist() == [1]


def test_a_slow_link_that_nobody_tells_begins_by_the_hash_after_half_a_minute(bench: Bench, desk: FaultDesk) -> None:
    ask(bench, "slow-link", for_s=90.0)
    run(bench, desk, 32.0)
    assert bench.twin.engine.slow is not None and (bench.twin.engine.slow > 1.0).sum() == 1


def test_an_empty_batch_spins_on_few_requests(bench: Bench, desk: FaultDesk) -> None:
    ask(bench, "empty-batch", nodes=("sim-002",))
    run(bench, desk, 20.0)
    made = bench.twin.generation_tokens_total.copy()
    run(bench, desk, 20.0)
    rate = (bench.twin.generation_tokens_total - made) / 20.0
    assert rate[2:4].max() < 0.2 * min(rate[0], rate[5])
    assert 350.0 < watts(bench)[1] < 650.0


def test_the_grid_is_dirty_while_it_is_asked_to_be_and_the_past_stays_as_it_was(bench: Bench, desk: FaultDesk) -> None:
    run(bench, desk, 0.5)
    begun = bench.wall_ns()
    ask(bench, "dirty-grid", after_s=2.0, for_s=3.0)
    run(bench, desk, 10.0)
    text = (bench.layout.fleet / grid.FILE).read_text()
    factors = parse(tomllib.loads(text), grid.LOCATION)
    seen = [factor_at(factors, begun + int(s * S)) for s in (1.0, 3.0, 4.9, 6.0)]
    assert [one.g_per_kwh for one in seen if one] == [60.0, 600.0, 600.0, 60.0]
    assert all("SIMULATED" in one.source for one in factors)


def test_overlapping_wishes_for_a_dirty_grid_are_one() -> None:
    wanted = [Wanted(name="dirty-grid", start_ns=a * S, end_ns=b * S) for a, b in ((10, 20), (15, 30), (40, 50))]
    assert grid.changes(wanted, 100 * S) == [(10 * S, 600.0), (30 * S, 60.0), (40 * S, 600.0), (50 * S, 60.0)]
    assert grid.changes(wanted, 17 * S) == [(10 * S, 600.0)]
    assert grid.changes(wanted, 5 * S) == []


def test_clearing_ends_what_is_on_and_forgets_what_was_to_come(tmp_path: Path) -> None:
    file = FaultFile(tmp_path)
    file.add([Wanted(name="dirty-grid", start_ns=1), Wanted(name="slow-link", start_ns=1, end_ns=5)])
    file.add([Wanted(name="hungry-load", start_ns=100 * S)])
    ended = file.clear([], 10 * S)
    assert [one.name for one in ended] == ["dirty-grid", "hungry-load"]
    assert [(one.name, one.end_ns) for one in file.read()] == [("dirty-grid", 10 * S), ("slow-link", 5)]
    assert file.clear(["slow-link"], 11 * S) == []


def test_the_file_stays_small_and_keeps_what_is_on(tmp_path: Path) -> None:
    file = FaultFile(tmp_path)
    file.add([Wanted(name="dirty-grid", start_ns=1)])
    file.add([Wanted(name="slow-link", start_ns=i, end_ns=i + 1) for i in range(200)])
    found = file.read()
    assert len(found) == MOST and found[0].name == "dirty-grid"


@pytest.mark.parametrize("content", [b"{", b"[1]", b'[{"name":"fire","start_ns":1}]', b"\xff"])
def test_a_damaged_file_changes_nothing_and_says_so_once(
    bench: Bench, desk: FaultDesk, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ask(bench, "hungry-load")
    run(bench, desk, 2.0)
    (bench.layout.fleet / "faults.json").write_bytes(content)
    run(bench, desk, 2.0)
    assert watts(bench)[2] > 690.0
    assert caplog.text.count("the faults go on as they were") == 1
    (bench.layout.fleet / "faults.json").unlink()
    run(bench, desk, 2.0)
    assert watts(bench)[2] < 650.0
