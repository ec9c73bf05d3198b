"""Which replicas may leave: one at a time, never too many, back at once. Virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hyp

from models.policy.parking import HOLD_OFF_S, IDLE_S, Parking, Replica

SIX = tuple(Replica(f"e{i}", f"n{i // 2}", live=True, idle=False, gpus=(f"g{i}",)) for i in range(6))


def changed(replicas: tuple[Replica, ...], name: str, **how: object) -> tuple[Replica, ...]:
    return tuple(replace(one, **how) if one.engine == name else one for one in replicas)  # type: ignore[arg-type]


def asked(parking: Parking) -> dict[str, str]:
    return {engine: mark.do for engine, mark in parking.marks.items()}


def test_one_drains_then_it_may_go_off_then_the_next_of_its_node() -> None:
    parking, now, replicas = Parking(), 0.0, changed(SIX, "e0", holdout=True)
    parking.step(now, replicas, 4, 3)
    assert asked(parking) == {"e2": "drain"}  # e1 shares its node with a hold-out: that node can never go off
    parking.step(now + 10, replicas, 4, 3)
    assert asked(parking) == {"e2": "drain"} and parking.away(replicas) == 1  # one at a time
    replicas = changed(replicas, "e2", idle=True)
    parking.step(now + 20, replicas, 4, 3)
    parking.step(now + 20 + IDLE_S, replicas, 4, 3)
    assert asked(parking) == {"e2": "off", "e3": "drain"}
    assert parking.gpus_off(replicas) == {"g2"}
    replicas = changed(replicas, "e3", live=False)
    parking.step(now + 90, replicas, 4, 3)
    assert asked(parking) == {"e2": "off", "e3": "off"}  # its orchestrator was quicker
    parking.step(now + 100, replicas, 4, 3)
    assert len(parking.marks) == 2 and "4 of 5 replicas are enough" in parking.reason


def test_a_replica_that_gets_requests_again_is_not_drained() -> None:
    parking, replicas = Parking(), changed(SIX, "e0", idle=True)
    for now in (0.0, 5.0, 5.0 + IDLE_S):
        parking.step(now, replicas, 5, 3)
    assert asked(parking) == {"e0": "off"}
    for idle in (False, None):
        parking.step(IDLE_S + 15, changed(replicas, "e0", idle=idle), 5, 3)
        assert asked(parking) == {"e0": "drain"}


def test_what_the_load_asks_for_comes_back_draining_ones_first_and_nothing_leaves_for_a_while() -> None:
    parking, replicas, now = Parking(), SIX, 0.0
    for name in ("e0", "e1", "e2"):
        parking.step(now, replicas, 3, 2)
        if name != "e2":
            replicas = changed(replicas, name, live=False)
        now += 10.0
    assert asked(parking) == {"e0": "off", "e1": "off", "e2": "drain"}
    parking.step(now, replicas, 4, 4)
    assert asked(parking) == {"e0": "off", "e1": "off"} and parking.reason.startswith("e2 called back: 4 must serve")
    parking.step(now + 10, replicas, 6, 5)
    assert asked(parking) == {"e0": "start", "e1": "start"}
    parking.step(now + 20, changed(replicas, "e1", live=True), 5, 5)
    assert asked(parking) == {"e0": "start"}
    for k in range(50):
        parking.step(now + 20 + 10 * k, SIX, 2, 2)
        assert asked(parking) == {}
    parking.step(now + 10 + HOLD_OFF_S, SIX, 2, 2)
    assert asked(parking) == {"e0": "drain"}


def test_an_unknown_load_lets_nobody_go_and_calls_the_draining_back() -> None:
    parking = Parking()
    parking.step(0.0, SIX, 4, 3)
    parking.step(10.0, SIX, None, 0)
    assert asked(parking) == {} and "the load is unknown" in parking.reason
    parking.step(20.0, SIX, 2, 2)
    assert asked(parking) == {}


def test_hold_outs_never_leave_whatever_is_asked() -> None:
    parking, held = Parking(), tuple(replace(one, holdout=True) for one in SIX)
    parking.step(0.0, held, 1, 1)
    assert asked(parking) == {} and parking.reason == "1 would be enough, but the other replicas are held out."
    parking.step(10.0, SIX, 5, 1)
    parking.step(20.0, held, 5, 1)
    assert asked(parking) == {}  # promoted meanwhile


def test_marks_outlive_the_process_and_an_unseen_engine_is_not_forgotten_at_once() -> None:
    old = Parking()
    old.step(0.0, SIX, 4, 3)
    old.step(10.0, changed(SIX, "e0", live=False), 4, 3)
    new = Parking()
    new.recall([*old.remember(), ["x"], ["y", "explode", "n", 1.0]], 100.0)
    assert asked(new) == {"e0": "off", "e1": "drain"}
    new.step(110.0, SIX[1:], 4, 3)
    assert asked(new)["e0"] == "off"
    new.step(120.0, SIX[1:], 6, 6)
    assert asked(new) == {"e0": "start"}
    new.step(120.0 + 90_000, SIX[1:], 5, 5)
    assert asked(new) == {}


replicas_of = hyp.lists(
    hyp.tuples(hyp.booleans(), hyp.sampled_from([True, False, None]), hyp.booleans()), min_size=8, max_size=8
)
courses = hyp.lists(
    hyp.tuples(replicas_of, hyp.one_of(hyp.none(), hyp.integers(0, 9)), hyp.integers(0, 9)), max_size=30
)


@given(courses, hyp.floats(1, 400))
@settings(max_examples=200, deadline=None)
def test_whatever_happens_enough_stay(
    course: list[tuple[list[tuple[bool, bool | None, bool]], int | None, int]], span: float
) -> None:
    parking, now, called = Parking(), 0.0, -1e9
    for rows, want, least in course:
        now += span
        replicas = tuple(Replica(f"e{i}", f"n{i // 2}", live, idle, held) for i, (live, idle, held) in enumerate(rows))
        before = {engine for engine, mark in parking.marks.items() if mark.do != "start"}
        parking.step(now, replicas, want, least)
        leaving = {engine for engine, mark in parking.marks.items() if mark.do != "start"}
        held = {one.engine for one in replicas if one.holdout}
        assert not leaving & held
        serving = sum(one.live and one.engine not in leaving for one in replicas)
        if new := leaving - before:
            assert len(new) == 1 and want is not None and serving >= max(want, least)
            assert now >= called + HOLD_OFF_S
        elif want is not None and serving < max(want, least):
            assert not any(one.live and one.engine in leaving for one in replicas)  # all that is on serves
        if (before - held) - leaving:
            called = now


@pytest.mark.parametrize("least", [3, 5])
def test_the_least_goes_before_the_wish(least: int) -> None:
    parking, replicas = Parking(), SIX
    for k in range(40):
        parking.step(60.0 * k, replicas, 1, least)
        for engine, mark in list(parking.marks.items()):
            if mark.do == "drain":
                replicas = changed(replicas, engine, idle=True)
    assert len(parking.marks) == 6 - least
