"""The table of strategies, the hold-out, the arbitration and the guard, with their laws as properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.policy import guard, holdout
from models.policy.arbiter import Device, Facts, Grant, decide, outside_rows, within
from models.policy.devices import DEVICES, device
from models.policy.holdout import Group
from models.policy.strategies import AIM, DEEPEST_SM_RATIO, STRATEGIES, Bound, strategy

H100 = DEVICES["NVIDIA H100 80GB HBM3"]
BALANCED = STRATEGIES["balanced"]
READY = Facts(device=H100, engine="e1")
sentences = st.none() | st.sampled_from(["because", "so"])
devices = st.builds(
    Device,
    sm_max_mhz=st.none() | st.integers(300, 3000),
    limit_default_w=st.none() | st.floats(300, 1500),
    limit_min_w=st.none() | st.floats(50, 300),
    limit_max_w=st.none() | st.floats(300, 1500),
)
facts = st.builds(
    Facts,
    device=devices,
    engine=st.none() | st.just("e1"),
    holdout=st.booleans(),
    canary=st.booleans(),
    blocked=sentences,
    frozen=sentences,
    paused=sentences,
    cap_w=st.none() | st.floats(1, 3000),
    cap_reason=st.just("hot aisle"),
    latency=sentences,
    budget_w=st.none() | st.floats(1, 3000),
    training=st.booleans(),
)
names = st.sampled_from(sorted(STRATEGIES))


def test_the_table_of_design_section_6() -> None:
    rows = {name: (s.tbt.ratio, s.ttft.ratio, s.e2e.ratio, s.reference_saving_ratio) for name, s in STRATEGIES.items()}
    assert rows == {
        "conservative": (1.05, 1.05, 1.05, 0.15),
        "balanced": (1.05, 1.05, 1.10, 0.25),
        "ml-driven": (1.05, 1.05, 1.10, 0.35),
        "aggressive": (None, None, None, 0.45),
    }
    assert (STRATEGIES["aggressive"].ttft.slo_ms, STRATEGIES["aggressive"].tbt.slo_ms) == (2000.0, 100.0)
    assert all(s.required() == ("tbt", "ttft") for s in STRATEGIES.values())
    assert all(s.sm_floor_ratio >= DEEPEST_SM_RATIO for s in STRATEGIES.values())


def test_an_unknown_strategy_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'greedy' does not exist; one of conservative, balanced"):
        strategy("greedy")


def test_targets_need_a_hold_out_unless_they_are_absolute() -> None:
    assert Bound(ratio=1.05).target_ms(None) is None
    assert Bound(ratio=1.05).target_ms(40.0) == pytest.approx(42.0 * AIM)
    assert Bound(ratio=1.05).limit_ms(40.0) == pytest.approx(42.0)
    assert Bound(slo_ms=100.0).target_ms(None, 0.9) == pytest.approx(90.0 * AIM)
    assert Bound().target_ms(40.0) is None


@given(names, st.floats(1, 1e4), st.floats(0.5, 1.0))
def test_a_margin_never_widens_a_target(name: str, p99: float, margin: float) -> None:
    for bound in (STRATEGIES[name].tbt, STRATEGIES[name].ttft, STRATEGIES[name].e2e):
        wide, tight = bound.target_ms(p99), bound.target_ms(p99, margin)
        assert (wide is None) == (tight is None)
        assert wide is None or tight is None or tight <= wide


@given(facts, names)
def test_every_grant_is_within_the_device_and_has_one_reason(one: Facts, name: str) -> None:
    chosen = STRATEGIES[name]
    grant = decide(one, chosen)
    assert grant.reason.strip() and "\n" not in grant.reason
    top = one.device.sm_max_mhz
    assert (grant.min_sm_mhz is None) == (grant.max_sm_mhz is None)
    if grant.max_sm_mhz is not None and grant.min_sm_mhz is not None:
        assert one.engine is not None and top is not None
        assert chosen.sm_floor_ratio * top <= grant.min_sm_mhz <= grant.max_sm_mhz == top
    if grant.max_power_w is not None:
        assert grant.max_power_w >= (one.device.limit_min_w or 0.0)
        assert grant.max_power_w <= (one.device.limit_default_w or one.device.limit_max_w or grant.max_power_w)


@given(facts, names)
def test_an_anomaly_never_lowers_a_value(one: Facts, name: str) -> None:
    """With a freeze a GPU has what it had without, more, or its own default: never a lower bound."""
    chosen = STRATEGIES[name]
    calm, frozen = decide(replace(one, frozen=None), chosen), decide(replace(one, frozen="anomaly"), chosen)
    assert frozen.max_sm_mhz is None
    assert frozen.max_power_w is None or (calm.max_power_w is not None and frozen.max_power_w >= calm.max_power_w)


@given(facts, names)
def test_an_anomaly_never_undoes_a_human_s_hold(one: Facts, name: str) -> None:
    """What a human capped or paused stays so under any score: a freeze would otherwise raise the power."""
    chosen = STRATEGIES[name]
    calm, frozen = decide(replace(one, frozen=None), chosen), decide(replace(one, frozen="anomaly"), chosen)
    if calm.layer == "human":
        assert (frozen.layer, frozen.max_power_w) == ("human", calm.max_power_w)
    if calm.layer == "budget":
        assert (frozen.layer, frozen.max_power_w) == ("budget", calm.max_power_w)


def test_a_cap_under_a_freeze_says_both() -> None:
    grant = decide(replace(READY, frozen="Frozen: hot.", cap_w=500.0, cap_reason="breaker (ann)"), BALANCED)
    assert (grant.max_power_w, grant.max_sm_mhz, grant.min_sm_mhz) == (500.0, None, None)
    assert grant.reason == (
        "A human's cap of 500 W: breaker (ann). Frozen: hot. The cap stays, because a score does not undo a human's "
        "hold."
    )


@given(facts, names)
def test_safety_and_the_hold_out_grant_nothing(one: Facts, name: str) -> None:
    grant = decide(one, STRATEGIES[name])
    human = one.cap_w is not None or one.budget_w is not None
    if one.blocked or one.holdout or one.paused or (one.frozen and not human):
        assert grant.empty


@given(facts, names)
def test_latency_forbids_everything_but_a_human_s_cap(one: Facts, name: str) -> None:
    grant = decide(replace(one, latency="no target"), STRATEGIES[name])
    assert grant.max_sm_mhz is None
    assert grant.max_power_w is None or grant.layer == "human"


def test_the_order_of_arbitration() -> None:
    layers = [
        decide(Facts(H100, "e1", blocked="foreign", holdout=True, frozen="x", paused="p", cap_w=500.0), BALANCED),
        decide(replace(READY, holdout=True, frozen="x", paused="p", cap_w=500.0), BALANCED),
        decide(replace(READY, frozen="x", paused="p", cap_w=500.0), BALANCED),
        decide(replace(READY, frozen="x", cap_w=500.0), BALANCED),
        decide(replace(READY, frozen="x", latency="no target"), BALANCED),
        decide(replace(READY, paused="p", cap_w=500.0, latency="no target"), BALANCED),
        decide(replace(READY, cap_w=500.0, latency="no target", budget_w=400.0), BALANCED),
        decide(replace(READY, latency="no target", budget_w=400.0), BALANCED),
        decide(replace(READY, budget_w=400.0), BALANCED),
        decide(READY, BALANCED),
    ]
    assert [g.layer for g in layers] == [
        "safety",
        "holdout",
        "human",
        "human",
        "safety",
        "human",
        "human",
        "latency",
        "budget",
        "energy",
    ]
    assert [g.max_power_w for g in layers] == [None, None, None, 500.0, None, None, 500.0, None, 400.0, None]


def test_a_cap_overrides_the_ceiling_in_both_directions() -> None:
    assert decide(replace(READY, cap_w=690.0), BALANCED).max_power_w == 690.0
    assert decide(replace(READY, cap_w=300.0), BALANCED).max_power_w == 300.0
    low = decide(replace(READY, cap_w=20.0), BALANCED)
    assert low.max_power_w == 200.0 and "asked 20 W, outside the device's range" in low.reason


def test_a_gpu_without_an_engine_keeps_its_clocks() -> None:
    grant = decide(Facts(H100), STRATEGIES["aggressive"])
    assert (grant.max_sm_mhz, grant.max_power_w) == (None, 630.0)
    assert "no engine reports latency" in grant.reason


def test_an_unknown_device_is_granted_nothing() -> None:
    grant = decide(Facts(Device(), "e1"), BALANCED)
    assert grant == Grant(None, None, None, "energy", "The bounds of this device are unknown, so nothing is granted.")


def test_conservative_leaves_the_power_limit_alone_and_aggressive_lowers_it() -> None:
    assert decide(READY, STRATEGIES["aggressive"]).max_power_w == 630.0
    grant = decide(READY, STRATEGIES["conservative"])
    assert (grant.min_sm_mhz, grant.max_sm_mhz, grant.max_power_w) == (1590, 1980, None)


def test_devices_report_before_the_table_speaks() -> None:
    assert device("NVIDIA H100 80GB HBM3 (simulated)", {}) == H100
    assert device(None, {}) == Device()
    reported = device("NVIDIA H100 80GB HBM3", {"limit_default_w": 650.0, "sm_max_mhz": None})
    assert (reported.limit_default_w, reported.sm_max_mhz) == (650.0, 1980)


def test_within_never_exceeds_the_default() -> None:
    assert within(900.0, H100) == 700.0 and within(10.0, H100) == 200.0 and within(10.0, Device()) == 10.0


sizes_of = st.dictionaries(st.text("abcdef0123", min_size=1, max_size=6), st.integers(1, 8), min_size=1, max_size=30)


def never_asked(sizes: Mapping[str, int]) -> dict[str, Group]:
    return {name: Group(size) for name, size in sizes.items()}


@given(sizes_of, st.floats(0.1, 0.5), st.text(max_size=4))
def test_every_partition_holds_out_a_tenth_and_what_is_held_out_stays_so(
    sizes: dict[str, int], ratio: float, salt: str
) -> None:
    first, total = holdout.choose(never_asked(sizes), salt, ratio=ratio), sum(sizes.values())
    held = sum(sizes[name] for name in first)
    assert 0.1 * total <= held < ratio * total + max(sizes.values())
    later = {name: Group(size, size if name in first else 0) for name, size in sizes.items()}
    assert holdout.choose({**later, "new-group": Group(4)}, salt, ratio=ratio) >= first
    assert holdout.choose(later, "another salt", ratio=0.0) == first  # neither names nor a lower ratio let one go


def test_the_hash_names_who_is_held_out() -> None:
    names = [f"e{i}" for i in range(200)]
    chosen = holdout.choose(never_asked(dict.fromkeys(names, 4)), "c", ratio=0.15)
    assert 20 <= len(chosen) <= 30 and all(holdout.in_holdout("c", name, 0.15) for name in chosen)
    share = {name: holdout.share_of("c", name) for name in names}
    assert max(share[name] for name in chosen) < min(share[name] for name in names if name not in chosen)


def test_a_higher_ratio_lets_more_join() -> None:
    names = [f"e{i}" for i in range(200)]
    first = holdout.choose(never_asked(dict.fromkeys(names, 4)), "c", ratio=0.15)
    more = holdout.choose({name: Group(4, 4 if name in first else 0) for name in names}, "c", ratio=0.4)
    assert first < more and 60 <= len(more) <= 80


def test_engines_placed_anew_over_one_gpu_of_the_hold_out_are_held_out_whole_and_count_for_the_ratio() -> None:
    small = {"a": Group(4, 1), "b": Group(4, 3), "c": Group(4, 0), "d": Group(4, 4)}
    many = {**small, **{f"x{i}": Group(4) for i in range(28)}}
    assert holdout.choose(small, "s", ratio=0.1) == holdout.choose(small, "s", ratio=0.7) == {"a", "b", "d"}
    assert holdout.choose(many, "s", ratio=0.09) == {"a", "b", "d"} | holdout.choose(many, "s", ratio=0.1)
    assert len(holdout.choose(many, "s", ratio=0.1)) == 4  # 12 of 128 are below a tenth: one more


def test_a_group_that_is_gone_is_not_chosen() -> None:
    away = {f"away{i}": Group(0) for i in range(20)}
    for salt in map(str, range(50)):
        chosen = holdout.choose({**away, "a": Group(4), "b": Group(4)}, salt, ratio=0.1)
        assert chosen and chosen <= {"a", "b"}


@given(st.lists(st.text(min_size=1), unique=True, min_size=2))
def test_the_choice_does_not_depend_on_the_order_of_arrival(names: list[str]) -> None:
    there, turned = dict.fromkeys(names, Group(4)), dict.fromkeys(reversed(names), Group(4))
    assert holdout.choose(there, "s", ratio=0.1) == holdout.choose(turned, "s", ratio=0.1)


def test_the_share_held_out_is_the_ratio() -> None:
    held = sum(holdout.in_holdout("c", f"engine-{i}", 0.15) for i in range(20_000))
    assert 0.14 < held / 20_000 < 0.16
    both = sum(holdout.in_holdout("c", f"e{i}", 0.15) and holdout.in_canary("c", f"e{i}", 0.5) for i in range(20_000))
    assert 0.065 < both / 20_000 < 0.085, "hold-out and canary are independent draws"


def test_a_ratio_below_the_minimum_counts_as_the_minimum() -> None:
    held = [g for g in map(str, range(2000)) if holdout.in_holdout("c", g, 0.0)]
    assert held == [g for g in map(str, range(2000)) if holdout.in_holdout("c", g, 0.10)] and held


@given(st.lists(st.none() | st.booleans(), max_size=60))
def test_the_guard_s_margin_stays_within_its_bounds(windows: list[bool | None]) -> None:
    rules, state = guard.GuardRules(), guard.GuardState()
    for i, violated in enumerate(windows):
        before, state = state, guard.step(state, violated, i * 10**10)
        assert rules.floor <= state.margin <= 1.0
        assert violated is not True or state.margin <= before.margin
        assert violated is not None or state == before


def test_the_guard_confirms_tightens_and_rolls_back() -> None:
    state = guard.GuardState()
    state = guard.step(state, True, 0)
    state = guard.step(state, True, 1)
    assert state.margin == 1.0
    state = guard.step(state, True, 2)
    assert state.margin == pytest.approx(0.97) and not state.rolled_back(2)
    for window in range(3, 40):
        state = guard.step(state, True, window)
    assert state.rolled_back(40)
    assert guard.step(state, True, 41) == state, "a rolled-back group is not judged"
    later = state.default_until_ns
    assert not state.rolled_back(later)
    assert guard.step(state, False, later).margin == pytest.approx(0.90 * 1.003)


@pytest.mark.parametrize(("over", "expected"), [(0, False), (100, False), (120, False), (160, True), (1000, True)])
def test_chance_is_no_violation(over: int, expected: bool) -> None:
    assert guard.exceeds(over, 10_000, 2_000) is expected


def test_nothing_is_exceeded_without_samples() -> None:
    assert not guard.exceeds(5, 0, 100) and not guard.exceeds(5, 100, 0)


rows = st.builds(
    replace,
    facts,
    row_w=st.floats(1, 3000),
    row=st.just("r1"),
    pid_w=st.none() | st.floats(1, 3000),
)


@given(rows, names)
def test_a_row_s_ceiling_holds_for_every_gpu_that_it_does_not_count_outside(one: Facts, name: str) -> None:
    grant, limit = decide(one, STRATEGIES[name]), within(one.row_w or 0.0, one.device)
    if outside_rows(one):
        assert grant == decide(replace(one, row_w=None), STRATEGIES[name])
    else:
        assert grant.max_power_w is not None and grant.max_power_w <= limit


@given(rows, names)
def test_an_anomaly_lowers_nothing_on_a_row_either(one: Facts, name: str) -> None:
    chosen = STRATEGIES[name]
    calm, frozen = decide(replace(one, frozen=None), chosen), decide(replace(one, frozen="anomaly"), chosen)
    assert frozen.max_power_w is None or (calm.max_power_w is not None and frozen.max_power_w >= calm.max_power_w)


def test_pid_grants_no_clock_yields_to_latency_and_says_what_it_is() -> None:
    grant = decide(replace(READY, pid_w=412.4), BALANCED)
    assert (grant.max_sm_mhz, grant.max_power_w, grant.layer) == (None, 412.0, "energy")
    assert "pid: blind to latency" in grant.reason
    assert decide(replace(READY, pid_w=412.4, latency="no target"), BALANCED).empty
    assert decide(replace(READY, pid_w=412.4, cap_w=350.0), BALANCED).max_power_w == 350.0
