"""Laws of the brake: whatever the load does, tables keep a row's budget, never raise, and twice is once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hyp

from agents.capper.brake import Held, Table
from models.policy import budget
from models.policy.budget import HARD, Allocation, Member, Priority, allocate

STEP_S = 0.5
members_of = hyp.lists(
    hyp.builds(
        lambda low, span, priority: (low, low + span, priority),
        hyp.floats(50, 300),
        hyp.floats(0, 500),
        hyp.sampled_from(["high", "normal", "low"]),
    ),
    min_size=1,
    max_size=8,
)
loads_of = hyp.lists(hyp.one_of(hyp.none(), hyp.floats(0, 3), hyp.sampled_from([0.87, 0.9, 0.94, 0.97])), max_size=60)
Given = list[tuple[float, float, Priority]]


@dataclass
class Fleet:
    """Every member's own brake, as its capper holds it."""

    budget_w: float
    found: Allocation
    floors_w: dict[str, float]
    now_s: float = 0.0
    held: dict[str, Held] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Given, share: float, oversubscribe: float) -> Fleet:
        members = [Member(str(i), low, high, priority) for i, (low, high, priority) in enumerate(rows)]
        floors = sum(m.floor_w for m in members)
        budget_w = floors + share * (sum(m.wanted_w for m in members) - floors) + 1e-6
        found = allocate(budget_w, members, oversubscribe=oversubscribe)
        return cls(budget_w, found, {m.name: m.floor_w for m in members}, held={m.name: Held() for m in members})

    def table(self, name: str) -> Table:
        return Table("r1", self.budget_w, tuple((b.from_ratio, b.ceilings_w[name]) for b in self.found.brakes))

    def step(self, load: float | None, *, span_s: float = STEP_S) -> dict[str, float]:
        """All nodes see one load; returns the ceilings in force."""
        self.now_s += span_s
        ceilings = {}
        for name, held in self.held.items():
            granted = self.found.ceilings_w[name]
            watts = held.next(granted, self.table(name), load, floor_w=self.floors_w[name], now_s=self.now_s)
            held.watts = watts if watts < granted else None
            ceilings[name] = watts
        return ceilings


def check(fleet: Fleet, loads: Sequence[float | None]) -> None:
    """The laws on one course of loads. Raises AssertionError."""
    for load in loads:
        before = {name: held.watts for name, held in fleet.held.items()}
        ceilings = fleet.step(load)
        again = {name: replace(held) for name, held in fleet.held.items()}
        assert fleet.step(load, span_s=0.0) == ceilings and again == fleet.held, "twice is once"
        total = sum(ceilings.values())
        if load is None or load >= HARD:
            assert total <= fleet.budget_w * (1 + 1e-9), f"{total} W at {load} of {fleet.budget_w} W"
        for name, watts in ceilings.items():
            granted = fleet.found.ceilings_w[name]
            assert min(fleet.floors_w[name], granted) - 1e-6 <= watts <= granted + 1e-9
            held = before[name]
            if held is not None and (load is None or load >= HARD):
                assert watts <= held + 1e-9, "a brake never raises"


@given(members_of, hyp.floats(0, 1), hyp.floats(1, 2), loads_of)
@settings(max_examples=150, deadline=None)
def test_the_brakes_keep_the_budget_at_every_load(
    rows: Given, share: float, oversubscribe: float, loads: list[float | None]
) -> None:
    check(Fleet.of(rows, share, oversubscribe), loads)


@given(members_of, hyp.floats(0.2, 1), hyp.floats(1, 2), hyp.lists(hyp.lists(hyp.floats(0, 1), min_size=8, max_size=8)))
@settings(max_examples=60, deadline=None)
def test_a_row_that_jumps_above_its_budget_is_below_it_one_step_later(
    rows: Given, share: float, oversubscribe: float, demands: list[list[float]]
) -> None:
    """Closed loop: members draw what they ask for, up to their ceilings, and the meter tells a step late."""
    fleet = Fleet.of(rows, share, oversubscribe)
    wanted = {str(i): (low, high) for i, (low, high, _) in enumerate(rows)}
    ceilings, told, over = dict(fleet.found.ceilings_w), 0.0, 0
    for demand in demands:
        for _ in range(4):
            drawn = sum(
                min(ceilings[n], low + d * (high - low))
                for (n, (low, high)), d in zip(wanted.items(), demand, strict=False)
            )
            over = over + 1 if drawn > fleet.budget_w * (1 + 1e-9) else 0
            assert over <= 2, "one step until the meter tells, none after it"
            ceilings = fleet.step(told)
            told = drawn / fleet.budget_w


def _no_fit(members: Sequence[Member], levels_w: dict[str, float], budget_w: float) -> dict[str, float]:
    return levels_w


def _deaf(self: Held, ceiling_w: float, table: Table, load: float | None, *, floor_w: float, now_s: float) -> float:
    """A brake that takes an unknown load for none."""
    return REAL(self, ceiling_w, table, load or 0.0, floor_w=floor_w, now_s=now_s)


def _hasty(self: Held, ceiling_w: float, table: Table, load: float | None, *, floor_w: float, now_s: float) -> float:
    """A brake that rises with every call."""
    self.calm_s = -1e9
    return REAL(self, ceiling_w, table, load, floor_w=floor_w, now_s=now_s)


REAL: Callable[..., float] = Held.next


@pytest.mark.parametrize("broken", ["no_fit", "deaf", "hasty"])
def test_the_laws_notice_a_brake_that_is_broken_on_purpose(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "no_fit":
        monkeypatch.setattr(budget, "_fitted", _no_fit)
    else:
        monkeypatch.setattr(Held, "next", {"deaf": _deaf, "hasty": _hasty}[broken])
    rows: Given = [(200.0, 700.0, "high")] * 4
    with pytest.raises(AssertionError):
        check(Fleet.of(rows, 0.5, 1.6), [None, 0.5, 0.98, None, 0.2, 0.2, None])
