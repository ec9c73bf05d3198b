"""The controller's core: deadlines of a backlog, chunk size, the mean gap, and a model that stops predicting."""

from __future__ import annotations

from itertools import pairwise
from math import inf, nan

import pytest

from models.control import decide as core
from models.control import learn, memory
from models.control.equations import iteration_s, prefill_fit
from models.control.memory import Bounds, Load, Tuning
from models.control.predict import plant_of
from models.control.profiles import LLAMA_70B_H100X4
from models.control.setpoint import DRIFT, TBT, TTFT, WAIT, chunk_at, lowest
from models.control.steady import Flow, cheapest, steady

PLANT = plant_of(LLAMA_70B_H100X4)
TUNE = Tuning(react_s=0.15, dwell_s=0.3, chunk_min=128.0, chunk_max=512.0, rush_ratio=2.0)
FREE = Bounds(0.09, 1.5, inf, 0.6, 1.0, 1.0)


class Engine:
    """An engine as the core sees it: a tenth of a second a step, 2,000 prompt tokens a second."""

    def __init__(self, tune: Tuning = TUNE) -> None:
        self.tune, self.now = tune, 10.0
        self.memory = [0.0] * memory.S_SIZE
        memory.begin(self.memory, PLANT, 2_000.0)

    def step(
        self, *, queued: float = 0.0, running: float = 10.0, to: Bounds = FREE, factor: float = 1.0, **other: float
    ) -> int:
        self.now += 0.1
        kv = running * 1_700.0
        x, chunk = self.memory[memory.S_X], self.memory[memory.S_CHUNK]
        room = learn.room_of(PLANT, chunk, running)
        mixed = iteration_s(PLANT, x, running, kv, room) * factor
        decode = iteration_s(PLANT, x, running, kv, 0.0) * factor
        mean = decode / (1.0 - 200.0 / room / 0.1 * (mixed - decode))  # 200 tokens prefilled in a tenth of a second
        seen = {"prefilled": 200.0, "mean_s": mean, "tail_s": mixed, "generated": 40.0} | other
        load = Load(
            running, queued, kv, seen["prefilled"], nan, seen["generated"], seen["mean_s"], seen["tail_s"], x, nan
        )
        _, _, why = core.decide(PLANT, self.tune, self.memory, load, to, self.now)
        return why

    def settle(self, steps: int = 400, **how: float) -> float:
        for _ in range(steps):
            self.step(**how)  # type: ignore[arg-type]
        return self.memory[memory.S_X]


def test_a_backlog_raises_the_clock_to_what_its_deadline_needs_and_no_higher() -> None:
    calm = Engine()
    low = calm.settle()
    calm.step(queued=12_500.0)
    some = calm.memory[memory.S_X]
    other = Engine()
    other.settle()
    other.step(queued=14_500.0)
    assert low < some < other.memory[memory.S_X] <= 1.0


def test_a_burst_is_cleared_at_full_speed_although_its_deadline_would_allow_less() -> None:
    patient, eager = Engine(TUNE._replace(rush_ratio=9.0)), Engine(TUNE._replace(rush_ratio=0.3))
    for engine in (patient, eager):
        engine.settle()
        engine.step(queued=9_000.0)
    assert patient.memory[memory.S_X] < 0.95 < eager.memory[memory.S_X]  # the power limit allows no more


def test_tokens_that_have_waited_are_due_sooner() -> None:
    engine = Engine()
    engine.settle()
    engine.step(queued=6_000.0, prefilled=0.0)
    first = core.needed_rate(engine.memory, engine.now, 6_000.0, 1.5, TUNE)
    for _ in range(6):
        engine.step(queued=6_000.0, prefilled=0.0)
    assert core.needed_rate(engine.memory, engine.now, 6_000.0, 1.5, TUNE) > 1.5 * first


def test_what_was_prefilled_is_no_longer_due() -> None:
    engine = Engine()
    engine.settle()
    engine.step(queued=6_000.0, prefilled=0.0)
    engine.step(queued=0.0, prefilled=6_000.0)
    assert core.needed_rate(engine.memory, engine.now, 0.0, 1.5, TUNE) == 0.0


def test_backlog_that_default_clocks_cannot_serve_in_time_releases() -> None:
    engine = Engine()
    engine.settle()
    assert engine.step(queued=40_000.0) == WAIT
    assert engine.memory[memory.S_X] == 1.0


def test_chunk_shrinks_with_the_clock_so_that_its_iteration_keeps_the_gap() -> None:
    for x in (0.6, 0.8, 1.0):
        chunk = chunk_at(PLANT, TUNE, x, 10.0, 17_000.0, 0.045)
        assert iteration_s(PLANT, x, 10.0, 17_000.0, learn.room_of(PLANT, chunk, 10.0)) <= 0.045 * 1.001
    assert chunk_at(PLANT, TUNE, 0.6, 10.0, 17_000.0, 0.045) < chunk_at(PLANT, TUNE, 1.0, 10.0, 17_000.0, 0.045)
    assert prefill_fit(PLANT, 0.6, 10.0, 17_000.0, 0.001) == -10.0


def test_without_a_chunk_knob_the_engine_keeps_its_own() -> None:
    engine = Engine(TUNE._replace(chunk_min=0.0, chunk_max=0.0))
    engine.settle()
    assert engine.memory[memory.S_CHUNK] == PLANT.chunk_tokens


def test_a_gap_bound_costs_clock() -> None:
    free, bound = Engine(), Engine()
    low = free.settle()
    tight = FREE._replace(gap_s=0.021)
    for _ in range(600):
        bound.step(to=tight)
    assert bound.memory[memory.S_X] > low or bound.memory[memory.S_CHUNK] < free.memory[memory.S_CHUNK]


def test_measured_gaps_above_target_tighten_the_plan() -> None:
    engine = Engine()
    prices = []
    for k in range(6_000):
        engine.step(to=FREE._replace(gap_s=0.0245), mean_s=0.0275)
        if k % 1_000 == 999:
            prices.append(engine.memory[memory.S_PRICE])
    assert all(late > 1.1 * early for early, late in pairwise(prices))


def test_a_gap_below_its_target_makes_waiting_cheaper_down_to_the_least_price() -> None:
    engine = Engine()
    for _ in range(10_000):
        engine.step(to=FREE._replace(gap_s=0.06))
    assert engine.memory[memory.S_PRICE] == learn.PRICE_MIN


def test_a_bound_that_is_broken_at_first_does_not_leave_waiting_dear_for_long() -> None:
    """The price begins from the model once a plan is possible, not at its highest because none was."""
    engine, late = Engine(), Engine()
    for _ in range(100):
        engine.step(to=FREE._replace(gap_s=0.03, tbt_s=0.001))
    assert engine.memory[memory.S_PRICED] == 0.0
    for one in (engine, late):
        for _ in range(100):
            one.step(to=FREE._replace(gap_s=0.03))
    assert engine.memory[memory.S_PRICED] == 1.0
    assert engine.memory[memory.S_PRICE] < 2.0 * late.memory[memory.S_PRICE]


def test_a_window_that_cannot_be_judged_neither_counts_nor_clears() -> None:
    row = [0.0] * memory.S_SIZE
    memory.begin(row, PLANT, 2_000.0)
    for k, error in enumerate((0.5, nan, 0.5, nan, nan)):
        learn.judge(row, error, 100.0 + k, fast=False)
        assert row[memory.S_RECALIBRATE] == 0.0
    learn.judge(row, 0.5, 106.0, fast=False)
    assert row[memory.S_RECALIBRATE] > 106.0


def test_without_an_end_to_end_bound_waiting_has_no_price() -> None:
    engine = Engine()
    engine.settle()
    assert engine.memory[memory.S_PRICE] == 0.0


def test_a_model_that_stops_predicting_gives_default_clocks_within_two_seconds_and_is_learned_anew() -> None:
    engine = Engine()
    engine.settle()
    assert engine.memory[memory.S_X] < 0.8
    steps = 0
    while engine.step(factor=1.6) != DRIFT:
        steps += 1
        assert steps < 20
    assert engine.memory[memory.S_X] == 1.0
    assert all(engine.step(factor=1.6) == DRIFT for _ in range(45))
    later = [engine.step(factor=1.6) for _ in range(300)]
    assert DRIFT not in later[60:]
    assert engine.memory[memory.S_PREFILL] == pytest.approx(1.6, rel=0.01)


def test_a_model_that_predicts_never_recalibrates() -> None:
    engine = Engine()
    assert all(engine.step() != DRIFT for _ in range(600))
    assert engine.memory[memory.S_PREFILL] == pytest.approx(1.0, abs=0.02)
    assert engine.memory[memory.S_DECODE] == pytest.approx(1.0, abs=0.02)


def test_one_ratio_moves_both() -> None:
    engine = Engine(TUNE._replace(learns=2.0))
    engine.settle(factor=1.1)
    assert engine.memory[memory.S_DECODE] == engine.memory[memory.S_PREFILL] > 1.03


def test_steady_load_obeys_little_and_more_load_means_more_of_everything() -> None:
    low, high = (steady(PLANT, Flow(1_600.0 * r, 100.0 * r, 1_700.0, 1.0, 1.0), 0.8, 512.0) for r in (1.0, 4.0))
    assert high.running == pytest.approx(400.0 * high.gap_s, rel=0.1)
    assert high.busy > low.busy and high.gap_s > low.gap_s and high.gpu_w > low.gpu_w


def test_cheapest_keeps_the_bounds_and_says_when_none_can() -> None:
    flow = Flow(5_000.0, 300.0, 1_700.0, 1.0, 1.0)
    x, chunk, cost, watts = cheapest(PLANT, flow, 0.05, 0.03, 0.9, 0.6, 128.0, 512.0, 0.0)
    found = steady(PLANT, flow, x, chunk)
    assert found.mixed_s <= 0.05 and found.gap_s <= 0.03 and cost == watts == found.gpu_w
    assert cheapest(PLANT, flow, 0.01, 0.03, 0.9, 0.6, 128.0, 512.0, 0.0)[2] == inf
    assert cheapest(PLANT, flow, 0.09, 1.0, 0.9, 0.6, 128.0, 512.0, 0.0)[2] <= watts


@pytest.mark.parametrize(("each", "outputs"), [(300.0, 5_300.0), (4_000.0, 2_350.0)])
def test_no_clock_is_chosen_at_which_seats_or_cache_are_full(each: float, outputs: float) -> None:
    flow = Flow(500.0, outputs, each, 1.0, 1.0)
    x, chunk, _, _ = cheapest(PLANT, flow, 0.5, inf, 0.9, 0.6, 128.0, 512.0, 0.0)
    low = steady(PLANT, flow, 0.6, chunk)
    assert max(low.running / PLANT.max_sequences, low.running * each / PLANT.kv_limit_tokens) > 0.9
    at = steady(PLANT, flow, x, chunk)
    assert max(at.running / PLANT.max_sequences, at.running * each / PLANT.kv_limit_tokens) <= 0.9


def test_an_engine_whose_seats_fill_up_runs_faster_and_one_that_has_room_does_not() -> None:
    slow_enough = FREE._replace(tbt_s=0.5)
    some, full = Engine(), Engine()
    low, high = some.settle(running=120.0, to=slow_enough), full.settle(running=225.0, to=slow_enough)
    assert low == pytest.approx(0.6, abs=0.02) and high > 0.75


def test_short_prompts_that_would_come_late_get_the_engine_s_own_chunk() -> None:
    """A chunk that a tight bound on gaps makes small cuts a prompt of 300 tokens in two."""
    engine, tight = Engine(TUNE._replace(chunk_max=448.0)), Bounds(0.021, 0.042, inf, 0.6, 1.0, 1.0)
    memory.begin(engine.memory, PLANT, 300.0)
    engine.settle(running=8.0, to=tight)
    x, chunk = engine.memory[memory.S_X], engine.memory[memory.S_CHUNK]
    assert (x, chunk) == (1.0, PLANT.chunk_tokens)
    assert engine.step(running=8.0, to=tight) == TTFT


def test_what_short_prompts_leave_of_their_bound_is_spent_only_while_few_are_late() -> None:
    found = {}
    for slack in (1.0, 0.2):
        engine, to = Engine(), FREE._replace(ttft_s=0.1)
        memory.begin(engine.memory, PLANT, 300.0)
        engine.memory[memory.S_SLACK] = slack
        found[slack] = engine.settle(to=to)
    assert found[0.2] > found[1.0] + 0.1


def test_a_clock_above_what_the_power_limit_allows_makes_no_smaller_chunk_as_fast_as_the_engine_s_own() -> None:
    engine, to = Engine(), FREE._replace(ttft_s=0.05)
    memory.begin(engine.memory, PLANT, 300.0)
    engine.settle(to=to)
    engine.memory[memory.S_SLACK] = 0.1
    load = Load(10.0, 0.0, 17_000.0, 200.0, nan, 40.0, nan, nan, 1.0, nan)
    steps = int(0.4 / PLANT.x_step)
    own, smaller = (
        lowest(PLANT, TUNE, engine.memory, load, to, chunk, 0.6, steps) for chunk in (PLANT.chunk_tokens, 440.0)
    )
    assert own > 0 and smaller == -TTFT


def test_how_long_prompts_are_is_learned_from_the_first_hundred() -> None:
    row = [0.0] * memory.S_SIZE
    memory.begin(row, PLANT, 4_000.0)
    quiet = Load(1.0, 0.0, 1_000.0, 0.0, nan, nan, nan, nan, 1.0, nan)
    for k in range(100):
        learn.follow(row, quiet._replace(longest=300.0 if k % 2 else 100.0), 1.0 + k)
    assert 300.0 <= row[memory.S_LONG] < 700.0
    begun = row[memory.S_LONG]
    learn.follow(row, quiet._replace(longest=100.0), 200.0)
    assert row[memory.S_LONG] == pytest.approx(begun, rel=1e-3)  # from then on slowly


def test_a_price_on_those_who_wait_buys_a_shorter_gap_for_more_watts() -> None:
    flow = Flow(5_000.0, 300.0, 1_700.0, 1.0, 1.0)
    gaps, watts = [], []
    for price in (0.0, 20.0, 100.0, 1_000.0):
        x, chunk, cost, gpu_w = cheapest(PLANT, flow, 0.09, inf, 0.9, 0.6, 128.0, 512.0, price)
        found = steady(PLANT, flow, x, chunk)
        assert cost == pytest.approx(gpu_w + price * found.running)
        gaps.append(found.gap_s)
        watts.append(gpu_w)
    assert gaps == sorted(gaps, reverse=True) and watts == sorted(watts) and gaps[-1] < 0.9 * gaps[0]


def test_a_token_that_meets_less_prefill_has_a_shorter_gap() -> None:
    flow = Flow(5_000.0, 300.0, 1_700.0, 1.0, 1.0)
    half = steady(PLANT, flow._replace(meet=0.5), 0.8, 512.0)
    assert half.gap_s < steady(PLANT, flow, 0.8, 512.0).gap_s and half.decode_s < half.gap_s


def test_how_much_prefill_a_token_meets_is_learned_from_the_mean_gap() -> None:
    found = []
    for share in (0.3, 0.9):
        engine = Engine()
        for _ in range(12_000):
            x, chunk = engine.memory[memory.S_X], engine.memory[memory.S_CHUNK]
            room = learn.room_of(PLANT, chunk, 10.0)
            mixed, decode = (iteration_s(PLANT, x, 10.0, 17_000.0, fill) for fill in (room, 0.0))
            met = share * 2_000.0 * mixed / room
            engine.step(to=FREE._replace(gap_s=0.03), mean_s=1.0 / (met / mixed + (1.0 - met) / decode))
        found.append(engine.memory[memory.S_MEET])
    assert found == pytest.approx([0.3, 0.9], abs=0.1)


@pytest.mark.parametrize("slope", [0.01, 0.03])
def test_the_share_of_late_first_tokens_settles_at_one_in_a_hundred(slope: float) -> None:
    """Whatever a slack costs in lateness, counting finds the slack at which one in a hundred is late."""
    row = [0.0] * memory.S_SIZE
    memory.begin(row, PLANT, 2_000.0)
    quiet = Load(1.0, 0.0, 1_000.0, 0.0, nan, nan, nan, nan, 1.0, nan)
    late = total = 0.0
    for k in range(6_000):
        share = slope * row[memory.S_SLACK]
        learn.chance(TUNE, row, quiet._replace(firsts=2.0, late=2.0 * share))
        if k >= 3_000:
            late, total = late + 2.0 * share, total + 2.0
    assert late / total == pytest.approx(learn.LATE_SHARE, rel=0.05)


def test_unknown_counts_leave_the_slack_alone_and_no_count_leaves_its_range() -> None:
    row = [0.0] * memory.S_SIZE
    memory.begin(row, PLANT, 2_000.0)
    quiet = Load(1.0, 0.0, 1_000.0, 0.0, nan, nan, nan, nan, 1.0, nan)
    learn.chance(TUNE, row, quiet)
    assert row[memory.S_SLACK] == row[memory.S_ANSWER] == 1.0
    for firsts, late in ((1e6, 0.0), (1e6, 1e6)):
        learn.chance(TUNE, row, quiet._replace(firsts=firsts, late=late, answers=firsts, long=late))
        assert learn.SLACK_OWED <= row[memory.S_SLACK] <= learn.SLACK_MAX
        assert learn.SLACK_MIN <= learn.slack_of(row) <= learn.SLACK_MAX
        assert learn.ANSWER_MIN <= row[memory.S_ANSWER] <= learn.ANSWER_MAX


def test_counting_begins_tight_where_late_ones_are_counted_and_only_there() -> None:
    row = [0.0] * memory.S_SIZE
    memory.begin(row, PLANT, 2_000.0)
    quiet = Load(1.0, 0.0, 1_000.0, 0.0, nan, nan, nan, nan, 1.0, nan)
    learn.chance(TUNE, row, quiet._replace(firsts=0.0, late=0.0))
    assert row[memory.S_SLACK] == 1.0
    learn.chance(TUNE, row, quiet._replace(firsts=1.0, late=0.0))
    assert row[memory.S_SLACK] == pytest.approx(memory.SLACK_FIRST, rel=0.01)
    for _ in range(5_000):
        learn.chance(TUNE, row, quiet._replace(firsts=1.0, late=0.0))
    assert row[memory.S_SLACK] > 1.0  # begun once, not again and again


def test_what_clocks_could_not_prevent_is_made_up_for() -> None:
    """Late ones under the least slack are owed: over the whole, one in a hundred, though two thousand had six in it."""
    row = [0.0] * memory.S_SIZE
    memory.begin(row, PLANT, 2_000.0)
    quiet = Load(1.0, 0.0, 1_000.0, 0.0, nan, nan, nan, nan, 1.0, nan)
    late = total = 0.0
    for k in range(60_000):
        share = 0.06 if 10_000 <= k < 12_000 else 0.02 * learn.slack_of(row)
        learn.chance(TUNE, row, quiet._replace(firsts=1.0, late=share))
        if k >= 5_000:  # settled from its tight beginning
            late, total = late + share, total + 1.0
        if k == 12_000:
            assert row[memory.S_SLACK] < learn.slack_of(row) == learn.SLACK_MIN
    assert late / total == pytest.approx(learn.LATE_SHARE, rel=0.03)


def test_less_slack_means_a_higher_clock() -> None:
    tight = FREE._replace(ttft_s=0.35)
    shaped = {slack: Engine() for slack in (0.3, 3.0)}
    for slack, engine in shaped.items():
        engine.memory[memory.S_SLACK], engine.memory[memory.S_LONG] = slack, 4_600.0
        for _ in range(400):
            engine.step(to=tight)
    assert shaped[0.3].memory[memory.S_X] > shaped[3.0].memory[memory.S_X]


def _counting(**counts: float) -> list[float]:
    row = [0.0] * memory.S_SIZE
    memory.begin(row, PLANT, 2_000.0)
    quiet = Load(1.0, 0.0, 1_000.0, 0.0, nan, nan, nan, nan, 1.0, nan)
    for _ in range(40):
        learn.chance(TUNE, row, quiet._replace(**counts))
    return row


def test_what_is_left_is_the_least_of_first_tokens_gaps_and_answers() -> None:
    counts = {"firsts": 100.0, "late": 0.0, "gaps": 4_000.0, "slow": 0.0, "answers": 100.0, "long": 0.0}
    assert learn.spare(_counting(**counts)) > 1.0
    for late in ({"late": 5.0}, {"slow": 200.0}, {"long": 5.0}):
        assert learn.spare(_counting(**(counts | late))) < 0.3
    uncounted = _counting()
    assert learn.spare(uncounted) == learn.slack_of(uncounted) == 1.0


def test_late_first_tokens_take_room_from_long_prompts_too() -> None:
    """What a long prompt leaves of its bound counts as far as the slack allows; it once did not shrink at all."""
    found = []
    for slack in (3.0, 1.0, 0.05, 0.02):
        engine = Engine()
        for _ in range(300):
            engine.memory[memory.S_SLACK], engine.memory[memory.S_LONG] = slack, 10_000.0
            engine.step(to=FREE._replace(ttft_s=1.3))
        found.append(engine.memory[memory.S_X])
    assert found[0] == found[1] < found[2] - 0.1 < found[3] - 0.1


@pytest.mark.parametrize(("to", "queued", "why"), [(FREE, 40_000.0, WAIT), (FREE, 0.0, TBT)])
def test_default_clocks_go_with_the_engines_own_chunk(to: Bounds, queued: float, why: int) -> None:
    """A bound on gaps allows 128 tokens or none at all: default clocks with those would bring every prompt late."""
    tight = to._replace(tbt_s=0.026 if why == WAIT else 0.020)
    engine = Engine()
    engine.settle(to=tight)
    assert chunk_at(PLANT, TUNE, 1.0, 11.0, 17_000.0, tight.tbt_s) < PLANT.chunk_tokens
    assert engine.step(to=tight, queued=queued) == why
    assert engine.memory[memory.S_X] == 1.0 and engine.memory[memory.S_CHUNK] == PLANT.chunk_tokens
