"""Who is held out when nodes come late, leave, fall silent or are paused, and when the job starts anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from models.policy.holdout import in_holdout, share_of
from streams.contract.records import PowerDesired
from streams.contract.topics import FEATURES
from streams.jobs.actuation_latency import Pool
from streams.jobs.actuation_state import ABSENT_S, Snapshot
from tests.unit.jobs.support import STACK, FakeState
from tests.unit.jobs.test_actuation import Bench, grants, intent

POOL = Pool(STACK, "chat")
STEP_S = 5.0  # a report this often is no silence


def plain(node: str) -> bool:
    """Whether the hash alone leaves both engines of a node out of the hold-out."""
    return not any(in_holdout("c1", f"{node}-e{k}", 0.15) for k in (0, 1))


def lowest(node: str) -> float:
    """Of its engines' draws: who is promoted first."""
    return min(share_of("c1", f"{node}-e{k}") for k in (0, 1))


PLAIN = sorted((name for name in (f"n{i}" for i in range(40)) if plain(name)), key=lowest)
NODES, LATER = PLAIN[:6], PLAIN[6:12]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.job.stop()


def run(bench: Bench, seconds: float, nodes: Sequence[str]) -> list[PowerDesired]:
    """Time passes in steps with reports."""
    return [c for _ in range(int(seconds / STEP_S)) for c in bench.beat(STEP_S, nodes)]


def held_of(bench: Bench) -> set[str]:
    return set(bench.job._parts[0].held)


def granted(bench: Bench, nodes: Sequence[str]) -> set[str]:
    latest = bench.latest()
    return {uuid for node in nodes for uuid, (mhz, _, _) in grants(latest[node]).items() if mhz is not None}


def nodes_of(uuids: set[str]) -> set[str]:
    return {uuid.split("-")[1] for uuid in uuids}


def engine_of(bench: Bench, uuid: str) -> str | None:
    return bench.job._parts[0].engine_of(uuid)


def restart(tmp_path: Path, before: Bench, state: FakeState) -> Bench:
    before.job.revoke(frozenset({0}))
    before.job.stop()
    after = Bench(tmp_path, state=state)
    after.clock.now_s = before.clock.now_s
    return after


def test_a_hold_out_of_nodes_that_are_gone_is_replaced(tmp_path: Path) -> None:
    # What a fleet left behind whose nodes were all replaced: a surplus of held-out GPUs that nobody will see again.
    gone = {f"GPU-old{i}-{k}": f"old{i}-e0" for i in range(4) for k in range(8)}
    state = FakeState()
    state.save("actuation", 0, Snapshot(promoted=tuple(sorted(set(gone.values()))), held=tuple(gone), groups=gone), {})
    bench = Bench(tmp_path, state=state)
    run(bench, 60, NODES)
    assert nodes_of(held_of(bench)).isdisjoint(NODES)  # they may all come back
    assert "0 of 1000 hold-out samples" in next(iter(grants(bench.latest()[NODES[0]]).values()))[2]
    run(bench, ABSENT_S, NODES)
    ours = {uuid for uuid in held_of(bench) if nodes_of({uuid}) <= set(NODES)}
    assert len(ours) == 8  # a tenth of 48, in engines of four
    assert len(granted(bench, NODES)) == 48 - 8
    assert held_of(bench) > ours and set(gone) < held_of(bench)  # whoever was held out stays so
    bench.job.stop()


def test_a_hold_out_that_leaves_and_comes_back(bench: Bench) -> None:
    run(bench, 30, NODES)
    first = held_of(bench)
    leaves = nodes_of(first)
    stay = [node for node in NODES if node not in leaves]
    run(bench, ABSENT_S + 60, stay)
    second = held_of(bench) - first
    assert second and nodes_of(second) <= set(stay)
    assert granted(bench, stay)
    run(bench, 30, NODES)
    assert held_of(bench) == first | second
    assert bench.job._parts[0].gone == {}  # counted again
    assert granted(bench, NODES).isdisjoint(first | second)


def test_who_was_gone_before_a_restart_is_gone_after_it(tmp_path: Path) -> None:
    state = FakeState()
    bench = Bench(tmp_path, state=state)
    run(bench, 30, [*NODES, *LATER])
    run(bench, ABSENT_S + 60, NODES[:2])
    gone = set(bench.job._parts[0].absent)
    assert len(gone) == 80
    bench = restart(tmp_path, bench, state)
    assert bench.job._parts[0].absent == gone
    run(bench, 30, [*NODES[:2], "new1"])
    there = bench.job._parts[0]
    assert sum(there.sizes.values()) - sum(there.gone.values()) == 24
    run(bench, 30, [*NODES, *LATER])
    assert there.absent == set() and there.gone == {}
    bench.job.stop()


def test_a_short_absence_promotes_nobody(bench: Bench) -> None:
    run(bench, 30, NODES)
    first = held_of(bench)
    stay = [node for node in NODES if node not in nodes_of(first)]
    for _ in range(3):
        run(bench, ABSENT_S - 30, stay)
        run(bench, 30, NODES)
    assert held_of(bench) == first


def test_a_silence_of_everybody_tells_nothing_about_who_has_left(bench: Bench) -> None:
    run(bench, 30, NODES)
    first = held_of(bench)
    for _ in range(8):
        bench.clock.now_s += 3600
        bench.tick()
        bench.beat(1.0, [node for node in NODES if node not in nodes_of(first)][:1])  # comes back alone
    assert held_of(bench) == first


def test_the_roster_is_awaited_from_the_first_report_on(bench: Bench) -> None:
    for _ in range(20):  # the job waits for a fleet that does not run yet
        bench.clock.now_s += 1.0
        bench.tick()
    assert bench.beat(1.0, NODES[:1]) == []
    assert held_of(bench) == set()
    run(bench, 30, NODES)
    assert len(held_of(bench)) == 8


def test_a_restart_before_the_roster_was_known_waits_for_it_again(tmp_path: Path) -> None:
    state = FakeState()
    bench = Bench(tmp_path, state=state)
    bench.beat(1.0, NODES[:1])
    bench = restart(tmp_path, bench, state)
    assert bench.beat(1.0, NODES[:1]) == [] and held_of(bench) == set()
    run(bench, 30, NODES)
    assert len(held_of(bench)) == 8
    # Once chosen, a restart need not wait.
    bench = restart(tmp_path, bench, state)
    bench.clock.now_s += 10
    assert bench.beat(1.0, NODES) != []
    bench.job.stop()


def test_a_pause_before_the_hold_out_is_chosen_keeps_it_from_nothing(bench: Bench) -> None:
    bench.beat(1.0, NODES)
    bench.words.say(intent(bench, "pause", "cluster"))
    bench.tick()
    assert run(bench, 60, NODES) and granted(bench, NODES) == set()
    assert len(held_of(bench)) == 8  # chosen and measured while paused
    assert bench.job._pools.p99(POOL, "holdout", "tbt") is not None
    bench.clock.now_s += 1
    bench.words.say(intent(bench, "resume", "cluster"))
    bench.beat(1.0, NODES)
    assert len(granted(bench, NODES)) == 40


@pytest.mark.parametrize("beats", range(1, 8))
def test_after_a_pause_at_any_moment_grants_come_back_at_once(bench: Bench, beats: int) -> None:
    for _ in range(beats):
        bench.beat(1.0, NODES)
    bench.words.say(intent(bench, "pause", "cluster"))
    for _ in range(8):
        bench.beat(1.0, NODES)
    assert granted(bench, NODES) == set()
    bench.words.say(intent(bench, "resume", "cluster"))
    bench.beat(1.0, NODES)
    assert len(granted(bench, NODES)) == 40


def test_who_joins_the_hold_out_under_a_grant_measures_nothing_until_its_lease_is_over(bench: Bench) -> None:
    run(bench, 30, NODES)
    first = held_of(bench)
    before = granted(bench, NODES)
    bench.beat(1.0, [*NODES, *LATER])  # more GPUs: one more engine, of those that have a grant
    second = held_of(bench) - first
    assert second and second < before
    assert granted(bench, NODES) == before - second  # at once, not at the next interval
    node, mine = next(iter(nodes_of(second))), {engine for uuid in second for engine in [engine_of(bench, uuid)]}

    def sides() -> set[str]:
        state = bench.job._parts[0].nodes[node]
        return {bench.job._parts[0].side(state, e, bench.job._options, bench.clock.now_s)
                for e in state.engines if e.engine in mine}  # fmt: skip

    leased_s = bench.job._options.ttl_ms / 1e3
    assert sides() == {"default"}
    samples = bench.job._pools._counts[POOL, "holdout", "tbt"].samples
    bench.beat(1.0, [node])
    assert bench.job._pools._counts[POOL, "holdout", "tbt"].samples == samples
    bench.clock.now_s += leased_s
    bench.feed(FEATURES, *bench.reports([node]))
    assert sides() == {"holdout"}
    assert bench.job._pools._counts[POOL, "holdout", "tbt"].samples == samples + 1000


@pytest.mark.parametrize("limit_alone", [False, True])
def test_a_guest_of_an_engine_that_is_held_out_already_loses_its_grant_at_once(
    tmp_path: Path, limit_alone: bool
) -> None:
    bench = Bench(tmp_path, power_target_w=300.0 if limit_alone else None, slow_interval_s=5.0)
    run(bench, 60, NODES)
    host = min(held_of(bench))
    (node,), engine = nodes_of({host}), engine_of(bench, host)
    bench.beat(6.0, [node])
    bench.clock.now_s += 1.0
    guest = next(uuid for uuid in bench.latest()[node].gpu.uuid if engine_of(bench, uuid) != engine)
    clock, watts, _ = grants(bench.latest()[node])[guest]
    assert (clock is None) is limit_alone and (clock, watts) != (None, None)
    (report,) = bench.reports([node])
    moved = [
        msgspec.structs.replace(
            one,
            gpu_uuid=(*one.gpu_uuid, guest)
            if one.engine == engine
            else tuple(uuid for uuid in one.gpu_uuid if uuid != guest),
        )
        for one in report.engines
    ]
    before = len(bench.wire.written)
    bench.feed(FEATURES, msgspec.structs.replace(report, seq=report.seq + 1, engines=tuple(moved)))
    assert [command.node for command in bench.wire.written[before:]] == [node]  # nobody joined for good, yet it is due
    told = grants(bench.latest()[node])
    assert told[guest][:2] == (None, None)
    assert told[guest][2].startswith(f"Hold-out: engine {engine} also runs on a GPU that stays at default for ever")
    assert told[host][2].startswith("Hold-out: this GPU stays at default for ever")
    bench.job.stop()


def test_a_snapshot_says_whether_the_hold_out_was_chosen() -> None:
    older = msgspec.json.decode(b'{"groups": {"GPU-1": "e"}}', type=Snapshot)
    assert older.chosen  # before the field existed, a restart went on from what was saved
