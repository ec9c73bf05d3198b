"""Parts of the slow step alone: counters that start anew, learning that must not learn from what was not done."""

from __future__ import annotations

import random

import pytest

from models.control.profiles import TWIN_STACK
from models.policy.setpoints import BLOCK_S, SetPointLearner, offered
from models.policy.strategies import STRATEGIES
from streams.contract.records import EngineReading, Mode
from streams.jobs.actuation_latency import LatencyPools, Pool
from streams.jobs.actuation_learning import Learning
from streams.jobs.actuation_load import FORGET_S, LoadBook, PoolLoad

POOL = Pool(TWIN_STACK, "chat")


def _reading(second: float, requests: int | None, *, name: str = "e1", **more: object) -> EngineReading:
    fields: dict[str, object] = {"running": 8, "kv_tokens": 8000, "prompt_tokens_total": None} | more
    if requests is not None:
        fields |= {"prompt_tokens_total": requests * 1000, "generation_tokens_total": requests * 100}
    return EngineReading(
        engine=name,
        kind="twin",
        stack=TWIN_STACK,
        workload="chat",
        gpu_uuid=(f"{name}-0",),
        ts_ns=int(second * 1e9),
        requests_total=requests,
        **fields,  # type: ignore[arg-type]  # fields of the record
    )


def _book(readings: list[EngineReading]) -> LoadBook:
    book = LoadBook()
    for one in readings:
        book.take("n1", one, one.ts_ns / 1e9, side="controlled", watts=[400.0], quality="measured")
    return book


def test_a_counter_that_starts_anew_counts_from_there() -> None:
    book = _book([_reading(1, 1_000), _reading(2, 1_010), _reading(3, 0), _reading(8, 20)])
    load = book.step(8.0, fresh_s=30.0)[POOL]
    assert load.rate == pytest.approx(4.0)
    assert load.prompt_tokens == pytest.approx(1000.0) and load.output_tokens == pytest.approx(100.0)
    assert load.quality == "measured" and load.power_w == {"controlled": 400.0}


def test_engines_without_counters_are_taken_to_be_like_the_others() -> None:
    known = [_reading(1, 0), _reading(6, 20)]
    blind = [_reading(1, None, name="e2"), _reading(6, None, name="e2")]
    load = _book([*known, *blind]).step(6.0, fresh_s=30.0)[POOL]
    assert (load.serving, load.known) == (2, 1) and load.rate == pytest.approx(8.0)


@pytest.mark.parametrize("second", [1.0, 1.0 + 1e-9])
def test_no_time_and_no_sense_is_no_rate(second: float) -> None:
    load = _book([_reading(1, 0), _reading(second, 2**62)]).step(1.0, fresh_s=30.0)[POOL]
    assert load.rate is None and load.load is None


def test_negative_states_are_not_believed_and_the_gone_are_forgotten() -> None:
    book = _book([_reading(1, 0, running=-5), _reading(6, 20, running=-5)])
    load = book.step(6.0, fresh_s=30.0)[POOL]
    assert load.kv_each is None and load.load is None and load.rate == pytest.approx(4.0)
    assert book.step(100.0, fresh_s=30.0)[POOL].serving == 0
    assert book.step(7.0 + FORGET_S, fresh_s=30.0) == {}


@pytest.fixture(scope="module")
def proved() -> list[list[object]]:
    """A log in which point 2 is surely cheaper."""
    learner = SetPointLearner(STRATEGIES["ml-driven"], rng=random.Random(4))
    rng, now_s, arm = random.Random(11), 0.0, 0
    for _ in range(2_600):
        now_s += BLOCK_S / 10
        cost = [0.80, 0.80, 0.72, 0.85, 0.80][arm] + rng.gauss(0.0, 0.01)
        arm = learner.step(now_s, [0.8] * 5, 0.5, cost, explore=True).arm
    return [list(row) for row in learner.rows]


@pytest.mark.parametrize("mode", ["observe", "recommend", "on"])
def test_an_open_gate_acts_but_only_what_was_done_is_learned_from(mode: Mode, proved: list[list[object]]) -> None:
    strategy = STRATEGIES["ml-driven"]
    learning = Learning(strategy, mode, LatencyPools(strategy, window_s=120.0), seed=lambda _: 3)
    learning.recall({f"{TWIN_STACK}\nchat": proved})
    learning._prices = lambda pool, load: ([0.8] * len(offered(strategy)), 0.5)  # type: ignore[method-assign]
    watts = {"controlled": 320.0, "holdout": 400.0}
    load = PoolLoad(6, 6, 6, 3, 12.0, 1000.0, 100.0, 1000.0, None, watts, 24, "simulated")  # type: ignore[arg-type]
    points = set()
    for k in range(120):
        learning.step(1e9 + k * BLOCK_S / 10, POOL, load)
        points.add(learning.within(POOL)[0].power_ceiling_ratio)
    told = learning.told()[0]
    assert told["gate"]["open"] and told["acting"] and 0.90 in points
    assert (learning.rows > len(proved)) == (mode == "on")
