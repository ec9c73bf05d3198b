"""Settings: nothing by default that could cap a cluster, and impossible combinations are refused with both values."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from streams.settings import WorkerSettings, from_env, worker_env


def test_defaults_cap_nothing() -> None:
    settings = WorkerSettings()
    assert settings.mode == "observe"
    assert settings.holdout_ratio >= 0.1


def test_the_environment_is_read_with_the_prefix_and_the_known_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EO_CLUSTER", "west")
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "host:9")
    monkeypatch.setenv("OPTIMIZATION_INTERVAL", "7")
    monkeypatch.setenv("EO_DATA_DIR", "/data")
    settings = from_env()
    assert (settings.cluster, settings.bootstrap, settings.slow_interval_s) == ("west", "host:9", 7.0)
    assert settings.layout.archive == Path("/data/archive")
    assert settings.group("features") == "eo-west-features"


def test_the_names_of_the_brief_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"PID_KP": 0.7, "PID_KI": 0.1, "PID_KD": 0.05, "GPU_POWER_FLOOR": 250.0, "GPU_POWER_CEILING": 600.0}
    given |= {"GPU_POWER_TARGET": 400.0, "BATCH_MIN": 8, "BATCH_MAX": 64, "OPTIMIZATION_INTERVAL": 60.0}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    s = from_env()
    assert (s.pid_kp, s.pid_ki, s.pid_kd, s.power_floor_w, s.power_ceiling_w) == (0.7, 0.1, 0.05, 250.0, 600.0)
    assert (s.power_target_w, s.batch_min, s.batch_max, s.slow_interval_s) == (400.0, 8, 64, 60.0)
    monkeypatch.setenv("EO_PID_KP", "0.9")  # our own name wins
    assert from_env().pid_kp == 0.9


def test_a_child_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    first = from_env(bootstrap="h:1", cluster="c", data_dir=Path("/d"))
    for name, value in worker_env(first).items():
        monkeypatch.setenv(name, value)
    assert (from_env().bootstrap, from_env().cluster, from_env().data_dir) == ("h:1", "c", Path("/d"))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"holdout_ratio": 0.05}, "greater than or equal to 0.1"),
        ({"ttl_ms": 31_000}, "less than or equal to 30000"),
        ({"mode": "full"}, "'observe', 'recommend', 'canary' or 'on'"),
        ({"cluster": "no spaces"}, "should match pattern"),
        ({"heartbeat_s": 11.0}, "heartbeat_s 11.0 < session_s 10.0 <= request_s 20.0 must hold"),
        ({"rebalance_s": 20.0}, "rebalance_s 20.0 must stay below request_s 20.0"),
        ({"archive_flush_s": 40.0}, "archive_flush_s 40.0 must be at most half of stall_s 60.0"),
        (
            {"ttl_ms": 10_000, "envelope_interval_s": 60.0},
            "ttl_ms 10000 must be at least twice envelope_interval_s 60.0 s, or leases would lapse between envelopes; "
            "set EO_ENVELOPE_INTERVAL_S to 5 or less, or EO_TTL_MS higher (at most 30000)",
        ),
        ({"envelope_interval_s": 7.6}, "ttl_ms 15000 must be at least twice envelope_interval_s 7.6 s"),
        ({"slow_interval_s": 61.0}, "less than or equal to 60"),
        ({"power_floor_w": 500.0, "power_ceiling_w": 300.0}, "GPU_POWER_FLOOR 500 W is above GPU_POWER_CEILING 300 W"),
        ({"batch_min": 9, "batch_max": 3}, "BATCH_MIN 9 is above BATCH_MAX 3; give 1 <= BATCH_MIN <= BATCH_MAX"),
        ({"row_budget_w": float("nan")}, "row_budget_w"),
        ({"row_budget_w": 9.0, "rows_file": "r.toml"}, "row_budget_w 9 and rows_file r.toml both name budgets"),
        ({"pid_kp": float("inf")}, "pid_kp"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_values_are_refused_with_the_bound(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        from_env(**wrong)
    assert text in str(caught.value)


def test_a_lease_of_exactly_two_intervals_is_enough() -> None:
    assert from_env(envelope_interval_s=7.5).ttl_ms == 15_000
