"""Laws of the hold-out over restarts: names of engines move over GPUs, GPUs get new names, the share stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from models.policy.holdout import MINIMUM_HOLDOUT_RATIO
from streams.contract.records import EngineReading
from streams.jobs.actuation_state import NodeState, Options, PartitionState, Snapshot

GPUS = 24
Placing = list[tuple[str, tuple[str, ...]]]  # engine, its GPUs


def options(ratio: float) -> Options:
    return Options("c1", "on", "balanced", holdout_ratio=ratio, interval_s=5.0, ttl_ms=15_000)


def uuids() -> list[str]:
    return [f"GPU-{i}" for i in range(GPUS)]


def report(part: PartitionState, placing: Placing, now_s: float) -> None:
    """One second of all GPUs, as one node: those that no engine names still report themselves."""
    engines = tuple(
        EngineReading(engine=name, kind="vllm", stack="s", workload="chat", gpu_uuid=gpus, ts_ns=0)
        for name, gpus in placing
    )
    part.enrol(NodeState("n1", uuid=tuple(uuids()), engines=engines), now_s)


def groups(part: PartitionState) -> dict[str, frozenset[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for uuid, name in part.group_of.items():
        found[name].add(uuid)
    return {name: frozenset(members) for name, members in found.items()}


def restarted(part: PartitionState, options: Options) -> PartitionState:
    """The same partition in the next worker."""
    kept = msgspec.json.decode(msgspec.json.encode(part.snapshot(1, ())), type=Snapshot)
    after = PartitionState(0, since_s=0.0)
    after.recover(kept, options)
    return after


@st.composite
def placings(draw: st.DrawFn) -> list[Placing]:
    """A course of restarts: the GPUs cut anew into engines, whose names stay, are new, or come from a small pool."""
    course = []
    for turn in range(draw(st.integers(2, 10))):
        order = draw(st.permutations(uuids())) if draw(st.booleans()) else uuids()
        size, running = draw(st.sampled_from((1, 2, 3, 4, 8))), draw(st.integers(GPUS // 2, GPUS))
        parts = [tuple(order[i : i + size]) for i in range(0, running, size)]
        names = [f"e{i}" for i in range(GPUS)] if draw(st.booleans()) else [f"t{turn}-{i}" for i in range(GPUS)]
        course.append(list(zip(draw(st.permutations(names))[: len(parts)], parts, strict=True)))
    return course


def held_out(part: PartitionState, figures: Options) -> set[str]:
    return {uuid for uuid in uuids() if part.held_out(uuid, figures)}


@given(placings(), st.sampled_from((0.0, 0.15, 0.3)), st.sets(st.integers(0, 9)))
@settings(max_examples=60, deadline=None)
def test_restarts_let_nobody_go_and_make_few_join_for_ever(
    course: list[Placing], ratio: float, new_worker: set[int]
) -> None:
    part, figures, largest = PartitionState(0, since_s=0.0), options(ratio), 1
    for turn, placing in enumerate(course):
        ever = set(part.held)
        before = {(name, gpus) for name, gpus in groups(part).items() if gpus <= held_out(part, figures)}
        report(part, placing, float(turn))
        part.fill_holdout(figures)
        now, held = groups(part), held_out(part, figures)
        largest = max(largest, *map(len, now.values()))
        assert ever <= part.held <= held, "a GPU of the hold-out was let go"
        assert all(gpus <= held or gpus.isdisjoint(held) for gpus in now.values()), "half an engine"
        assert all(gpus <= held for name, gpus in before if now.get(name) == gpus), "a pairing was let go"
        assert all(not gpus.isdisjoint(part.held) for gpus in now.values() if gpus <= held), "a guest without a host"
        assert len(held) >= MINIMUM_HOLDOUT_RATIO * GPUS
        assert len(part.held) < max(ratio, MINIMUM_HOLDOUT_RATIO) * GPUS + largest
        if turn in new_worker:
            part = restarted(part, figures)
            assert held_out(part, figures) == held
        assert not part.fill_holdout(figures) and held_out(part, figures) == held, "asked again, it says the same"


@given(st.lists(st.permutations([f"e{i}" for i in range(6)]), min_size=2, max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_names_that_move_over_the_same_slots_change_nothing(courses: Sequence[Sequence[str]], renamed: bool) -> None:
    """Whole slots of four GPUs: what was held out stays so for ever, whoever serves there, and nothing joins it."""
    part, figures, first = PartitionState(0, since_s=0.0), options(0.15), frozenset[str]()
    slots = [tuple(uuids()[i : i + 4]) for i in range(0, GPUS, 4)]
    for turn, names in enumerate(courses):
        placing = [(f"{name}-{turn}" if renamed else name, gpus) for name, gpus in zip(names, slots, strict=True)]
        report(part, placing, float(turn))
        part.fill_holdout(figures)
        first = first or frozenset(part.held)
        assert part.held == first and len(first) == 4


def test_who_was_away_when_its_engine_joined_comes_back_held_out() -> None:
    part, figures = PartitionState(0, since_s=0.0), options(0.0)
    slots = [tuple(uuids()[i : i + 4]) for i in range(0, GPUS, 4)]
    placing = [(f"e{i}", gpus) for i, gpus in enumerate(slots)]
    report(part, placing, 0.0)
    part.fill_holdout(figures)
    (first,) = {part.group_of[uuid] for uuid in part.held}
    away = {gpus[0] for name, gpus in placing if name != first}
    stay = [(name, tuple(uuid for uuid in gpus if uuid not in away)) for name, gpus in placing if name != first]
    for turn in range(1, 400):  # all of the hold-out leaves, and one GPU of every other engine
        node = NodeState("n1", uuid=tuple(u for _, gpus in stay for u in gpus), engines=())
        part.enrol(node, turn * 5.0)
        part.leave(900.0)
    part.fill_holdout(figures)
    (second,) = {part.group_of[uuid] for uuid in part.held if uuid in part.seen_s}
    assert second != first
    report(part, placing, 2000.0)
    part.fill_holdout(figures)
    assert part.held == {uuid for name, gpus in placing if name in (first, second) for uuid in gpus}


def mixed(figures: Options) -> tuple[PartitionState, str, tuple[str, ...]]:
    """A partition with an engine of one GPU of the hold-out and three guests, and those."""
    part = PartitionState(0, since_s=0.0)
    report(part, [(f"e{i}", tuple(uuids()[i : i + 4])) for i in range(0, GPUS, 4)], 0.0)
    part.fill_holdout(figures)
    host, *others = sorted(part.held)
    free = [uuid for uuid in uuids() if uuid not in part.held]
    report(part, [("mix", (host, *free[:3])), ("others", tuple(others)), ("free", tuple(free[3:]))], 1.0)
    part.fill_holdout(figures)
    return part, host, tuple(free[:3])


def test_guests_stay_out_over_a_restart_while_their_host_is_away() -> None:
    figures = options(0.0)
    part, host, guests = mixed(figures)
    for turn in range(1, 400):
        part.enrol(NodeState("n1", uuid=tuple(u for u in uuids() if u != host)), turn * 5.0)
        part.leave(900.0)
    part.fill_holdout(figures)
    assert part.absent == {host} and part.kept_out(guests)
    assert restarted(part, figures).kept_out(guests)  # from the first moment on, not from the next choice


def test_a_new_worker_measures_a_new_guest_when_the_old_worker_s_lease_is_over() -> None:
    figures = options(0.0)
    part, host, guests = mixed(figures)
    part = restarted(part, figures)
    (engine,) = joined = (
        EngineReading(
            engine="mix", kind="vllm", stack="s", workload="chat", gpu_uuid=(host, *guests, free_gpu(part)), ts_ns=0
        ),
    )
    known = NodeState("n1", uuid=tuple(uuids()), engines=joined)
    old = engine.gpu_uuid[:4]
    assert part.side(known, msgspec.structs.replace(engine, gpu_uuid=old), figures, 1.0) == "holdout"
    part.enrol(known, 1.0)
    part.fill_holdout(figures)
    assert part.side(known, engine, figures, 1.0) == "default"  # the worker before may have granted it something
    assert part.side(known, engine, figures, figures.ttl_ms / 1e3) == "holdout"


def free_gpu(part: PartitionState) -> str:
    return next(uuid for uuid in uuids() if not part.kept_out((uuid,)))


@given(st.integers(0, 30), st.booleans())
@settings(max_examples=30, deadline=None)
def test_engines_that_start_on_gpus_which_served_nothing_take_few_more_into_the_hold_out(
    cluster: int, new_worker: bool
) -> None:
    """16 nodes of eight GPUs come up empty, and are chosen from; then two engines of four start on each."""
    part, figures = PartitionState(0, since_s=0.0), replace(options(0.15), cluster=f"c{cluster}")
    nodes = {f"n{k}": tuple(f"GPU-{cluster}-{k}-{i}" for i in range(8)) for k in range(16)}
    every = {uuid for gpus in nodes.values() for uuid in gpus}
    for name, gpus in nodes.items():
        part.enrol(NodeState(name, uuid=gpus), 0.0)
    part.fill_holdout(figures)
    empty = set(part.held)
    assert MINIMUM_HOLDOUT_RATIO * 128 <= len(empty) < 0.15 * 128 + 1
    part = restarted(part, figures) if new_worker else part
    for name, gpus in nodes.items():
        both = [(f"{name}-{k}", gpus[4 * k : 4 * k + 4]) for k in range(2)]
        engines = tuple(
            EngineReading(engine=e, kind="vllm", stack="s", workload="chat", gpu_uuid=mine, ts_ns=0) for e, mine in both
        )
        part.enrol(NodeState(name, uuid=gpus, engines=engines), 1.0)
    part.fill_holdout(figures)
    held = {uuid for uuid in every if part.held_out(uuid, figures)}
    assert empty <= held and len(held) <= 0.15 * 128 + 8
