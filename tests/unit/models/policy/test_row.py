"""A row's ceilings keep its budget whatever arrives in whatever order, and water flows where it helps most."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hyp

from models.policy.budget import Member, allocate, latency_at
from models.policy.row import FORGET_S, RowBook, RowSettings

NAMES = [f"g{i}" for i in range(6)]
CLASS = dict(zip(NAMES, ["high", "normal", "normal", "low", "low", "low"], strict=True))


def _member(name: str, wish: float = 700.0) -> Member:
    return Member(name, 200.0, wish, CLASS[name])  # type: ignore[arg-type]


class Nodes:
    """GPUs that apply what arrives: commands are delivered late, out of step, or never. They hold what they have."""

    def __init__(self, book: RowBook) -> None:
        self.book, self.now_s = book, 0.0
        self.limit: dict[str, float] = {}
        self.mail: dict[str, list[tuple[float, float]]] = {}
        self.present: set[str] = set()

    def step(self, wishes: dict[str, float]) -> None:
        self.now_s += 5.0
        members = [_member(name, wishes.get(name, 700.0)) for name in sorted(self.present)]
        plan = self.book.step(self.now_s, members)
        for name, watts in plan.ceilings_w.items():
            if name in self.present:
                self.mail.setdefault(name, []).append((self.now_s, watts))

    def deliver(self, name: str, answered: bool) -> None:
        if name in self.present and self.mail.get(name):
            issued_s, watts = self.mail[name].pop(0)
            self.limit[name] = watts
            if answered:
                self.book.confirmed(name, watts, issued_s)


OPS = hyp.lists(
    hyp.one_of(
        hyp.tuples(hyp.just("join"), hyp.sampled_from(NAMES), hyp.just(0.0)),
        hyp.tuples(hyp.just("leave"), hyp.sampled_from(NAMES), hyp.just(0.0)),
        hyp.tuples(hyp.just("deliver"), hyp.sampled_from(NAMES), hyp.sampled_from([0.0, 1.0])),
        hyp.tuples(hyp.just("lose"), hyp.sampled_from(NAMES), hyp.just(0.0)),
        hyp.tuples(hyp.just("wish"), hyp.sampled_from(NAMES), hyp.floats(200.0, 700.0)),
        hyp.tuples(hyp.just("step"), hyp.just(""), hyp.just(0.0)),
    ),
    max_size=60,
)


@given(OPS, hyp.sampled_from([1250.0, 1800.0, 2600.0]))
@settings(max_examples=150, deadline=None)
def test_ceilings_in_force_never_pass_the_budget(ops: list[tuple[str, str, float]], budget_w: float) -> None:
    nodes, wishes = Nodes(RowBook(RowSettings("r1", budget_w))), dict[str, float]()
    for what, name, value in ops:
        if what == "join":
            nodes.present.add(name)
        elif what == "leave":
            nodes.present.discard(name)
        elif what == "deliver":
            nodes.deliver(name, value > 0.0)
        elif what == "lose" and nodes.mail.get(name):
            nodes.mail[name].pop(0)
        elif what == "wish":
            wishes[name] = value
        elif what == "step":
            nodes.step(wishes)
        assert sum(nodes.limit.values()) <= budget_w + 1e-6


def _settle(nodes: Nodes, rounds: int = 4) -> None:
    for _ in range(rounds):
        nodes.step({})
        for name in list(nodes.mail):
            while nodes.mail[name]:
                nodes.deliver(name, answered=True)


def test_after_joins_and_leaves_the_whole_budget_is_used() -> None:
    nodes = Nodes(RowBook(RowSettings("r1", 1800.0)))
    nodes.present |= {"g0", "g1"}
    _settle(nodes)
    assert nodes.limit == {"g0": 700.0, "g1": 700.0}
    nodes.present |= {"g2", "g3"}
    _settle(nodes)
    assert nodes.limit == pytest.approx({"g0": 700.0, "g1": 450.0, "g2": 450.0, "g3": 200.0})
    nodes.present -= {"g1"}  # silent: it may still draw, so its ceiling is kept for it
    _settle(nodes)
    assert nodes.limit["g2"] == pytest.approx(450.0)
    nodes.now_s += FORGET_S + 1.0
    _settle(nodes)
    assert nodes.limit["g2"] == pytest.approx(700.0)


def test_a_newcomer_waits_until_the_others_said_that_they_are_down() -> None:
    book = RowBook(RowSettings("r1", 1400.0))
    first = book.step(0.0, [_member("g1"), _member("g2")])
    assert first.ceilings_w == {"g1": 700.0, "g2": 700.0}
    second = book.step(5.0, [_member("g1"), _member("g2"), _member("g0")])
    assert second.ceilings_w == {"g1": 350.0, "g2": 350.0} and "1 newcomers wait" in second.reason
    book.confirmed("g1", 350.0, 0.0)  # an answer to the older ceiling proves nothing
    assert "g0" not in book.step(10.0, [_member("g1"), _member("g2"), _member("g0")]).ceilings_w
    book.confirmed("g1", 350.0, 11.0)
    book.confirmed("g2", 350.0, 11.0)
    assert book.step(15.0, [_member("g1"), _member("g2"), _member("g0")]).ceilings_w["g0"] == 700.0


def test_a_limit_that_went_back_up_counts_as_what_it_is() -> None:
    book = RowBook(RowSettings("r1", 1400.0))
    book.step(0.0, [_member("g1", 400.0), _member("g2", 400.0)])
    book.confirmed("g1", 700.0, None)  # its lease ended, nobody had asked
    plan = book.step(5.0, [_member("g1", 400.0), _member("g2")])
    assert plan.committed_w == pytest.approx(1400.0) and plan.ceilings_w["g2"] == 700.0
    assert book.step(10.0, [_member("g1", 400.0), _member("g2"), _member("g0")]).ceilings_w.get("g0") is None
    for _ in range(1_000):  # told again and again, also a lower one: the highest counts, and is kept once
        book.confirmed("g1", 690.0, None)
        book.confirmed("g1", 700.0, None)
    assert book.in_force_w(20.0) == pytest.approx(1400.0) and len(book._held["g1"].older) <= 2


def test_a_budget_below_the_floors_is_refused_with_the_least_feasible_one() -> None:
    book = RowBook(RowSettings("r1", 900.0))
    plan = book.step(0.0, [_member("g1"), _member("g2")], outside_w=700.0)
    assert plan.refused and plan.ceilings_w == {}
    assert "a budget of 900 W cannot be kept" in plan.reason and "give at least 1100 W" in plan.reason
    kept = RowBook(RowSettings("r1", 900.0))
    kept.step(0.0, [_member("g1")])
    assert kept.step(5.0, [_member("g1")], outside_w=800.0).ceilings_w == {"g1": 200.0}


def test_a_new_process_counts_what_the_old_one_granted() -> None:
    old = RowBook(RowSettings("r1", 1400.0))
    old.step(0.0, [_member("g1"), _member("g2")])
    new = RowBook(RowSettings("r1", 1400.0))
    new.recover(10.0, old.granted())
    assert new.step(15.0, [_member("g0")]).ceilings_w == {}
    assert new.step(15.0, [_member("g1"), _member("g2")]).ceilings_w == old.granted()
    new.recover(20.0, {"bad": float("nan"), "worse": -5.0})
    assert "bad" not in new.granted() and "worse" not in new.granted()


def test_oversubscription_brakes_on_measured_power_and_on_an_unknown_one() -> None:
    book = RowBook(RowSettings("r1", 1650.0, oversubscribe=1.27), assumed_s=20.0)
    members = [_member("g0"), _member("g1"), _member("g3")]
    assert book.step(0.0, members, drawn_w=1000.0).ceilings_w["g3"] > 650.0
    braked = book.step(5.0, members, drawn_w=1620.0)
    assert braked.ceilings_w["g3"] == 200.0 and "98% of its budget" in braked.reason
    assert book.step(10.0, members, drawn_w=None).ceilings_w["g3"] == 200.0
    back = [book.step(15.0 + 5 * k, members, drawn_w=1000.0).ceilings_w["g3"] for k in range(30)]
    assert back == sorted(back) and back[0] < 240.0 and back[-1] > 650.0


def _curve(knee_w: float, cost: float) -> tuple[tuple[float, float], ...]:
    """Latency that falls until the knee: what lies above it is worth nothing."""
    return tuple((w, 1.0 + cost * max(0.0, knee_w - w) ** 2 / 1e5) for w in range(200, 701, 50))


def test_water_flows_where_it_takes_most_latency_away() -> None:
    members = [Member("a", 200, 700, curve=_curve(600, 1.0)), Member("b", 200, 700, curve=_curve(400, 1.0))]
    found = allocate(1000.0, members)
    assert "by marginal latency per watt" in found.reason
    assert found.ceilings_w["a"] > found.ceilings_w["b"] and sum(found.ceilings_w.values()) <= 1000.0 + 1e-9

    def latency(a: float, b: float) -> float:
        return latency_at(members[0].curve, a) + latency_at(members[1].curve, b)

    best = min(latency(a, b) for a, b in product(range(200, 701, 50), repeat=2) if a + b <= 1000)
    assert latency(found.ceilings_w["a"], found.ceilings_w["b"]) <= best + 1e-9


@given(hyp.lists(hyp.tuples(hyp.floats(250, 690), hyp.floats(0.1, 10)), min_size=1, max_size=8), hyp.floats(0, 1.2))
@settings(max_examples=60, deadline=None)
def test_water_filling_keeps_floors_wishes_and_the_sum(rows: list[tuple[float, float]], share: float) -> None:
    members = [Member(str(i), 200, 700, curve=_curve(k, c)) for i, (k, c) in enumerate(rows)]
    budget = 200 * len(rows) + share * 500 * len(rows)
    found = allocate(budget, members).ceilings_w
    assert sum(found.values()) <= budget + 1e-6
    assert all(200 - 1e-9 <= w <= 700 + 1e-9 for w in found.values())
    assert sum(found.values()) == pytest.approx(min(budget, 700 * len(rows)))


def test_a_silent_member_s_ceiling_is_part_of_the_least_feasible_budget() -> None:
    book = RowBook(RowSettings("r1", 1000.0))
    assert book.step(0.0, [_member("g1")]).ceilings_w == {"g1": 700.0}
    plan = book.step(5.0, [_member("g2"), _member("g3")])
    assert plan.refused and plan.least_w == pytest.approx(1100.0)


def test_a_curve_that_is_flat_at_first_is_poured_as_a_whole() -> None:
    late = Member("late", 200, 700, curve=((200.0, 10.0), (450.0, 10.0), (700.0, 0.0)))
    even = Member("even", 200, 700, curve=((200.0, 5.0), (700.0, 0.0)))
    assert allocate(900.0, [late, even]).ceilings_w == {"late": 700.0, "even": 200.0}
