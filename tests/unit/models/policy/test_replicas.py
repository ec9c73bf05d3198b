"""How many replicas: forecast, packing, N+1, hysteresis, the trade of clocks against replicas, and unknown input."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import inf, nan, pi, sin
from pathlib import Path
from typing import Any

import pytest

from models.control import steady
from models.control.predict import plant_of
from models.control.profiles import LLAMA_70B_H100X4
from models.policy.forecast import DAY_S, RateForecast
from models.policy.packings import PACKINGS
from models.policy.replicas import NodeCost, Packing, ReplicaPlanner, Seen, Wishes, surge
from models.policy.strategies import STRATEGIES

PLANT = plant_of(LLAMA_70B_H100X4)
WISHES = Wishes(tbt_s=0.09, gap_s=1e9, min_x=0.6, chunk_min=192.0, chunk_max=512.0)
SEEN = Seen(rate=20.0, prompt_tokens=1_600.0, output_tokens=100.0, kv_each=1_700.0, serving=12, total=12)


def _new(packing: Packing | None = None, wishes: Wishes = WISHES) -> ReplicaPlanner:
    return ReplicaPlanner(PLANT, packing or Packing(), wishes, NodeCost())


def _planner(packing: Packing | None = None, wishes: Wishes = WISHES) -> ReplicaPlanner:
    """One that has seen a day, on which almost nothing came, and whose forecast was right."""
    planner = _new(packing, wishes)
    planner.forecast.recall({"bins": {str(at): 0.001 for at in range(1_000_000, 1_000_288)}, "error2": 0.0})
    return planner


def _settled(planner: ReplicaPlanner, seen: Seen, minutes: int = 30, start_s: float = 0.0) -> Seen:
    for minute in range(minutes):
        want = planner.step(start_s + 60.0 * (minute + 1), 60.0, seen).replicas
        seen = replace(seen, serving=want)
    return seen


def test_settles_at_the_fewest_replicas_that_carry_the_upper_bound() -> None:
    planner = _planner()
    found = _settled(planner, SEEN).serving
    ahead = planner.forecast.ahead(1_900.0, 480.0)
    assert found == planner.least(ahead, SEEN) < 12
    assert ahead.upper > 20.0


def test_goes_up_at_once_and_down_only_after_it_held() -> None:
    planner = _planner(Packing(down_after_s=600.0))
    low = _settled(planner, SEEN)
    up = planner.step(2_000.0, 120.0, replace(low, rate=40.0))
    assert up.replicas > low.serving
    assert "serve from now on" in up.reason
    held = [planner.step(2_060.0 + 60 * k, 60.0, replace(low, rate=20.0, serving=up.replicas)) for k in range(6)]
    assert {d.replicas for d in held[:5]} == {up.replicas}


def test_a_replica_that_only_saves_energy_starts_after_it_was_cheaper_for_long() -> None:
    planner = _planner(Packing(up_after_s=600.0, down_after_s=600.0))
    planner.least = lambda ahead, seen: 4  # type: ignore[method-assign]
    cheapest = {"n": 6}
    planner._best = lambda least, rate, seen: (cheapest["n"], 1.0)  # type: ignore[method-assign]
    planner.price = lambda replicas, rate, seen: 1.0  # type: ignore[method-assign]
    seen, wants = replace(SEEN, serving=4), []
    for k in range(1, 12):
        wants.append(planner.step(60.0 * k, 60.0, seen).replicas)
    assert wants == [4] * 10 + [6]
    for k in range(12, 40):
        cheapest["n"] = 4 if k % 5 == 0 else 8  # never wanted for ten minutes on end
        assert planner.step(60.0 * k, 60.0, replace(seen, serving=6)).replicas == 6


def test_goes_up_at_once_where_the_bounds_cannot_be_kept() -> None:
    planner = _planner()
    planner.least = lambda ahead, seen: 4  # type: ignore[method-assign]
    planner._best = lambda least, rate, seen: (7, 1.0)  # type: ignore[method-assign]
    planner.price = lambda replicas, rate, seen: inf if replicas < 6 else 1.0  # type: ignore[method-assign]
    assert planner.step(60.0, 60.0, replace(SEEN, serving=4)).replicas == 5  # one at a time
    assert planner.step(120.0, 60.0, replace(SEEN, serving=6)).replicas == 6


def test_a_count_of_late_first_tokens_that_breaks_off_starts_nobody_before_a_quarter_of_an_hour() -> None:
    planner = _planner(Packing(busy_upper=0.5))
    dense = _settled(planner, SEEN).serving
    at_s, seen = 1_800.0, replace(SEEN, serving=dense)
    wants = []
    for minute in range(60):  # comes and goes
        at_s += 60.0
        seen = replace(seen, slack=nan if minute % 3 else 1.0)
        wants.append(planner.step(at_s, 60.0, seen).replicas)
    assert set(wants) == {dense}
    gone = [planner.step(at_s + 60.0 * k, 60.0, replace(seen, slack=nan)).replicas for k in range(1, 20)]
    assert gone[:12] == [dense] * 12 and gone[-1] > dense


def test_late_first_tokens_loosen_the_packing_slowly_and_where_nobody_counts_them_room_is_kept_at_once() -> None:
    """Clocks answer first: only a slack below TIGHT asks for replicas, and within hours, not at once."""
    found = {}
    for slack in (0.2, 0.4, 3.0, nan):
        planner = _planner(Packing(busy_upper=0.5))
        seen = replace(SEEN, slack=slack)
        _settled(planner, seen, minutes=3)
        ahead = planner.forecast.ahead(200.0, 480.0)
        soon = planner.least(ahead, seen)
        _settled(planner, seen, minutes=120, start_s=200.0)
        found[slack] = (soon, planner.least(ahead, seen))
    (soon, late), (dense, kept), loose, (uncounted, still) = found.values()
    assert late > kept == dense == soon and loose == (dense, kept)
    assert uncounted == still > dense


def test_a_packing_may_begin_loose_and_comes_up_while_first_tokens_are_in_time() -> None:
    careful, dense = (_planner(Packing(busy_upper=0.5, first=first)) for first in (0.6, 1.0))
    for planner in (careful, dense):
        _settled(planner, SEEN, minutes=3)
    ahead = careful.forecast.ahead(200.0, 480.0)
    begun, settled = careful.least(ahead, SEEN), dense.least(ahead, SEEN)
    _settled(careful, SEEN, minutes=120, start_s=200.0)
    assert begun > settled == careful.least(ahead, SEEN)


def test_a_packing_that_was_loosened_comes_back_when_nobody_is_late_any_more() -> None:
    planner = _planner(Packing(busy_upper=0.5))
    _settled(planner, replace(SEEN, slack=0.1), minutes=1_000)
    ahead = planner.forecast.ahead(60_000.0, 480.0)
    loosest = planner.least(ahead, SEEN)
    _settled(planner, replace(SEEN, slack=1.0), minutes=1_000, start_s=60_000.0)
    assert planner.least(ahead, SEEN) < loosest <= SEEN.total


def test_one_lost_replica_leaves_enough_for_the_present_rate() -> None:
    """N+1 decides where the forecast's upper bound does not."""
    loose = Packing(busy_upper=5.0, busy_spare=0.95)
    planner = _planner(loose)
    found = _settled(planner, SEEN).serving
    rate = 20.0 * 1_600.0
    assert (found - 1) * planner._capacity(SEEN) * 0.95 >= rate * 0.999
    assert (found - 2) * planner._capacity(SEEN) * 0.95 < rate


def test_minimum_warm_and_the_fleet_are_never_left() -> None:
    quiet = replace(SEEN, rate=0.01)
    assert _settled(_planner(Packing(min_warm=3)), quiet, minutes=60).serving == 3
    assert _settled(_planner(), replace(SEEN, rate=900.0, serving=2)).serving == 12


@pytest.mark.parametrize("rate", [nan, -1.0, float("inf")])
def test_unknown_rate_changes_nothing(rate: float) -> None:
    decision = _planner().step(60.0, 60.0, replace(SEEN, rate=rate, serving=7))
    assert decision.replicas == 7
    assert "unknown" in decision.reason


def test_fewer_replicas_at_a_higher_clock_cost_less_at_the_wall() -> None:
    planner = _planner()
    _settled(planner, SEEN, minutes=3)
    prices = {n: planner.price(n, 20.0, SEEN) for n in (6, 8, 12)}
    assert prices[6] < prices[8] < prices[12]


def test_the_price_of_a_number_that_cannot_keep_the_bounds_is_infinite() -> None:
    planner = _planner(wishes=replace(WISHES, tbt_s=0.015))
    _settled(planner, SEEN, minutes=3)
    assert planner.price(12, 20.0, SEEN) == float("inf")


def test_every_decision_is_one_sentence_with_its_numbers() -> None:
    planner = _planner()
    decision = planner.step(60.0, 60.0, SEEN)
    assert decision.reason.endswith(".") and decision.reason.count(". ") == 0
    assert {"rate", "expected", "upper", "least", "best", "wall_w"} <= set(decision.fields)


def test_forecast_knows_yesterdays_rise_before_it_comes() -> None:
    def day(t: float) -> float:
        return 10.0 + 8.0 * sin(2 * pi * t / DAY_S)

    known, new = RateForecast(), RateForecast(past_weight=0.0)
    t = 0.0
    while t < 1.9 * DAY_S:
        t += 60.0
        known.observe(t, day(t), 60.0)
        new.observe(t, day(t), 60.0)
    ahead = known.ahead(t, 3_600.0)
    assert ahead.expected > day(t) * 1.05
    assert "earlier days" in ahead.basis
    assert new.ahead(t, 3_600.0).expected >= new.ahead(t, 60.0).now


def test_forecast_ignores_a_step_that_comes_twice_and_goes_on_where_the_clock_was_set_back() -> None:
    forecast = RateForecast()
    forecast.observe(1_000.0, 5.0, 60.0)
    for now_s in (1_000.0, 950.0):
        forecast.observe(now_s, 500.0, 60.0)
        assert forecast.ahead(1_000.0, 60.0).now == 5.0
    forecast.observe(10.0, 500.0, 60.0)
    assert forecast.ahead(10.0, 60.0).now > 5.0


@pytest.mark.parametrize("back_s", [60.0, 3_600.0, 1e7])
def test_a_clock_that_goes_back_blinds_the_plan_for_no_longer_than_a_minute(back_s: float) -> None:
    planner = _planner()
    quiet = _settled(planner, Seen(0.5, 1000.0, 200.0, 1500.0, 2, 20))
    assert quiet.serving == 2
    now_s = 1_800.0 - back_s
    for step in range(12):
        decision = planner.step(now_s + 10.0 * step, 10.0, replace(quiet, rate=40.0))
        quiet = replace(quiet, serving=decision.replicas)
        if step == 6:
            assert quiet.serving >= 5  # 40 requests/s of 1,000 tokens are about four replicas' work at default clocks
    # And it comes down again after its quarter of an hour, whatever was wanted before the clock went back.
    quiet = _settled(planner, quiet, minutes=120, start_s=now_s + 120.0)
    assert quiet.serving == 2


@pytest.mark.parametrize("back_s", [3_600.0, 1e7])
def test_what_was_wanted_before_the_clock_went_back_holds_nothing_up(back_s: float) -> None:
    planner = _planner()
    busy = _settled(planner, Seen(40.0, 1000.0, 200.0, 1500.0, 4, 20))
    quiet = _settled(planner, replace(busy, rate=0.5), minutes=50, start_s=1_800.0 - back_s)
    assert busy.serving >= 4 and quiet.serving == 2


def test_forecast_is_ready_for_more_after_it_was_wrong() -> None:
    calm, wild = RateForecast(), RateForecast()
    for minute in range(600):
        t = 60.0 * minute
        calm.observe(t, 10.0, 60.0)
        wild.observe(t, 14.0 if minute % 20 >= 10 else 10.0, 60.0)
        calm.ahead(t, 480.0), wild.ahead(t, 480.0)
    assert wild.ahead(36_000.0, 480.0).error_ratio > 2 * calm.ahead(36_000.0, 480.0).error_ratio


def test_a_forecast_that_was_never_held_against_what_came_is_not_taken_to_be_right() -> None:
    forecast = RateForecast()
    for minute in range(600):
        forecast.observe(60.0 * minute, 10.0, 60.0)
        ahead = forecast.ahead(60.0 * minute, 480.0)
        if minute == 0:
            assert ahead.error_ratio == pytest.approx(0.12)
    assert ahead.error_ratio == forecast.error_floor


def test_dear_waiting_asks_for_more_replicas_and_the_watts_told_are_watts() -> None:
    found = {}
    for price_w in (0.0, 1e5):
        planner = _planner()
        seen = _settled(planner, replace(SEEN, price_w=price_w), minutes=60)
        fields = planner.step(3_700.0, 60.0, seen).fields
        found[price_w] = seen.serving
        assert fields["wall_w"] < 12 * 4 * 700 * 1.3 + 6 * 1_600  # of all nodes at their limit
    assert found[1e5] > found[0.0]


def test_a_price_takes_the_place_of_the_bound_on_the_mean_gap() -> None:
    tight = replace(WISHES, gap_s=0.015)  # no clock keeps it
    planner = _planner(wishes=tight)
    _settled(planner, SEEN, minutes=3)
    assert planner.price(8, 20.0, SEEN) == inf
    assert planner.price(8, 20.0, replace(SEEN, price_w=100.0)) < inf


def test_where_nothing_keeps_the_bounds_no_capacity_is_taken_away() -> None:
    planner = _planner(wishes=replace(WISHES, tbt_s=0.015))
    assert _settled(planner, replace(SEEN, serving=9), minutes=60).serving == 9


def test_bursts_are_remembered_for_an_hour() -> None:
    forecast = RateForecast()
    for minute in range(12):
        forecast.observe(60.0 * (minute + 1), 30.0 if minute == 5 else 2.0, 60.0)
    assert forecast.ahead(720.0, 480.0).expected == 30.0
    for minute in range(12, 70):
        forecast.observe(60.0 * (minute + 1), 2.0, 60.0)
    assert forecast.ahead(4_200.0, 480.0).expected < 5.0


SHORT = Seen(rate=60.0, prompt_tokens=200.0, output_tokens=175.0, kv_each=300.0, serving=12, total=12)


def _carries(replicas: int, rate: float, busy: float, seen: Seen = SEEN) -> bool:
    """In time, in seats and in the cache, at default clocks."""
    each = rate / replicas
    flow = steady.Flow(each * seen.prompt_tokens, each * seen.output_tokens, seen.kv_each, 1.0, 1.0)
    at = steady.steady(PLANT, flow, 1.0, WISHES.chunk_max)
    seats, kv = at.running / PLANT.max_sequences, at.running * seen.kv_each / PLANT.kv_limit_tokens
    return at.busy <= busy and max(seats, kv) <= 0.9


def test_until_a_day_is_known_there_is_room_for_a_load_that_becomes_three_times_as_much() -> None:
    quiet = replace(SEEN, rate=12.0)
    new, known = _settled(_new(), quiet).serving, _settled(_planner(), quiet).serving
    assert _carries(new, 36.0, 0.9) and not _carries(new - 1, 36.0, 0.9)
    assert known < new


def test_after_a_day_there_is_room_for_what_the_last_week_has_shown() -> None:
    forecast = RateForecast()
    for minute in range(9 * 1_440):
        t = 60.0 * minute
        forecast.observe(t, 20.0 if 2_000 <= minute < 2_015 else 7.0, 60.0)
        ahead = forecast.ahead(t, 480.0)
        if minute == 1_999:
            assert ahead.known and surge(ahead) == pytest.approx(7.0)
        if minute == 2_200:  # not the same time of day
            assert ahead.jump == pytest.approx(13.0, rel=0.1) and surge(ahead) == pytest.approx(20.0, rel=0.1)
            at_night, busy = replace(ahead, now=0.5, expected=0.5), replace(ahead, now=100.0, expected=100.0)
            assert surge(at_night) < 1.5 and surge(busy) == pytest.approx(113.0, rel=0.1)
            later = RateForecast()
            later.recall(json.loads(json.dumps(forecast.remember())))
            assert later.ahead(t, 480.0).jump == pytest.approx(ahead.jump, rel=1e-3)
    assert surge(forecast.ahead(14 * DAY_S, 480.0)) == pytest.approx(7.0)  # more than a week ago


@pytest.mark.parametrize(
    "jumps", [3, {"²": [1.0, 2.0]}, {"1": 5}, {"1": [1.0]}, {"x": [1.0, 2.0]}, {"1": [nan, 2.0]}, {"1": ["a", 2.0]}]
)
def test_a_memory_of_jumps_that_cannot_be_is_left_out(jumps: object) -> None:
    forecast = RateForecast()
    forecast.recall({"jumps": jumps})
    forecast.observe(DAY_S + 60.0, 5.0, 60.0)
    assert (forecast.ahead(DAY_S + 60.0, 480.0).jump, forecast.ahead(DAY_S + 60.0, 480.0).jump_ratio) == (0.0, 1.0)


def test_the_noise_of_few_requests_is_no_jump() -> None:
    rng, forecast = random.Random(3), RateForecast()
    for minute in range(2_000):
        arrived = sum(rng.random() < 0.2 for _ in range(60))
        forecast.observe(60.0 * minute, arrived / 60.0, 60.0)
        ahead = forecast.ahead(60.0 * minute, 480.0)
    assert surge(ahead) < 1.5 * max(ahead.now, 0.2)


def test_long_answers_to_short_prompts_need_seats() -> None:
    """A packing by time in prefill alone would take a few replicas and fill every seat of theirs."""
    planner, busy = _planner(Packing(z=0.0)), replace(SHORT, rate=200.0)
    _settled(planner, busy)
    found = planner.least(planner.forecast.ahead(1_900.0, 480.0), busy)
    assert _carries(found, 200.0, 0.97, SHORT) and not _carries(found - 1, 200.0, 0.97, SHORT)
    by_prefill = 200.0 * 200.0 / (planner._capacity(busy) * 0.7)
    assert found >= by_prefill + 1.0


def test_late_first_tokens_of_short_prompts_bring_replicas_that_time_in_prefill_would_not() -> None:
    in_time, late = (
        _settled(_planner(), replace(SHORT, slack=slack, price_w=0.0), minutes=240).serving for slack in (1.0, 0.1)
    )
    assert late > 2 * in_time


def test_a_lower_number_must_earn_what_its_starts_cost() -> None:
    cheap, dear = Packing(wear_j=0.0, down_after_s=60.0), Packing(wear_j=1e9, down_after_s=60.0)
    assert _settled(_planner(cheap), SEEN, minutes=60).serving < 12
    planner = _planner(dear)
    assert _settled(planner, SEEN, minutes=60).serving == 12
    told = planner.step(1e6, 60.0, SEEN)
    told = planner.step(1e6 + 120.0, 60.0, SEEN)
    assert "do not earn the" in told.reason and told.fields["earned_j"] < told.fields["start_j"]


def test_energy_that_is_worth_little_is_no_reason_to_wear_a_node() -> None:
    packing = Packing(wear_j=1.5e6, down_after_s=60.0)
    dear, cheap = replace(SEEN, weight=4.0), replace(SEEN, weight=0.01)
    assert _settled(_planner(packing), dear, minutes=60).serving < 12
    assert _settled(_planner(packing), cheap, minutes=60).serving == 12


@pytest.mark.parametrize("rate", [10.0, 500.0, 3_000.0])
def test_a_thousand_replicas_cost_as_many_prices_as_ten(rate: float) -> None:
    calls: list[int] = []

    def counted(*arguments: Any) -> tuple[float, float, float, float]:
        calls.append(1)
        return steady.cheapest(*arguments)

    many = replace(SEEN, serving=1_000, total=1_000, rate=rate)
    ReplicaPlanner(PLANT, Packing(), WISHES, NodeCost(), cheapest=counted).step(1e6, 10.0, many)
    assert len(calls) <= 24


def test_the_rate_s_memory_goes_on_in_another_process() -> None:
    old, new = _planner(), _planner()
    for k in range(600):
        old.step(k * 300.0, 300.0, replace(SEEN, rate=5.0 + (k % 288) / 10))
    new.forecast.recall(old.forecast.remember())
    now_s = 600 * 300.0
    old.step(now_s, 300.0, SEEN)
    new.step(now_s, 300.0, SEEN)
    assert new.forecast.ahead(now_s, 480.0).expected == pytest.approx(
        old.forecast.ahead(now_s, 480.0).expected, rel=0.2
    )
    new.forecast.recall({"bins": {"x": 1.0, "3": float("nan"), "4": -1.0}, "level": "high", "error2": None})


def test_the_documents_tell_the_packings_that_are_used() -> None:
    text = (Path(__file__).parents[4] / "docs" / "policy.md").read_text(encoding="utf-8")
    shares = ", ".join(f"{name} {PACKINGS[name].busy_upper:.2f}" for name in ("conservative", "balanced", "aggressive"))
    assert f"({shares}; `models/policy/packings.py`)" in text
    balanced, most = PACKINGS["balanced"], PACKINGS["aggressive"]
    assert PACKINGS["conservative"].z == balanced.z
    assert f"standard errors (conservative and balanced {balanced.z:g}, aggressive {most.z:g})" in text
    assert PACKINGS.keys() == STRATEGIES.keys() and PACKINGS["ml-driven"] == balanced
    waits = [packing.down_after_s for packing in PACKINGS.values()]
    assert set(waits) == {900.0, 600.0} and most.down_after_s == 600.0
    assert "wanted for a quarter of an hour (aggressive: ten minutes)" in text


def test_half_of_the_slack_gone_for_long_brings_replicas_within_an_hour_and_at_the_end_all_of_them() -> None:
    """Whatever the model says of the load: here it is next to none, and answers come late all the same."""
    planner, idle = _planner(Packing(busy_upper=0.5, first=0.8)), replace(SEEN, rate=0.2, serving=4, slack=0.1)
    few = planner.step(60.0, 60.0, idle).replicas
    soon = _settled(planner, idle, minutes=50, start_s=60.0).serving
    assert few == 4 < soon
    assert _settled(planner, idle, minutes=60, start_s=3_100.0).serving == 12


def test_after_a_rollback_the_whole_fleet_serves_and_is_packed_again_slowly() -> None:
    plain, back = _planner(), _planner()
    seen = _settled(plain, replace(SEEN, rate=2.0))
    _settled(back, replace(SEEN, rate=2.0))
    back.rolled_back(1_800.0)
    assert back.step(1_860.0, 60.0, seen).replicas == 12
    later = [_settled(one, replace(seen, serving=12), minutes=60, start_s=1_860.0).serving for one in (plain, back)]
    assert later[0] < later[1]
