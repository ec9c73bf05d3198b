"""A load that becomes two or three times as much within minutes, and one of many short prompts: nobody waits long."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from models.bench import state as st
from models.bench.load import Curve, Lengths, Stream, draw
from models.bench.protocol import Reference, b0, strategy
from models.bench.run import Case, Outcome, run
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
