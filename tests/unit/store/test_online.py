"""The online store: newest wins, old values expire and say so, nothing is made up."""

from __future__ import annotations

import pytest

from streams.store.errors import UnknownFeature
from streams.store.online import OnlineStore
from tests.unit.store.makers import T0, S, features

TTL = {"power_w_mean_60s": 5.0, "waste_w": 60.0}


def store() -> OnlineStore:
    filled = OnlineStore(TTL)
    filled.push(features(10, {"power_w_mean_60s": (300.0, None), "waste_w": (1.0, 2.0)}))
    return filled


def test_a_fresh_value_has_its_age_and_its_origin() -> None:
    value = store().get("GPU-a", "power_w_mean_60s", now_ns=T0 + 12 * S)
    assert (value.value, value.state, value.age_s, value.ttl_s) == (300.0, "fresh", 2.0, 5.0)
    assert (value.window_end_ns, value.quality) == (T0 + 10 * S, "simulated")


def test_time_to_live_is_each_features_own_and_inclusive() -> None:
    at_the_edge, behind = T0 + 15 * S, T0 + 15 * S + 1
    assert store().get("GPU-a", "power_w_mean_60s", now_ns=at_the_edge).state == "fresh"
    expired = store().get("GPU-a", "power_w_mean_60s", now_ns=behind)
    assert (expired.value, expired.state) == (None, "expired")
    assert expired.age_s == pytest.approx(5.0)
    assert store().get("GPU-a", "waste_w", now_ns=behind).value == 1.0


def test_unknown_is_none_and_not_an_older_value() -> None:
    filled = store()
    assert filled.get("GPU-b", "power_w_mean_60s", now_ns=T0 + 10 * S).state == "unknown"
    filled.push(features(11, {"waste_w": (3.0, 4.0)}))
    value = filled.get("GPU-a", "power_w_mean_60s", now_ns=T0 + 11 * S)
    assert (value.value, value.state) == (None, "unknown")


def test_a_gpu_that_nobody_pushed_is_unknown_without_age() -> None:
    value = store().get("GPU-z", "waste_w", now_ns=T0)
    assert (value.value, value.state, value.age_s, value.window_end_ns) == (None, "unknown", None, None)


def test_an_unregistered_feature_is_refused() -> None:
    with pytest.raises(UnknownFeature, match="'power' is not registered"):
        store().get("GPU-a", "power", now_ns=T0)


def test_duplicates_and_older_records_change_nothing() -> None:
    filled = store()
    assert not filled.push(features(10, {"waste_w": (9.0, 9.0)}))
    assert not filled.push(features(9, {"waste_w": (9.0, 9.0)}, end_ns=T0 + 99 * S))
    assert filled.get("GPU-a", "waste_w", now_ns=T0 + 10 * S).value == 1.0


def test_a_restarted_agent_counts_anew_and_a_straggler_of_its_past_is_dropped() -> None:
    filled = store()
    assert filled.push(features(0, {"waste_w": (7.0, 7.0)}, boot_id="next", end_ns=T0 + 11 * S))
    assert not filled.push(features(10, {"waste_w": (9.0, 9.0)}))
    assert filled.get("GPU-a", "waste_w", now_ns=T0 + 11 * S).value == 7.0


def test_a_clock_that_ran_ahead_does_not_block_later_values() -> None:
    filled = store()
    filled.push(features(11, {"waste_w": (5.0, 5.0)}, end_ns=T0 + 7200 * S, emitted_ns=T0 + 11 * S))
    ahead = filled.get("GPU-a", "waste_w", now_ns=T0 + 12 * S)
    assert (ahead.value, ahead.age_s) == (5.0, 0.0)
    assert filled.push(features(12, {"waste_w": (6.0, 6.0)}))
    assert filled.get("GPU-a", "waste_w", now_ns=T0 + 12 * S).value == 6.0


def test_gpus_may_leave_come_and_move() -> None:
    filled = store()
    filled.push(features(11, {"waste_w": (8.0, 9.0)}, uuid=("GPU-b", "GPU-c")))
    assert filled.gpus() == ("GPU-b", "GPU-c")
    assert filled.get("GPU-b", "waste_w", now_ns=T0 + 11 * S).value == 8.0
    filled.push(features(12, {"waste_w": (1.5,)}, uuid=("GPU-b",), node="n2"))
    assert (filled.node_of("GPU-b"), filled.node_of("GPU-c"), filled.node_of("GPU-z")) == ("n2", "n1", None)
    filled.push(features(13, {"waste_w": (4.0,)}, uuid=("GPU-c",)))
    assert filled.get("GPU-b", "waste_w", now_ns=T0 + 13 * S).value == 1.5


def test_a_row_has_every_registered_feature() -> None:
    row = store().row("GPU-b", now_ns=T0 + 10 * S)
    assert {value.feature: value.value for value in row} == {"power_w_mean_60s": None, "waste_w": 2.0}
    assert [value.feature for value in store().row("GPU-b", now_ns=T0, features=["waste_w"])] == ["waste_w"]
