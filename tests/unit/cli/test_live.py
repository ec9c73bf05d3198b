"""The live state folds three topics; its figures are checked against hand-made records."""

from __future__ import annotations

import time

import msgspec
import pytest

from agents.cli import alert_counts, demo_view, top
from agents.cli.live import LiveState
from streams.contract.codec import encode
from streams.contract.histogram import bucket
from streams.contract.records import (
    AckColumns,
    Alert,
    EngineReading,
    EnvelopeColumns,
    Histogram,
    NodeFeatures,
    PowerApplied,
    PowerDesired,
)
from streams.contract.topics import ALERT, APPLIED, DESIRED, FEATURES
from tests.unit.jobs.support import features as telemetry

SECOND = 1_000_000_000
T0 = 1_790_000_000 * SECOND


def desired(holdout: tuple[bool, ...]) -> bytes:
    count = len(holdout)
    gpu = EnvelopeColumns(
        uuid=tuple(f"GPU-{i}" for i in range(count)),
        min_sm_mhz=tuple(None if h else 1200 for h in holdout),
        max_sm_mhz=tuple(None if h else 1980 for h in holdout),
        max_power_w=(None,) * count,
        engine=tuple(f"e{i}" for i in range(count)),
        holdout=holdout,
        reason=("because",) * count,
    )
    return encode(
        PowerDesired(
            cluster="c",
            node="n1",
            epoch=1,
            seq=1,
            issued_at_ns=T0,
            sample_ts_ns=T0,
            ttl_ms=15000,
            on_expiry="restore",
            mode="on",
            strategy="balanced",
            policy_version="p",
            gpu=gpu,
            reason="because",
        )
    )


def features(
    second: int, watts: tuple[float | None, ...], tbt_ms: tuple[float, ...], kinds: tuple[str, ...] = ()
) -> bytes:
    engines = tuple(
        EngineReading(
            engine=f"e{i}",
            kind=kinds[i] if kinds else "twin",
            stack="s",
            workload="w",
            gpu_uuid=(f"GPU-{i}",),
            ts_ns=T0,
            tbt=Histogram(index=(bucket(value),), count=(100,), sum_ms=100 * value),
        )
        for i, value in enumerate(tbt_ms)
    )
    return encode(
        NodeFeatures(
            cluster="c",
            node="n1",
            boot_id="b",
            seq=second,
            window_end_ns=T0 + second * SECOND,
            emitted_ns=T0,
            quality="simulated",
            uuid=tuple(f"GPU-{i}" for i in range(len(watts))),
            features={"power_w_last": watts},
            engines=engines,
        )
    )


def applied(limit_w: float, previous_w: float, lock: int | None) -> bytes:
    gpu = AckColumns(
        uuid=("GPU-0",),
        status=("applied",),
        reason=("ok",),
        requested_limit_w=(limit_w,),
        effective_limit_w=(limit_w,),
        previous_limit_w=(previous_w,),
        requested_sm_mhz=(lock,),
        effective_sm_mhz=(lock,),
        measured_w=(400.0,),
    )
    return encode(
        PowerApplied(
            cluster="c",
            node="n1",
            ts_ns=T0 + 250_000_000,
            event="command",
            epoch=1,
            seq=1,
            gpu=gpu,
            quality="simulated",
            sample_ts_ns=T0,
        )
    )


def test_groups_come_from_envelopes_and_unknown_watts_do_not_count() -> None:
    state = LiveState()
    state.fold(DESIRED.name, desired((False, True, False)))
    state.fold(FEATURES.name, features(1, (300.0, 500.0, None), (20.0, 40.0, 20.0)))
    assert state.mean_power_w("controlled") == 300.0
    assert state.mean_power_w("hold-out") == 500.0
    assert (state.gpus("controlled"), state.gpus("hold-out")) == (2, 1)


def test_a_training_job_is_in_no_groups_mean_and_its_waits_are_no_tokens() -> None:
    state = LiveState()
    state.fold(DESIRED.name, desired((False, True, False)))
    state.fold(FEATURES.name, features(1, (300.0, 500.0, 680.0), (20.0, 40.0, 900.0), ("twin", "twin", "training")))
    assert state.mean_power_w("controlled") == 300.0 and state.gpus("controlled") == 2
    p99 = state.tbt["controlled"].p99_ms()
    assert p99 is not None and p99 < 25.0
    state.fold(FEATURES.name, features(2, (300.0, 500.0, 600.0), (20.0, 40.0, 20.0)))
    assert state.mean_power_w("controlled") == 450.0  # it serves again


def test_p99_is_pooled_over_the_last_minute_only() -> None:
    state = LiveState()
    state.fold(DESIRED.name, desired((False, True)))
    state.fold(FEATURES.name, features(1, (1.0, 1.0), (200.0, 40.0)))
    state.fold(FEATURES.name, features(100, (1.0, 1.0), (20.0, 40.0)))
    ours, base = state.tbt["controlled"].p99_ms(), state.tbt["hold-out"].p99_ms()
    assert ours is not None
    assert base is not None
    assert abs(ours / 20.0 - 1) < 0.03
    assert abs(base / 40.0 - 1) < 0.03


def test_loop_time_is_read_back_minus_sample_and_caps_need_a_lowered_value() -> None:
    state = LiveState()
    state.fold(APPLIED.name, applied(700.0, 700.0, None))
    assert state.caps_in_force() == 0
    state.fold(APPLIED.name, applied(600.0, 700.0, None))
    assert state.caps_in_force() == 1
    state.fold(APPLIED.name, applied(700.0, 700.0, 1500))
    assert state.caps_in_force() == 1
    assert state.loop_quantile_ms(0.5) == 250.0


def test_two_clusters_on_one_broker_do_not_mix() -> None:
    for mine, seen in (("c", 1), ("west", 0)):
        state = LiveState(mine)
        state.fold(DESIRED.name, desired((False, True)))
        state.fold(FEATURES.name, features(1, (300.0, 500.0), (20.0, 40.0)))
        state.fold(APPLIED.name, applied(600.0, 700.0, None))
        assert (len(state.nodes), state.caps_in_force(), len(state.loop_ms)) == (seen, seen, seen)
        assert state.counts.get("other_cluster", 0) == (0 if seen else 3)
        assert (state.mean_power_w("controlled") is None) == (not seen)
    said = top.picture(state, 5)
    assert "No node of cluster west was heard in the last 15 s (3 messages of other clusters were" in said


def test_what_does_not_decode_is_counted_not_raised() -> None:
    state = LiveState()
    state.fold(FEATURES.name, b"{")
    assert state.counts == {"undecodable": 1}
    assert state.lag_s(T0) is None


def test_the_demos_line_shows_no_number_of_a_fleet_that_is_silent() -> None:
    state, now_ns = LiveState(), time.time_ns()
    view = demo_view.Facts(9.0, 2, 8, "broker", "balanced", None, None, None, "")
    for node, age_s in (("n1", 1), ("n2", 60)):
        state.take(telemetry(node, 1, ts_ns=now_ns - age_s * 1_000_000_000, gpus=4))
    shown = demo_view.line(state, view)
    assert "nodes 1/2" in shown and state.mean_power_w("default", now_ns) == 400.0
    later_ns = now_ns + 40 * 1_000_000_000  # both are old now
    assert state.heard(later_ns) == 0 and state.mean_power_w("default", later_ns) is None
    old = LiveState()
    old.take(telemetry("n2", 1, ts_ns=now_ns - 60_000_000_000, gpus=4))
    assert "nodes 0/2" in demo_view.line(old, view) and "p99 TBT - vs -" in demo_view.line(old, view)


# --- alerts ---


def alert(identity: str, state: str, *, cluster: str = "c", severity: str = "warning") -> bytes:
    return encode(
        Alert(
            cluster=cluster, node="n1", alert_id=identity, rule="high_energy", severity=severity, state=state,
            ts_ns=T0, summary=f"SIMULATED: {identity} is hot", evidence={}, runbook="r", quality="simulated",
        )  # type: ignore[arg-type]
    )  # fmt: skip


def test_alerts_are_counted_by_identity_and_fire_until_they_are_resolved() -> None:
    state = LiveState()
    for payload in (
        alert("a", "firing"), alert("b", "firing"), alert("a", "firing"), alert("a", "resolved"),
        alert("a", "firing"), alert("z", "resolved"), b"{",
    ):  # fmt: skip
        state.fold(ALERT.name, payload)
    assert list(state.firing) == ["b"], "what is resolved stays so, whatever is told again"
    assert state.counts == {"alerts": 3, "undecodable": 1}


def test_the_memory_of_alerts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.cli.live.KNOWN_ALERTS", 5)
    state = LiveState()
    for number in range(50):
        state.fold(ALERT.name, alert(str(number), "firing"))
        state.fold(ALERT.name, alert(str(number), "resolved"))
    assert state.counts["alerts"] == 50 and len(state._alerts) <= 5 and state.firing == {}


def test_the_demo_shows_alerts_and_the_webhook_test() -> None:
    from rich.console import Console

    state = LiveState()
    state.fold(ALERT.name, alert("a", "firing"))
    facts = demo_view.Facts(
        elapsed_s=1.0, nodes=1, gpus=8, broker="b", strategy="balanced", tbt_bound_ratio=1.05, ttft_bound_ratio=1.05,
        cores_used=None, note="", webhook="webhook test: delivered in 41 ms, signature verified", webhooks=3,
    )  # fmt: skip
    assert demo_view.line(state, facts).endswith("alerts 1 firing, 1 in all")
    console = Console(width=110, record=True)
    console.print(demo_view.panel(state, facts))
    shown = console.export_text()
    assert "alerts 1 firing, 1 in all   webhooks 3 verified   webhook test: delivered in 41 ms" in shown
    assert "SIMULATED: a is hot" in shown


def test_status_counts_what_fires_by_severity_and_says_when_it_cannot() -> None:
    payloads = [
        alert("a", "firing"), alert("b", "firing", severity="critical"), alert("b", "resolved"),
        alert("c", "firing", severity="critical"), alert("d", "firing", cluster="other"), alert("b", "firing"),
        b"not json", None, msgspec.json.encode({"alert_id": 3}),
    ]  # fmt: skip
    found = alert_counts.firing(payloads, "c")
    assert found == {"warning": 1, "critical": 1}
    told = {"alerts_firing": 2, "alerts_by_severity": found}
    assert alert_counts.line(told) == "alerts     2 firing (1 critical, 1 warning); eo alerts list"
    assert alert_counts.line({"alerts_firing": 0, "alerts_by_severity": {}}) == "alerts     0 firing"
    unknown = alert_counts.line({"alerts_firing": None, "alerts_problem": "no topic."})
    assert unknown == "alerts     unknown: no topic."
