"""The recommendation's arithmetic: monotone in clock and cap, inside the arbiter's bounds, silent where blind."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from models.control.forecast import LoadNow
from models.control.profiles import LLAMA_70B_H100X4, TWIN_STACK
from models.policy.arbiter import Device
from models.policy.extrapolation import beyond, mark
from models.policy.outlook import outlook
from models.policy.recommend import GroupFacts, Wish, recommend
from models.policy.strategies import STRATEGIES

LOAD = LoadNow(running=10.0, waiting_tokens=0.0, kv_tokens=12_000.0, prompt_tokens_per_s=2_000.0)
FACTS = GroupFacts(
    stack=TWIN_STACK,
    workload="chat",
    device=Device(1980, 700.0, 200.0, 700.0),
    loads=[LOAD, LoadNow(6.0, 0.0, 8_000.0, 1_200.0)],
    gpus=8,
    power_w=440.0,
    holdout_w=470.0,
    holdout_p99_ms={"tbt": 45.0, "ttft": 650.0, "e2e": 14_000.0},
    holdout_samples={"tbt": 5000, "ttft": 500, "e2e": 500},
    p99_ms={"tbt": 46.0, "ttft": 660.0, "e2e": 14_100.0},
    strategy_in_force=None,
)


def test_a_higher_clock_is_faster_and_draws_more() -> None:
    found = [outlook(LLAMA_70B_H100X4, x / 100, LOAD, 700.0) for x in range(60, 101, 5)]
    for low, high in pairwise(found):
        assert low.power_w < high.power_w
        assert low.tbt_ms > high.tbt_ms and low.ttft_ms > high.ttft_ms and low.e2e_ms > high.e2e_ms


def test_a_limit_only_slows_and_never_exceeds_itself() -> None:
    free = outlook(LLAMA_70B_H100X4, 1.0, LOAD, 700.0)
    held = outlook(LLAMA_70B_H100X4, 1.0, LOAD, 400.0)
    assert held.power_w <= 400.0 < free.power_w
    assert held.tbt_ms > free.tbt_ms


def test_an_idle_engine_draws_idle_watts() -> None:
    idle = outlook(LLAMA_70B_H100X4, 1.0, LoadNow(0.0, 0.0, 0.0, 0.0), 700.0)
    assert idle.power_w == pytest.approx(115.0)  # loaded and idle at full clock, as docs/models.md states


def test_what_the_twin_measured_is_about_what_is_expected() -> None:
    """docs/models.md: 7.4 % under +3 to +5 % bounds, 40.6 % under the absolute ones at a floor of 0.60."""
    change = {name: recommend(FACTS, STRATEGIES[name], Wish()).expected_change_ratio for name in STRATEGIES}
    assert -0.11 < (change["balanced"] or 0) < -0.04
    assert -0.50 < (change["aggressive"] or 0) < -0.30
    assert change["balanced"] == change["ml-driven"]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("cap", [None, 200.0, 350.0, 600.0, 690.0, 2000.0])
def test_expected_latencies_keep_the_bounds_and_grants_stay_inside_the_device(name: str, cap: float | None) -> None:
    advice = recommend(FACTS, STRATEGIES[name], Wish(cap))
    if not advice.feasible:
        assert advice.power_cap_w is None and advice.expected_w is None
        return
    for metric, bound in advice.bound_ms.items():
        expected = advice.expected_p99_ms[metric]
        assert bound is None or (expected is not None and expected <= bound)
    assert advice.min_sm_mhz is not None and advice.expected_sm_mhz is not None
    assert 0.6 * 1980 <= advice.min_sm_mhz <= advice.expected_sm_mhz <= 1980
    assert advice.power_cap_w is None or 200.0 <= advice.power_cap_w <= 700.0


def test_the_lowest_cap_that_is_named_holds_and_a_lower_one_does_not() -> None:
    told = recommend(FACTS, STRATEGIES["balanced"], Wish(250.0))
    assert not told.feasible
    least = float(told.reason.split("; ")[1].split(" W")[0])
    assert recommend(FACTS, STRATEGIES["balanced"], Wish(least)).feasible
    assert not recommend(FACTS, STRATEGIES["balanced"], Wish(least - 10)).feasible


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stack": "unknown/stack"}, "Nothing is known of stack unknown/stack (no profile)"),
        ({"loads": [None, None]}, "None of the 2 engines reports its load"),
        ({"device": Device()}, "The highest clock of this device is unknown"),
        ({"holdout_samples": {"tbt": 10}}, "The hold-out has 10 of 1000 samples of time between tokens"),
        ({"holdout_p99_ms": {}}, "The hold-out has 5000 of 1000 samples"),
        ({"loads": []}, "No engine reports latency on these GPUs"),
    ],
)
def test_where_it_is_blind_it_says_why_and_names_no_number(change: dict[str, object], words: str) -> None:
    advice = recommend(replace(FACTS, **change), STRATEGIES["balanced"], Wish())  # type: ignore[arg-type]
    assert words in advice.reason
    assert (advice.expected_w, advice.expected_change_ratio, advice.confidence) == (None, None, "none")
    assert set(advice.expected_p99_ms.values()) == {None}


def test_gpus_without_an_engine_may_be_capped_and_only_lose_watts() -> None:
    advice = recommend(replace(FACTS, loads=[], power_w=90.0, holdout_w=None), STRATEGIES["balanced"], Wish(300.0))
    assert (advice.power_cap_w, advice.expected_w, advice.max_sm_mhz) == (300.0, 90.0, None)
    assert advice.expected_p99_ms["tbt"] is None


def test_confidence_is_high_only_where_the_measurement_agrees() -> None:
    in_force = replace(FACTS, strategy_in_force="balanced")
    expected = recommend(FACTS, STRATEGIES["balanced"], Wish()).expected_w
    assert expected is not None
    agrees = recommend(replace(in_force, power_w=expected * 1.04), STRATEGIES["balanced"], Wish())
    differs = recommend(replace(in_force, power_w=expected * 1.20), STRATEGIES["balanced"], Wish())
    assert (agrees.confidence, differs.confidence) == ("high", "low")
    assert "16.7 % from what the group draws now" in differs.confidence_reason
    assert recommend(FACTS, STRATEGIES["balanced"], Wish()).confidence == "medium"


def test_without_a_holdout_only_an_uncontrolled_group_is_its_own_baseline() -> None:
    alone = replace(FACTS, holdout_w=None)
    assert recommend(alone, STRATEGIES["balanced"], Wish()).baseline_w == 440.0
    controlled = recommend(replace(alone, strategy_in_force="balanced"), STRATEGIES["balanced"], Wish())
    assert controlled.baseline_w is None and controlled.expected_w is None
    assert controlled.expected_change_ratio is not None and controlled.confidence == "low"


def test_replicas_are_counted_and_said() -> None:
    few = recommend(FACTS, STRATEGIES["balanced"], Wish(min_replicas=5))
    assert few.replicas == 2
    assert "2 replicas, fewer than the 5 asked for; this release starts none" in few.reason


def test_what_leaves_the_measured_range_is_marked_and_trusted_little() -> None:
    """A cap that holds the clock below 60 % of the highest, and more sequences than anybody measured."""
    loose = replace(FACTS, holdout_p99_ms={"tbt": 20.0, "ttft": 200.0, "e2e": 4_000.0})
    capped = recommend(loose, STRATEGIES["aggressive"], Wish(260.0))
    assert capped.feasible and capped.confidence == "low" and capped.expected_w is not None
    assert capped.confidence_reason.startswith("Extrapolated: clocks down to ")
    crowd = replace(loose, loads=[LoadNow(1_000.0, 0.0, 200_000.0, 500.0)])
    told = recommend(crowd, STRATEGIES["aggressive"], Wish())
    assert "1000 sequences at once, and at most 898 were measured" in told.confidence_reason
    assert "Extrapolated" not in recommend(FACTS, STRATEGIES["balanced"], Wish()).confidence_reason


def test_a_stack_without_a_measured_range_is_marked_by_its_clock_only() -> None:
    assert beyond("some/stack", running=[5_000.0], clock_ratios=[0.8]) == []
    assert beyond("some/stack", running=[], clock_ratios=[0.6, 0.59]) != []
    assert mark([]) == "" and mark(["a", "b"]) == "Extrapolated: a; b."
