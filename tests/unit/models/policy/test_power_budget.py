"""Budget by sums of ceilings, brakes that need no message, and the PID of the brief."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as hyp

from models.policy.budget import Brake, BudgetTooLow, Member, allocate, ceiling_now
from models.policy.pid import BatchBounds, PidSettings, PowerPid

MEMBERS = [Member("a", 200, 700, "high"), Member("b", 200, 700, "normal"), Member("c", 200, 700, "low")]


@given(
    hyp.lists(
        hyp.tuples(hyp.floats(50, 300), hyp.floats(0, 500), hyp.sampled_from(["high", "normal", "low"])),
        min_size=1,
        max_size=12,
    ),
    hyp.floats(0, 1.5),
)
def test_the_sum_of_ceilings_keeps_every_budget_that_can_be_kept(
    rows: list[tuple[float, float, str]], share: float
) -> None:
    members = [Member(str(i), low, low + span, p) for i, (low, span, p) in enumerate(rows)]  # type: ignore[arg-type]
    floors, wants = sum(m.floor_w for m in members), sum(m.wanted_w for m in members)
    budget = floors + share * (wants - floors)
    found = allocate(budget, members).ceilings_w
    assert sum(found.values()) <= budget * (1 + 1e-9)
    assert all(m.floor_w - 1e-6 <= found[m.name] <= m.wanted_w + 1e-6 for m in members)


def test_high_classes_are_filled_first() -> None:
    found = allocate(1_350.0, MEMBERS)
    assert found.ceilings_w == {"a": 700.0, "b": 450.0, "c": 200.0}
    assert "class normal gets 50 %" in found.reason or "class normal gets 50%" in found.reason


def test_budget_below_the_floors_is_refused_with_the_least_feasible_one() -> None:
    with pytest.raises(BudgetTooLow, match="below the floors of 600 W; give at least 600 W") as caught:
        allocate(500.0, MEMBERS)
    assert caught.value.least_w == 600.0


def test_brakes_lower_the_low_class_first_and_come_back_slowly() -> None:
    found = allocate(2_100.0, MEMBERS)
    assert found.brakes == (
        Brake(0.90, {"a": 700.0, "b": 700.0, "c": 450.0}),
        Brake(0.97, {"a": 700.0, "b": 450.0, "c": 200.0}),
    )
    assert ceiling_now(found, "c", 0.5) == 700.0
    braked = ceiling_now(found, "c", 0.98, held_w=700.0)
    assert braked == 200.0
    assert ceiling_now(found, "c", 0.5, held_w=braked) == pytest.approx(225.0)
    assert ceiling_now(found, "c", float("nan")) == 200.0  # an unknown load brakes


def test_oversubscribed_ceilings_still_brake_below_the_budget() -> None:
    found = allocate(1_650.0, MEMBERS, oversubscribe=1.3)
    assert sum(found.ceilings_w.values()) > 1_650.0
    assert sum(found.brakes[1].ceilings_w.values()) <= 1_650.0


def test_at_the_last_brake_the_lower_class_gives_way_before_the_higher() -> None:
    members = [Member("a", 200, 700, "high"), Member("b", 200, 700, "normal"), Member("c", 200, 700, "normal")]
    found = allocate(1_400.0, members, oversubscribe=1.4)
    hard = found.brakes[1].ceilings_w
    assert found.ceilings_w["a"] == 700.0 and hard["a"] == 700.0 and sum(hard.values()) <= 1_400.0
    tight = allocate(1_000.0, members, oversubscribe=2.0).brakes[1].ceilings_w
    assert tight["b"] == tight["c"] == 200.0 and tight["a"] == pytest.approx(600.0)


@pytest.mark.parametrize(
    ("members", "words"),
    [([MEMBERS[0], MEMBERS[0]], "same name"), ([Member("x", 300, 200)], "give 0 <= floor <= wanted")],
)
def test_senseless_members_are_refused(members: list[Member], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        allocate(1e6, members)


def test_pid_holds_a_plant_that_draws_its_limit_or_less() -> None:
    pid = PowerPid(PidSettings(interval_s=1.0), target_w=400.0)
    limit, power = 700.0, 650.0
    for second in range(120):
        power += 0.6 * (min(limit * 0.97, 650.0) - power)
        limit = pid.step(float(second), power)
    assert power == pytest.approx(400.0, rel=0.02)


def test_pid_never_leaves_floor_and_ceiling_and_keeps_its_interval() -> None:
    pid = PowerPid(PidSettings(floor_w=300.0, ceiling_w=500.0, interval_s=5.0), target_w=100.0)
    assert pid.target_w == 300.0
    seen = [pid.step(float(t), 650.0) for t in range(60)]
    assert min(seen) >= 300.0 and max(seen) <= 500.0
    assert all(len(set(seen[i : i + 5])) <= 2 for i in range(0, 55, 5))
    assert pid.step(1_000.0, None) == pid.limit_w


def test_pid_starts_from_the_limit_in_force_and_a_new_target_does_not_jump() -> None:
    pid = PowerPid(PidSettings(interval_s=1.0, ki=0.05), target_w=400.0, held_w=650.0)
    assert pid.step(0.0, 600.0) == 650.0
    steps = [pid.step(float(t), 600.0) for t in range(1, 30)]
    assert 630.0 < steps[0] < 650.0 and steps == sorted(steps, reverse=True)
    before = pid.limit_w
    pid.retarget(450.0)
    assert abs(pid.step(30.0, 600.0) - before) <= 0.05 * 150.0 + 1e-6


def test_pid_leaves_a_bound_as_soon_as_it_may() -> None:
    pid = PowerPid(PidSettings(interval_s=1.0, floor_w=200.0, ceiling_w=700.0), target_w=400.0)
    for t in range(1_000):
        pid.step(float(t), 300.0)  # an hour below target: the limit sits at the ceiling
    assert pid.limit_w == 700.0
    down = [pid.step(1_000.0 + t, 500.0) for t in range(5)]
    assert down[0] < 700.0 and down[-1] < 560.0


@given(hyp.lists(hyp.tuples(hyp.floats(-1e9, 1e9), hyp.floats()), max_size=40))
def test_pid_survives_any_clock_and_any_reading(rows: list[tuple[float, float]]) -> None:
    pid = PowerPid(PidSettings(kd=0.3), target_w=400.0)
    for now_s, power_w in rows:
        assert 200.0 <= pid.step(now_s, power_w) <= 700.0


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"floor_w": 500.0, "ceiling_w": 300.0}, "GPU_POWER_FLOOR is 500 W and GPU_POWER_CEILING 300 W"),
        ({"kp": -1.0}, "PID_KP is -1"),
        ({"interval_s": 0.0}, "OPTIMIZATION_INTERVAL is 0 s"),
    ],
)
def test_pid_settings_say_what_is_wrong(how: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PidSettings(**how)


def test_batch_bounds() -> None:
    assert BatchBounds(64, 512).within(9) == 64
    with pytest.raises(ValueError, match="BATCH_MIN is 9 and BATCH_MAX 3"):
        BatchBounds(9, 3)
