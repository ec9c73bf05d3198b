"""Ranks of one data-parallel job: who waits runs slower, the slowest keeps the pace, whatever happens to whom."""

from __future__ import annotations

from math import exp
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.control.ranks import Option
from models.control.training_group import RankGroup
from models.control.training_session import Session, Unit, clocks, limits
from models.twin.job import JobLaw, one_job, run

LAW = JobLaw(static_w=110.0, v_min=0.70, x_knee=0.60, x_floor=0.17)
GRID = clocks(1200, 1980, 15)
TOP = 1980.0
BOUND = 0.05


def table(clock_share: float = 1.0) -> dict[float, tuple[float, float]]:
    job = one_job(time_s=0.8, light_share=0.3, dynamic_w=520, light_ratio=0.6, clock_share=clock_share, static_w=120)
    found = {}
    for mhz in GRID:
        time_s, watts = run(LAW, job, lock_x=np.array([[mhz / TOP]]), limit_w=np.array([[700.0]]))
        found[mhz] = float(time_s[0, 0]), float(watts[0, 0])
    return found


TABLE = table()
WAIT_W = 150.0


class Ranks:
    """A job of several ranks, in lockstep; `slower` is each rank's own factor."""

    def __init__(self, *slower: float, seed: int = 1, sigma: float = 0.02) -> None:
        self.slower, self.rng, self.sigma, self.now_s = list(slower), Random(seed), sigma, 0.0
        self.sessions = [Session(GRID, reference=TOP, bound=BOUND, run_steps=60_000) for _ in slower]
        self.group = RankGroup(bound=BOUND)
        self.silent: set[int] = set()

    def busy_s(self, rank: int, mhz: float | None = None) -> float:
        return TABLE[self.sessions[rank].setting if mhz is None else mhz][0] * self.slower[rank]

    def step_s(self) -> float:
        """Without noise, as all are set now."""
        return max(self.busy_s(rank) for rank in range(len(self.slower)))

    def base_s(self) -> float:
        return max(self.busy_s(rank, TOP) for rank in range(len(self.slower)))

    def energy_j(self, *, base: bool = False) -> float:
        length = self.base_s() if base else self.step_s()
        total = 0.0
        for rank, session in enumerate(self.sessions):
            mhz = TOP if base else session.setting
            busy = self.busy_s(rank, mhz)
            total += TABLE[mhz][1] * busy + WAIT_W * (length - busy)
        return total

    def run(self, units: int) -> float:
        """Runs on; the longest step without noise, blocks that measure left out."""
        longest = 0.0
        for _ in range(units):
            busy = [self.busy_s(rank) * exp(self.rng.gauss(0.0, self.sigma)) for rank in range(len(self.slower))]
            length = max(busy)
            self.now_s += length
            if all(session.state != "measuring" for session in self.sessions):
                longest = max(longest, self.step_s())
            for rank, session in enumerate(self.sessions):
                if rank in self.silent:
                    self.group.forget(str(rank))
                    continue
                watts = (TABLE[session.setting][1] * busy[rank] + WAIT_W * (length - busy[rank])) / length
                session.feed(Unit(length, 1.0, watts, length - busy[rank]))
                self.group.say(str(rank), session.options(), until_s=self.now_s + 5.0)
                order = self.group.order(str(rank), self.now_s)
                session.allow(None if order is None else order.room)
                if order is not None:
                    session.follow(order.setting, most=order.most)
        return longest

    def until_chosen(self, most: int = 6000) -> None:
        for _ in range(most // 50):
            self.run(50)
            if all(session.state in ("chosen", "kept") for session in self.sessions):
                self.run(100)
                if all(session.state in ("chosen", "kept") for session in self.sessions):
                    return
        raise AssertionError([session.reason for session in self.sessions])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ranks_that_wait_run_slower_and_the_step_keeps_its_bound(seed: int) -> None:
    ranks = Ranks(1.0, 1.0, 1.2, 1.05, seed=seed)
    ranks.until_chosen()
    fast, alike, slow, near = (session.setting for session in ranks.sessions)
    assert max(fast, alike) < near < TOP and slow > near
    longest = ranks.run(1500)
    assert longest <= ranks.base_s() * (1.0 + BOUND)
    while any(session.state == "measuring" for session in ranks.sessions):
        ranks.run(1)
    assert 1.0 - ranks.energy_j() / ranks.energy_j(base=True) > 0.13  # 0.156 is all that there is
    # The guard: who is slowed does not become the straggler.
    for rank in (0, 1, 3):
        assert ranks.busy_s(rank) <= ranks.base_s() * (1.0 + BOUND) * 0.995


def test_a_straggler_that_appears_gives_room_and_one_that_leaves_takes_it_back_in_ten_units() -> None:
    ranks = Ranks(1.0, 1.0, 1.0)
    ranks.until_chosen()
    alike = [session.setting for session in ranks.sessions]
    assert ranks.step_s() <= ranks.base_s() * (1.0 + BOUND)
    ranks.slower[2] = 1.25  # hotter, or a neighbour on its link
    ranks.run(4000)
    assert all(session.setting < before - 60.0 for session, before in zip(ranks.sessions[:2], alike[:2], strict=True))
    assert ranks.step_s() <= ranks.base_s() * (1.0 + BOUND)
    ranks.slower[2] = 1.0
    for _ in range(60):
        ranks.run(1)
        if ranks.step_s() <= ranks.base_s() * (1.0 + BOUND):
            break
    else:
        raise AssertionError(f"{ranks.step_s() / ranks.base_s() - 1.0:.3f} after 60 units")
    assert ranks.run(400) <= ranks.base_s() * (1.0 + BOUND) + 1e-9


def test_a_rank_that_falls_silent_leaves_the_plan_and_the_others_speed_up() -> None:
    ranks = Ranks(1.0, 1.0, 1.2)
    ranks.until_chosen()
    slowed = ranks.sessions[0].setting
    ranks.silent.add(2)
    ranks.run(20)
    assert ranks.group.order("2", ranks.now_s) is None
    assert all(session.setting > slowed for session in ranks.sessions[:2])
    assert all(ranks.busy_s(rank) <= TABLE[TOP][0] * (1.0 + BOUND) for rank in (0, 1))


def test_one_word_said_twice_changes_nothing_and_an_old_one_counts_no_more() -> None:
    group = RankGroup(bound=0.0, guard=0.01)
    fast = (Option(1980.0, 1.0, 300.0), Option(1500.0, 1.15, 250.0), Option(1300.0, 1.3, 230.0))
    slow = (Option(1980.0, 1.2, 360.0), Option(1500.0, 1.38, 300.0))
    for _ in range(2):
        group.say("a", fast, until_s=10.0)
        group.say("b", slow, until_s=20.0)
        first, second = group.order("a", 5.0), group.order("b", 5.0)
        assert first is not None and second is not None
        assert (first.setting, second.setting) == (1500.0, 1980.0)
        assert first.room == pytest.approx(1.2 * 0.99 - 1.0) and second.room == 0.0
    assert group.order("a", 11.0) is None and group.order("c", 5.0) is None
    alone = group.order("b", 11.0)
    assert alone is not None and alone.setting == 1980.0
    group.say("b", (), until_s=99.0)
    assert group.order("b", 11.0) is None


options = st.lists(
    st.tuples(st.floats(1.0, 2.0), st.floats(0.3, 1.0)), max_size=5
).map(lambda more: [(1.0, 1.0), *more])  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 2.0), options), min_size=1, max_size=5), st.floats(0.0, 0.3))
def test_no_plan_passes_the_bound_or_costs_energy(
    ranks: list[tuple[float, list[tuple[float, float]]]], bound: float
) -> None:
    group = RankGroup(bound=bound)
    tables = {
        str(at): [Option(1000.0 - k, scale * time_s, 300.0 * scale * energy) for k, (time_s, energy) in enumerate(rows)]
        for at, (scale, rows) in enumerate(ranks)
    }
    for name, rows in tables.items():
        group.say(name, rows, until_s=1.0)
    pace = max(rows[0].time_s for rows in tables.values())
    for name, rows in tables.items():
        order = group.order(name, 0.0)
        assert order is not None
        chosen = next(row for row in rows if row.setting == order.setting)
        assert chosen.time_s <= pace * (1.0 + bound) + 1e-9
        assert chosen.energy_j <= rows[0].energy_j or chosen.time_s == min(row.time_s for row in rows)
        assert order.room >= 0.0


def test_limits_are_as_far_apart_as_those_that_were_recorded() -> None:
    assert limits(135.0, 300.0) == (140.0, 160.0, 180.0, 200.0, 220.0, 240.0, 260.0, 280.0, 300.0)
    assert limits(315.0, 700.0) == (350.0, 400.0, 450.0, 500.0, 550.0, 600.0, 650.0, 700.0)
    assert limits(400.0, 400.0) == limits(500.0, 400.0) == (400.0,)
    assert limits(20.0, 40.0) == (20.0, 25.0, 30.0, 35.0, 40.0)
