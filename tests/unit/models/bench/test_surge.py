"""A load that becomes two or three times as much within minutes, and one of many short prompts: nobody waits long."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from models.bench import state as st
from models.bench.load import Curve, Lengths, Stream, draw
from models.bench.protocol import Reference, b0, strategy
from models.bench.run import Case, Outcome, mean_s, run
from models.control.predict import plant_of
from models.control.profiles import LLAMA_70B_H100X4

PLANT = plant_of(LLAMA_70B_H100X4)
NONE = Reference(0.6, 0.043, 6.0, 0.02)  # absolute bounds ask nobody


def _stream(rates: list[tuple[float, float]], prompt: int, output: int, seed: int = 3) -> Stream:
    """Seconds and requests/s, one after the other, as a Poisson stream of equal requests."""
    rng, begin, arrivals = np.random.default_rng(seed), 0.0, []
    for seconds, rate in rates:
        arrivals.append(begin + np.sort(rng.random(rng.poisson(rate * seconds)) * seconds))
        begin += seconds
    arrival = np.concatenate(arrivals)
    sizes = (np.full(len(arrival), size, np.int32) for size in (prompt, output))
    return Stream(arrival, *sizes, begin)


def _missed(found: Outcome) -> float:
    return found.total(st.H_MISSED) / found.total(st.H_REQUESTS)


@pytest.mark.parametrize("calm", [7.0, 10.0])
def test_a_surge_before_a_day_is_known_is_carried(calm: float) -> None:
    stream = _stream([(2_400.0, calm), (900.0, 20.0), (300.0, calm)], 1_000, 200)
    found = run(Case(stream, 6, PLANT, PLANT), strategy("aggressive", NONE))
    assert _missed(found) < 0.001
    assert found.gpu_j.sum() < 0.6 * run(Case(stream, 6, PLANT, PLANT), b0()).gpu_j.sum()


def test_seats_that_fill_up_under_short_prompts_make_nobody_wait() -> None:
    """A known load that swells by half in two hours: at the lowest clock that keeps gaps of 92 ms, seats fill up."""
    share, prompt, output = np.array([0.0, 1.0]), np.array([100.0, 300.0]), np.array([50.0, 300.0])
    times = np.array([0.0, 172_800.0, 180_000.0])
    curve = Curve(times, np.array([60.0, 60.0, 92.0]), Lengths(share, prompt, share, output), 0.15)
    stream = draw(curve, from_s=172_800.0, to_s=180_000.0, seed=1)
    found = run(Case(stream, 13, PLANT, PLANT, history=curve, start_s=172_800.0), strategy("aggressive", NONE))
    assert _missed(found) < 0.001
    assert found.quantile_s("tbt", 0.99) > 0.08  # and clocks are low all the same


def test_bursts_that_lower_clocks_turn_into_misses_bring_the_whole_fleet_back() -> None:
    """Sixty requests at one moment, every seven minutes: always on they are served within two seconds."""
    rng = np.random.default_rng(7)
    calm = _stream([(10_800.0, 2.0)], 1_000, 200)
    arrival = np.concatenate([calm.arrival_s, *(np.full(60, 60.0 + 420.0 * k) for k in range(25))])
    arrival.sort(kind="stable")
    prompt, output = (rng.lognormal(np.log(size), 0.8, len(arrival)).astype(np.int32) + 1 for size in (1_000, 200))
    case = Case(Stream(arrival, prompt, output, calm.seconds), 4, PLANT, PLANT)
    zero, found = run(case, b0()), run(case, strategy("aggressive", NONE))
    assert zero.quantile_s("ttft", 0.99) < 2.0
    late = [found.quantile_s("ttft", 0.99, hour) > 2.0 for hour in range(3)]
    assert sum(late) <= 1 and _missed(found) < _missed(zero) + 0.007
    assert found.gpu_j.sum() < 0.85 * zero.gpu_j.sum()


@pytest.mark.parametrize("name", ["conservative", "balanced"])
def test_long_prompts_without_a_pause_keep_their_bounds_in_percent(name: str) -> None:
    """Nothing but prefill is late here, and what is late has to take the room away that clocks have."""
    rng, calm = np.random.default_rng(5), _stream([(21_600.0, 3.0)], 1, 1)
    prompt = rng.lognormal(np.log(6_000), 0.3, len(calm.arrival_s)).astype(np.int32)
    output = rng.lognormal(np.log(60), 0.5, len(calm.arrival_s)).astype(np.int32) + 1
    case = Case(Stream(calm.arrival_s, prompt, output, calm.seconds), 4, PLANT, PLANT)
    zero = run(case, b0())
    base = Reference(*(zero.quantile_s(m, 0.99) for m in ("ttft", "tbt", "e2e")), mean_s(zero.hist[1].sum(axis=0)))
    found = run(case, strategy(name, base))
    assert found.quantile_s("ttft", 0.99) < 1.06 * zero.quantile_s("ttft", 0.99)
    assert found.quantile_s("tbt", 0.99) < 1.05 * zero.quantile_s("tbt", 0.99)
