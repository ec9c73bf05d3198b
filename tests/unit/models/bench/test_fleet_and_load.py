"""The fleet rule, the streams that are drawn or repaired, and the figures that are made of a run's counters."""

from __future__ import annotations

import re
from argparse import Namespace

import numpy as np
import pytest

from agents.cli.bench_inputs import workload
from models.bench import state as st
from models.bench.compare import busiest_s, cell, hours_outside, interval, mean_of, truth_of, worst_hour
from models.bench.fleet import curve_work, scale_for, size, stream_work
from models.bench.load import Curve, Lengths, Stream, draw, recorded
from models.bench.plantparts import Node
from models.bench.run import Outcome, mean_s, quantile
from models.bench.spans import check_span

PLANT = truth_of("mid")
UNIT = Lengths(np.array([0.0, 1.0]), np.array([100.0, 300.0]), np.array([0.0, 1.0]), np.array([10.0, 30.0]))


@pytest.mark.parametrize(("name", "replicas"), [("azure-conv-2024", 12), ("azure-code-2024", 17)])
def test_fleet_of_the_azure_weeks_at_half_scale(name: str, replicas: int) -> None:
    args = Namespace(workload=name, requests=None, rates=None, lengths=None)
    curve = workload(args, kv_limit=4e5).curve
    assert curve is not None
    scale = scale_for(curve, PLANT)
    assert scale == 0.5
    assert size(curve_work(curve.scaled(scale)), PLANT) == replicas


def test_fleet_grows_with_the_peak_and_never_falls_below_four() -> None:
    assert size(0.0, PLANT) == 4
    assert size(1e5, PLANT) == pytest.approx(size(2e5, PLANT) / 2, abs=1)
    burst = Stream(np.array([0.0, 599.0, 5_000.0]), np.full(3, 600, np.int32), np.full(3, 150, np.int32), 5_001.0)
    assert stream_work(burst) == pytest.approx(2 * 1_200 / 600)


@pytest.mark.parametrize("seed", range(5))
def test_peak_of_a_recording_does_not_depend_on_where_ten_minutes_are_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.integers(0, 64 * 7_200, 3_000) / 64.0)  # shifts of them are exact
    prompt, output = (rng.integers(1, 4_000, 3_000).astype(np.int32) for _ in range(2))
    prompt[(arrival > 2_000.0) & (arrival < 2_900.0)] += 9_000
    work = prompt + 4.0 * output
    peak = stream_work(Stream(arrival, prompt, output, 7_200.0))
    fixed = []
    for shift in (0.0, 1.0, 123.25, 300.0, 599.5, 86_400.0 * 30):
        moved = arrival + shift
        assert stream_work(Stream(moved, prompt, output, 7_200.0 + shift)) == peak
        fixed.append(np.bincount((moved // 600.0).astype(int), weights=work).max() / 600.0)
    assert peak >= max(fixed) > min(fixed)
    slow = max(work[(arrival >= t) & (arrival < t + 600.0)].sum() for t in arrival)
    assert peak == slow / 600.0


def test_one_burst_gives_one_fleet_wherever_it_lies() -> None:
    sizes = set()
    for begin in (0.0, 300.0, 450.0):
        arrival = np.concatenate([[0.0], begin + 600.0 + np.arange(0.0, 300.0, 0.05), [5_000.0]])
        many = len(arrival)
        stream = Stream(arrival, np.full(many, 9_000, np.int32), np.full(many, 300, np.int32), 5_001.0)
        sizes.add(size(stream_work(stream), PLANT))
    assert len(sizes) == 1 and sizes.pop() > 4


def test_same_seed_same_stream_with_the_curves_rate_and_lengths() -> None:
    curve = Curve(np.array([0.0, 3_600.0]), np.array([4.0, 8.0]), UNIT, 0.1)
    one, two, other = (draw(curve, from_s=0.0, to_s=3_600.0, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.arrival_s, two.arrival_s) and np.array_equal(one.prompt, two.prompt)
    assert len(one.arrival_s) != len(other.arrival_s)
    assert len(one.arrival_s) == pytest.approx(6.0 * 3_600, rel=0.05)
    assert np.all(np.diff(one.arrival_s) >= 0.0)
    assert one.prompt.mean() == pytest.approx(200, rel=0.03) and one.output.mean() == pytest.approx(20, rel=0.03)


def test_modulation_makes_minutes_burstier_than_a_poisson_stream() -> None:
    def spread(sigma: float) -> float:
        curve = Curve(np.array([0.0, 36_000.0]), np.array([30.0, 30.0]), UNIT, sigma)
        arrival = draw(curve, from_s=0.0, to_s=36_000.0, seed=3).arrival_s
        counts = np.bincount((arrival // 60).astype(int), minlength=600)
        return float(counts.std() / counts.mean())

    assert spread(0.0) == pytest.approx(1 / np.sqrt(1_800), rel=0.15)
    assert spread(0.15) == pytest.approx(0.15 * 0.86, rel=0.2)


def test_recording_is_repaired_and_every_repair_is_counted() -> None:
    t = np.array([5.0, 3.0, np.nan, 4.0, 100.0, 6.0])
    prompt = np.array([10.0, 0.0, 5.0, 400_000.0, 7.0, -4.0])
    output = np.array([1.0, 2.0, 5.0, 1.0, 99_999.0, 0.0])
    found = recorded(t, prompt, output, kv_limit=400_000.0)
    assert found.notes == {
        "rows_unreadable": 1,
        "rows_with_negative_tokens": 1,
        "clock_went_back": 1,
        "prompt_raised_to_1": 1,
        "output_clipped": 1,
        "refused_over_kv_limit": 1,
    }
    assert found.arrival_s.tolist() == [0.0, 2.0, 97.0]
    assert found.prompt.tolist() == [1, 10, 7]


@pytest.mark.parametrize(
    ("t", "words"),
    [
        (
            [5.0, 1e12, 7.0],
            "the trace spans 11,574,074.1 days, over the bound of 60; timestamps are in seconds, so divide "
            "milliseconds by 1,000, or take out what lies apart (the widest gap is from 7 to 1e+12)",
        ),
        ([0.0, 500 * 86_400.0, 1_000 * 86_400.0], "the trace spans 1,000.0 days, over the bound of 60"),
        ([-1e308, 1e308], "the trace spans inf days"),
        ([1.7e9, 1.7e9 + 7_000 * 86_400.0], "the trace spans 7,000.0 days"),
    ],
)
def test_times_too_far_apart_are_refused_before_anything_is_as_long(t: list[float], words: str) -> None:
    """Milliseconds, one row of a broken clock, years: each would ask for arrays of their length."""
    with pytest.raises(ValueError, match=re.escape(words)):
        recorded(np.array(t), np.full(len(t), 9.0), np.full(len(t), 9.0), kv_limit=4e5)


def test_sixty_days_of_epoch_seconds_are_taken() -> None:
    check_span(1.7e9 + np.array([0.0, 60 * 86_400.0]), "x")


LONG = Lengths(np.array([0.0, 1.0]), np.array([1.0, 8e12]), np.array([0.0, 1.0]), np.array([0.0, 40_000.0]), 400_000.0)
HALF = Lengths(UNIT.prompt_share, np.array([0.0, 800.0]), UNIT.output_share, np.array([1.0, 201.0]), 500.0)


def test_a_drawn_request_is_refused_and_counted_as_a_recorded_one() -> None:
    found = draw(Curve(np.array([0.0, 600.0]), np.array([9.0, 9.0]), HALF, 0.0), from_s=0.0, to_s=600.0, seed=4)
    whole = len(found.arrival_s) + found.notes["refused_over_kv_limit"]
    assert found.notes["refused_over_kv_limit"] == pytest.approx(0.5 * whole, rel=0.05)  # prompt + output over 500
    assert (found.prompt + found.output <= 500).all() and len(found.prompt) == len(found.arrival_s)
    brought = np.array([found.prompt.sum(), found.output.sum()]) / whole
    assert brought == pytest.approx(HALF.means(), rel=0.04)  # so the fleet is made for what is served
    assert not HALF.all_served and UNIT.all_served


def test_token_counts_beyond_an_integer_are_refused_not_turned_negative() -> None:
    found = draw(Curve(np.array([0.0, 600.0]), np.array([9.0, 9.0]), LONG, 0.0), from_s=0.0, to_s=600.0, seed=4)
    assert found.notes["refused_over_kv_limit"] + len(found.arrival_s) == pytest.approx(5_400, rel=0.1)
    assert found.notes["output_clipped"] > 2_000 and (found.prompt > 0).all() and (found.output > 0).all()
    with pytest.raises(ValueError, match="only 0 requests fit the KV limit of 400000 tokens"):
        recorded(np.arange(3.0), np.full(3, 5e12), np.full(3, 9.0), kv_limit=400_000.0)


def _outcome(*, gpu_j: float, ttft_ms: tuple[float, float], missed: float = 0.0) -> Outcome:
    """Two hours of 1,000 requests each, all with the given first token."""
    hours = np.zeros((2, st.H_COLUMNS))
    hours[:, st.H_GPU_J], hours[:, st.H_REQUESTS], hours[:, st.H_OUTPUT] = gpu_j / 8, 1_000.0, 20_000.0
    hours[0, st.H_MISSED] = missed
    hist = np.zeros((3, 2, st.BINS))
    for hour, ms in enumerate(ttft_ms):
        for metric in range(3):
            hist[metric, hour, int(np.log(ms) / st.BIN_WIDTH)] = 1_000.0
    hours[:, st.H_ON_S] = 3.0 * 3_600.0, 3.0 * 1_800.0
    return Outcome("x", hours, hist, 4.0, Node(), 1, 0.0, 0, 0.0, span_s=5_400.0)


def test_saving_change_and_worst_hour_are_what_their_names_say() -> None:
    zero = _outcome(gpu_j=1_000.0, ttft_ms=(50.0, 50.0))
    mine = _outcome(gpu_j=600.0, ttft_ms=(55.0, 2_500.0), missed=20.0)
    found = cell(mine, zero, zero, zero)
    assert found["gpu_saving_ratio"]["b0"] == pytest.approx(0.4)
    assert found["joules_per_request"] == pytest.approx(0.3)
    assert found["joules_per_token"] == pytest.approx(0.015)
    assert found["missed_ratio"] == pytest.approx(0.01)
    assert found["mean_replicas"] == pytest.approx(3.0)  # the second hour is half an hour
    assert found["worst_hour"]["at"] == 1
    assert found["worst_hour"]["p99_ttft_ms"] == pytest.approx(2_500.0, rel=0.01)
    assert hours_outside(mine) == 1 and hours_outside(zero) == 0
    assert found["reference_share"] == {"gpu": None, "wall": None}  # a reference that saves nothing has no share


def test_an_hour_with_too_few_requests_is_not_judged() -> None:
    mine = _outcome(gpu_j=600.0, ttft_ms=(55.0, 9_000.0))
    mine.hours[1, st.H_REQUESTS] = 99
    assert worst_hour(mine)["at"] == 0
    assert hours_outside(mine) == 0


def test_means_and_intervals_over_seeds_and_kappas() -> None:
    zero = _outcome(gpu_j=1_000.0, ttft_ms=(50.0, 50.0))
    cells = [cell(_outcome(gpu_j=j, ttft_ms=(55.0, 60.0)), zero, zero, None) for j in (500.0, 600.0)]
    found = mean_of(cells)
    assert found["gpu_saving_ratio"]["b0"] == pytest.approx(0.45)
    seeds = interval(cells, cells, False)
    assert seeds["gpu"][0] < 0.45 < seeds["gpu"][1]
    assert interval(cells, cells, True) == {
        "over": "kappa",
        "gpu": [pytest.approx(0.4), pytest.approx(0.5)],
        "wall": seeds_range(cells),
    }
    assert interval(cells[:1], cells[:1], False)["gpu"] is None


def seeds_range(cells: list[dict[str, dict[str, float]]]) -> list[object]:
    values = [c["wall_saving_ratio"]["b0"] for c in cells]
    return [pytest.approx(min(values)), pytest.approx(max(values))]


def test_quantile_and_mean_of_a_histogram() -> None:
    counts = np.zeros(st.BINS)
    counts[700], counts[900] = 99.0, 1.0
    assert quantile(counts, 0.5) == pytest.approx(np.exp(700.5 * st.BIN_WIDTH) * 1e-3, rel=0.003)
    assert quantile(counts, 0.999) == pytest.approx(np.exp(900.9 * st.BIN_WIDTH) * 1e-3, rel=0.003)
    assert mean_s(counts) == pytest.approx(0.99 * np.exp(700.5 * 0.005) * 1e-3 + 0.01 * np.exp(900.5 * 0.005) * 1e-3)


def test_reference_hours_are_the_busiest_before_the_judged_days() -> None:
    t = np.arange(0.0, 5 * 86_400.0, 600.0)
    rate = np.where((t >= 100_000.0) & (t < 130_000.0), 9.0, 1.0) + np.where(t > 300_000.0, 50.0, 0.0)
    begin = busiest_s(Curve(t, rate, UNIT, 0.1), 3 * 86_400.0, 6 * 3_600.0)
    assert begin + 600.0 >= 100_000.0 and begin + 6 * 3_600.0 <= 131_000.0
