"""The alerts job: each shipped rule fires on its fault, is resolved after it, stays silent without it, once."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.cli.config import ensure_keys
from models.alerts.rule import Rule
from streams.contract import codec
from streams.contract.layout import Layout
from streams.contract.records import (
    AckColumns,
    Alert,
    AnomalyVerdict,
    DeviceColumns,
    DomainColumns,
    EnvelopeColumns,
    GpuColumns,
    NodeFeatures,
    NodeTelemetry,
    PowerApplied,
    PowerDesired,
    Record,
)
from streams.contract.signing import Signer
from streams.contract.topics import ANOMALY, APPLIED, DESIRED, FEATURES, TELEMETRY, Topic, topic_of
from streams.errors import StreamsError
from streams.jobs import alerts_rules
from streams.jobs.alerts import AlertsJob
from streams.jobs.base import Firing, Outcome
from tests.unit.jobs.support import STACK, T0_NS, Clock, FakePublisher, FakeState, context, features, messages

S = 10**9
ROOT = Path(__file__).resolve().parents[3]
RULES = alerts_rules.load().rules


class Bench:
    """The job on stand-ins, one partition, fed at one message a second and node."""

    def __init__(self, folder: Path, *, state: FakeState | None = None, partitions: int = 1, **settings: Any) -> None:
        self.folder, self.settings, self.partitions = folder, settings, partitions
        self.clock, self.state, self.offset, self.seq = Clock(), state or FakeState(), 0, 0
        self.start()

    def start(self) -> None:
        self.ctx = context(self.folder, self.clock, state=self.state, **self.settings)
        self.job = AlertsJob()
        self.job.start(self.ctx)
        self.job.assign(frozenset(range(self.partitions)))

    @property
    def publisher(self) -> FakePublisher:
        assert isinstance(self.ctx.publisher, FakePublisher)
        return self.ctx.publisher

    @property
    def now_ns(self) -> int:
        return self.clock.wall_ns()

    def alerts(self, rule: str | None = None) -> list[Alert]:
        found: list[Alert] = self.publisher.of(Alert)
        return [one for one in found if rule is None or one.rule == rule]

    def told(self, rule: str) -> list[str]:
        return [one.state for one in self.alerts(rule)]

    def feed(self, *records: Record | bytes, topic: Topic | None = None) -> None:
        for record in records:
            where = topic or topic_of(type(record))  # type: ignore[arg-type]  # bytes come with a topic
            batch = messages([record], self.offset)
            self.offset += 1
            assert self.job.process(where, 0, batch) is Outcome.ACK

    def seconds(self, count: int, make: Callable[[int], Sequence[Record]], *, step_s: float = 1.0) -> None:
        for _ in range(int(count / step_s)):
            self.clock.now_s += step_s
            self.seq += 1
            self.feed(*make(self.now_ns))
            assert list(self.job.tick()) == []

    def features(self, node: str = "n1", **more: Any) -> NodeFeatures:
        changed: dict[str, Any] = {}
        for name in ("device", "quality", "boot_id"):
            if name in more:
                changed[name] = more.pop(name)
        return msgspec.structs.replace(features(node, self.seq, ts_ns=self.now_ns, **more), **changed)

    def telemetry(self, node: str = "n1", **more: Any) -> NodeTelemetry:
        return NodeTelemetry(
            cluster="c1", node=node, boot_id="b", seq=self.seq, ts_ns=self.now_ns, source=("t",),
            quality="measured", **more,
        )  # fmt: skip

    def ack(self, event: str, status: str, reason: str = "", *, node: str = "n1", gpus: int = 1) -> PowerApplied:
        n = gpus
        return PowerApplied(
            cluster="c1", node=node, ts_ns=self.now_ns, event=event, epoch=1, seq=1, quality="measured",
            gpu=AckColumns(
                uuid=tuple(f"GPU-{i}" for i in range(n)), status=(status,) * n, reason=(reason,) * n,
                requested_limit_w=(400.0,) * n, effective_limit_w=(700.0,) * n, previous_limit_w=(700.0,) * n,
                requested_sm_mhz=(None,) * n, effective_sm_mhz=(None,) * n, measured_w=(300.0,) * n,
            ),
        )  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


LIMITS = DeviceColumns(limit_default_w=(700.0,) * 8)


# --- energy ---


def test_high_energy(bench: Bench) -> None:
    bench.seconds(120, lambda _: [bench.features(power_w=500.0, device=LIMITS)])
    assert bench.alerts() == []
    bench.seconds(120, lambda _: [bench.features(power_w=690.0, device=LIMITS)])
    [alert] = bench.alerts("high_energy")
    assert alert.summary == "SIMULATED: n1 draws 5520 W, 0.99 of the 5600 W that its GPUs may (bound 0.95)"
    assert (alert.node, alert.state, alert.severity, alert.quality) == ("n1", "firing", "warning", "simulated")
    assert alert.evidence["power_w"] == 5520.0 and alert.threshold == 0.95
    assert alert.started_ns is not None and alert.window_start_ns is not None and alert.window_end_ns is not None
    assert alert.window_start_ns <= alert.started_ns < alert.window_end_ns == alert.ts_ns
    bench.seconds(120, lambda _: [bench.features(power_w=500.0, device=LIMITS)])
    assert bench.told("high_energy") == ["firing", "resolved"]
    last = bench.alerts("high_energy")[-1]
    assert (last.alert_id, last.started_ns) == (alert.alert_id, alert.started_ns)
    assert last.summary.startswith("SIMULATED: resolved (recovered): n1 draws 4000 W")


def test_what_fires_is_counted_by_rule_for_the_metrics(bench: Bench) -> None:
    assert isinstance(bench.job, Firing)
    assert bench.job.firing()["high_energy"] == 0, "a rule in force that does not fire is a known zero"
    bench.seconds(120, lambda _: [bench.features(n, power_w=690.0, device=LIMITS) for n in ("n1", "n2")])
    assert bench.job.firing()["high_energy"] == 2
    bench.seconds(
        120, lambda _: [bench.features(n, power_w=w, device=LIMITS) for n, w in (("n1", 500.0), ("n2", 690.0))]
    )
    assert bench.job.firing()["high_energy"] == 1
    bench.job.revoke(frozenset({0}))
    assert set(bench.job.firing().values()) == {0}, "whoever has the partition now counts"


def test_high_energy_is_silent_where_limits_or_power_are_unknown(bench: Bench) -> None:
    bench.seconds(120, lambda _: [bench.features(power_w=690.0)])
    assert bench.alerts("high_energy") == []


def efficiency(bench: Bench, bad: float) -> Callable[[int], Sequence[Record]]:
    def make(_: int) -> Sequence[Record]:
        return [bench.features(f"n{i}", j_per_token_60s=bad if i == 3 else 2.0 + 0.1 * i) for i in range(4)]

    return make


def test_low_efficiency_against_the_engines_of_its_stack(bench: Bench) -> None:
    bench.seconds(150, efficiency(bench, 2.5))
    assert bench.alerts() == []
    bench.seconds(150, efficiency(bench, 9.0))
    firing = bench.alerts("low_efficiency")
    assert {one.labels["engine"] for one in firing} == {"n3-e0", "n3-e1"}
    assert all(one.node == "n3" and one.labels["stack"] == STACK for one in firing)
    bench.seconds(150, efficiency(bench, 2.5))
    assert sorted(bench.told("low_efficiency")) == ["firing", "firing", "resolved", "resolved"]


def test_low_efficiency_needs_peers(bench: Bench) -> None:
    bench.seconds(200, lambda _: [bench.features("n1", j_per_token_60s=99.0)])
    assert bench.alerts("low_efficiency") == []


def test_idle_leak_names_the_node_and_counts_its_gpus(bench: Bench) -> None:
    bench.seconds(330, lambda _: [bench.features(waste_w=80.0)])
    [alert] = bench.alerts("idle_leak")
    assert alert.summary == "SIMULATED: 8 GPUs of n1 do nothing and burn 640 W above deep idle (bound 60 W each)"
    bench.seconds(330, lambda _: [bench.features(waste_w=0.0)])
    assert bench.told("idle_leak") == ["firing", "resolved"]


# --- carbon ---


FACTORS = '[[factor]]\nlocation = "FR"\ng_per_kwh = 50.0\nsource = "a test"\n'


def carbon(tmp_path: Path, **more: Any) -> Bench:
    (tmp_path / "rules").mkdir(exist_ok=True)
    shipped = (ROOT / "streams/jobs/alert_rules/carbon_budget.toml").read_text()
    text = shipped.replace("window_h = 24", "window_h = 0.1").replace("k = 1", "threshold = 10.0\nk = 1")
    (tmp_path / "rules" / "carbon_budget.toml").write_text(text)
    (tmp_path / "factors.toml").write_text(FACTORS)
    return Bench(tmp_path, alert_rules_dir=tmp_path / "rules", **more)


def test_carbon_budget(tmp_path: Path) -> None:
    bench = carbon(tmp_path, location="FR", carbon_factors=tmp_path / "factors.toml")
    # 8 GPUs x 10 kJ a second = 80 kW; 10 g at 50 g/kWh are 0.2 kWh = 720 kJ: nine seconds.
    bench.seconds(8, lambda _: [bench.features(energy_j_delta=10_000.0)])
    assert bench.alerts() == []
    bench.seconds(40, lambda _: [bench.features(energy_j_delta=10_000.0)])
    [alert] = bench.alerts("carbon_budget")
    assert alert.node is None and alert.labels["location"] == "FR" and alert.labels["factor_source"] == "a test"
    assert (
        50.0 * (alert.evidence["energy_kwh"] or 0.0) == pytest.approx(alert.evidence["value"]) and alert.threshold == 10
    )
    assert "g CO2e in 0 h" in alert.summary and "at 50 g/kWh" in alert.summary
    bench.seconds(500, lambda _: [bench.features(energy_j_delta=0.0)])
    assert bench.told("carbon_budget") == ["firing", "resolved"]


def test_the_same_joules_count_once(tmp_path: Path) -> None:
    bench = carbon(tmp_path, location="FR", carbon_factors=tmp_path / "factors.toml")
    bench.clock.now_s += 60
    bench.seq = 1
    one = bench.features(energy_j_delta=10_000.0)
    bench.feed(*[one] * 100)
    bench.seconds(40, lambda _: [bench.features(energy_j_delta=0.0)])
    assert bench.alerts("carbon_budget") == []
    assert bench.job._parts[0].budget is not None
    assert bench.job._parts[0].budget.total_kwh() == pytest.approx(80_000 / 3.6e6)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "no location, no CO2 number: set EO_LOCATION and EO_CARBON_FACTORS"),
        ({"location": "FR"}, "no location, no CO2 number: set EO_CARBON_FACTORS"),
        ({"carbon_factors": "factors.toml"}, "no location, no CO2 number: set EO_LOCATION"),
    ],
)
def test_without_location_and_factors_there_is_no_number_and_it_says_so(
    tmp_path: Path, settings: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    if "carbon_factors" in settings:
        settings = {"carbon_factors": tmp_path / "factors.toml"}
    with caplog.at_level(logging.WARNING):
        bench = carbon(tmp_path, **settings)
    assert f"alert rule carbon_budget is silent: {why}" in caplog.text
    bench.seconds(60, lambda _: [bench.features(energy_j_delta=10_000.0)])
    assert bench.alerts() == []


def test_without_a_budget_there_is_no_alert_either(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(FACTORS)
    found = alerts_rules.load(location="FR", factor_file=tmp_path / "f.toml")
    assert found.silent == {"carbon_budget": "no threshold (grams) is set in its file"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1", r"needs tables \[\[factor\]\] with location, g_per_kwh and source"),
        (FACTORS.replace("FR", "DE"), "no carbon factor for location 'FR'; the file has DE"),
        (FACTORS.replace("50.0", "50000.0"), "must be >= 0 and <= 2000 grams, check the unit"),
        (FACTORS.replace("50.0", '"50"'), "g_per_kwh is '50'; write grams"),
        (FACTORS.replace('"a test"', '""'), "names no source"),
        ("[[", "it is no TOML"),
    ],
)
def test_a_wrong_factor_file_stops_the_job_with_the_next_step(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "f.toml").write_text(text)
    with pytest.raises(StreamsError, match=why):
        alerts_rules.load(location="FR", factor_file=tmp_path / "f.toml")


# --- system ---


def test_agent_silent(bench: Bench) -> None:
    both = ("n1", "n2")
    bench.seconds(40, lambda _: [bench.telemetry(node) for node in both])
    bench.seconds(29, lambda _: [bench.telemetry("n1")])
    assert bench.alerts() == []
    bench.seconds(10, lambda _: [bench.telemetry("n1")])
    [alert] = bench.alerts("agent_silent")
    assert alert.node == "n2" and alert.severity == "critical" and alert.summary.startswith("n2 has sent nothing for 3")
    bench.seconds(3, lambda _: [bench.telemetry(node) for node in both])
    assert bench.told("agent_silent") == ["firing", "resolved"]


def test_two_agents_under_one_name_are_told_and_a_restart_is_not(bench: Bench) -> None:
    def sent(*boots: str) -> list[Record]:
        return [msgspec.structs.replace(bench.telemetry("n1"), boot_id=boot) for boot in boots]

    bench.seconds(10, lambda _: sent("a"))
    bench.seconds(3, lambda _: sent("b"))  # a restart
    bench.seconds(1, lambda _: sent("a", "b"))  # a batch that is read twice after a rebalance
    bench.seconds(70, lambda _: [*sent("b"), bench.telemetry("n2")])
    bench.seconds(5, lambda _: sent("c"))
    assert bench.alerts("duplicate_node") == []
    bench.seconds(20, lambda _: sent("c", "d"))
    [alert] = bench.alerts("duplicate_node")
    assert (alert.node, alert.severity, alert.evidence["boots"]) == ("n1", "critical", 4)
    assert alert.summary.startswith("n1 is reported by two agents at once: an earlier boot came back 3 times within 60")
    bench.seconds(80, lambda _: sent("d"))
    assert bench.told("duplicate_node") == ["firing", "resolved"]


def test_when_nobody_is_heard_it_is_one_alert_of_the_cluster(bench: Bench) -> None:
    bench.seconds(20, lambda _: [bench.telemetry(f"n{i}") for i in range(50)])
    bench.seconds(60, lambda _: [])
    [alert] = bench.alerts()
    assert alert.node is None and alert.labels["subject"] == "cluster c1" and alert.evidence["nodes"] == 50
    bench.seconds(5, lambda _: [bench.telemetry(f"n{i}") for i in range(49)])
    assert [a.state for a in bench.alerts() if a.node is None] == ["firing", "resolved"]
    assert [a.node for a in bench.alerts() if a.node is not None] == ["n49"], "who stays away is named then"


def test_nodes_that_fall_silent_one_after_the_other_within_seconds_are_one_alert_too(bench: Bench) -> None:
    bench.seconds(20, lambda _: [bench.telemetry(f"n{i}") for i in range(50)])
    for left in (30, 10, 3):
        bench.seconds(1, lambda _, count=left: [bench.telemetry(f"n{i}") for i in range(count)])  # type: ignore[misc]
    bench.seconds(60, lambda _: [])
    assert [one.labels["subject"] for one in bench.alerts()] == ["cluster c1"]


def test_a_node_that_is_gone_for_a_day_is_forgotten_with_its_alerts(bench: Bench) -> None:
    bench.seconds(5, lambda _: [bench.telemetry("n1"), bench.telemetry("n2")])
    bench.feed(bench.ack("not_actuatable", "refused", "not_actuatable: x", node="n2"))
    bench.seconds(86_400 + 120, lambda _: [bench.telemetry("n1")], step_s=60.0)
    assert bench.told("agent_silent") == ["firing", "resolved"]
    assert bench.alerts("agent_silent")[-1].summary.startswith("resolved (the node is gone)")
    assert bench.told("not_actuatable") == ["firing", "resolved"]


def test_stream_lag(bench: Bench) -> None:
    bench.seconds(30, lambda _: [bench.telemetry(), bench.features()])
    bench.seconds(60, lambda _: [bench.telemetry()])
    [alert] = bench.alerts("stream_lag")
    assert "behind telemetry (bound 15 s)" in alert.summary
    bench.seconds(40, lambda _: [bench.telemetry(), bench.features()])
    assert bench.told("stream_lag") == ["firing", "resolved"]


def test_restore_failed(bench: Bench) -> None:
    bench.feed(bench.ack("restore", "refused", "restore: no permission; the saved value is kept and tried again"))
    [alert] = bench.alerts()
    assert (alert.rule, alert.severity, alert.gpu_uuid) == ("restore_failed", "critical", "GPU-0")
    assert "no permission" in alert.summary and alert.evidence["previous_limit_w"] == 700.0
    bench.clock.now_s += 30
    bench.feed(bench.ack("restore", "restored", "left set by an earlier run"))
    assert bench.told("restore_failed") == ["firing", "resolved"]


def test_not_actuatable(bench: Bench) -> None:
    bench.feed(bench.ack("not_actuatable", "refused", "not_actuatable: reads back 700 W"))
    assert bench.told("not_actuatable") == ["firing"]
    bench.clock.now_s += 5
    bench.feed(bench.ack("command", "refused", "not_actuatable: next try in 55 s"))
    assert bench.told("not_actuatable") == ["firing"], "told once"
    bench.clock.now_s += 60
    bench.feed(bench.ack("command", "applied"))
    assert bench.told("not_actuatable") == ["firing", "resolved"]


def test_a_gpu_that_does_not_obey_and_is_not_back_is_both(bench: Bench) -> None:
    bench.feed(bench.ack("not_actuatable", "refused", "not_actuatable: x; the value found before us is not back yet"))
    assert sorted(one.rule for one in bench.alerts()) == ["not_actuatable", "restore_failed"]


def test_limit_drift_is_a_foreign_change_and_no_failed_restore(bench: Bench) -> None:
    bench.feed(bench.ack("foreign_change", "refused", "foreign: limit is 500 W, 400 W was set; left as it is"))
    bench.feed(bench.ack("restore", "refused", "foreign: changed by others since, left as it is"))
    [alert] = bench.alerts()
    assert (alert.rule, alert.gpu_uuid) == ("limit_drift", "GPU-0") and "limit is 500 W" in alert.summary


def test_restore_happened_is_told_once_per_node_and_ends_by_itself(bench: Bench) -> None:
    bench.feed(bench.ack("expiry", "expired", "the lease ended", gpus=8))
    bench.feed(bench.ack("restore", "restored", "left set by an earlier run", gpus=8))
    [alert] = bench.alerts()
    assert (alert.rule, alert.node, alert.gpu_uuid, alert.evidence["gpus"]) == ("restore_happened", "n1", None, 8)
    bench.seconds(310, lambda _: [])
    assert bench.told("restore_happened") == ["firing", "resolved"]
    assert bench.alerts()[-1].summary.startswith("resolved (over)")


def test_a_models_drift_is_told_once_a_node_and_is_no_restore_that_happened(bench: Bench) -> None:
    why = "model drift: the model does not predict n1/r0 any more (last error +60%): default clocks"
    bench.feed(bench.ack("restore", "restored", why, gpus=4), bench.ack("restore", "restored", why, gpus=4))
    [alert] = bench.alerts()
    assert (alert.rule, alert.severity, alert.node) == ("model_drift", "warning", "n1")
    assert alert.summary == f"n1: {why}"
    bench.seconds(130, lambda _: [])
    assert bench.told("model_drift") == ["firing", "resolved"]


def test_a_row_s_brake_is_told_once_a_node_and_stays_while_renewals_are_braked(bench: Bench) -> None:
    why = "brake: 250 W instead of 400 W, row r1 draws 9800 W, 98% of its 10000 W"
    bench.feed(bench.ack("command", "clamped", why, gpus=4))
    [alert] = bench.alerts()
    assert (alert.rule, alert.severity, alert.node, alert.summary) == ("row_brake", "warning", "n1", f"n1: {why}")
    for _ in range(3):
        bench.seconds(40, lambda _: [])
        bench.feed(bench.ack("command", "clamped", why, gpus=4))
    assert bench.told("row_brake") == ["firing"]
    bench.feed(bench.ack("command", "clamped", "450 W held to 400 W, the owner's ceiling", gpus=4))
    bench.seconds(70, lambda _: [])
    assert bench.told("row_brake") == ["firing", "resolved"]


def test_a_drift_whose_lock_did_not_go_back_is_a_failed_restore_too(bench: Bench) -> None:
    why = "restore: the lock is still at 1500 MHz; model drift: the model does not predict n1/r0 any more"
    bench.feed(bench.ack("restore", "refused", why))
    assert {alert.rule for alert in bench.alerts()} == {"model_drift", "restore_failed"}


@pytest.mark.parametrize("reason", ["not in the renewed envelope", "the capper is stopping", "the fleet is stopping"])
def test_a_restore_in_the_course_of_things_is_none(bench: Bench, reason: str) -> None:
    bench.feed(bench.ack("restore", "restored", reason))
    assert bench.alerts() == []


def test_what_was_applied_is_no_alert(bench: Bench) -> None:
    for status in ("applied", "clamped", "recommended", "refused"):
        bench.feed(bench.ack("command", status, "rate: 1 change per 5 s"))
    assert bench.alerts() == []


def test_a_replaced_factor_file_is_taken_up_and_a_wrong_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "factors.toml"
    bench = carbon(tmp_path, location="FR", carbon_factors=path)

    def second(_: int) -> Sequence[Record]:
        return [bench.features(energy_j_delta=100.0)]  # 0.01 g a second at 50 g/kWh

    bench.seconds(30, second)
    path.write_text("[[")
    bench.seconds(5, second)
    assert caplog.text.count("going on with the factors known before") == 1
    path.write_text(FACTORS.replace("50.0", "2000.0"))  # 0.44 g a second
    bench.seconds(40, second)
    assert bench.told("carbon_budget") == ["firing"]
    path.unlink()
    bench.seconds(5, second)
    assert caplog.text.count("going on with the factors known before") == 2


# --- windows of a rule's own ---


def own_window(tmp_path: Path, name: str, **values: object) -> Bench:
    """The shipped rule with a window of ten seconds and two looks."""
    text = (ROOT / f"streams/jobs/alert_rules/{name}.toml").read_text()
    for key, value in {"k": 2, "n": 2, "every_s": 2.0, **values}.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
    (tmp_path / "rules").mkdir(exist_ok=True)
    (tmp_path / "rules" / f"{name}.toml").write_text(text + "window_s = 10\n")
    return Bench(tmp_path, alert_rules_dir=tmp_path / "rules")


def test_power_over_ten_seconds_is_made_of_joules_and_needs_a_full_window(tmp_path: Path) -> None:
    bench = own_window(tmp_path, "high_energy")

    def drawing(watts: float | None) -> Callable[[int], Sequence[Record]]:
        # The minute's mean says 500 W all the time: only the joules know.
        return lambda _: [bench.features(power_w=500.0, device=LIMITS, energy_j_delta=watts)]

    bench.seconds(9, drawing(690.0))
    assert bench.alerts("high_energy") == [], "nine seconds are no window of ten"
    bench.seconds(6, drawing(690.0))
    [alert] = bench.alerts("high_energy")
    assert alert.evidence["power_w"] == pytest.approx(5520.0)
    assert alert.window_end_ns is not None and alert.window_start_ns is not None
    bench.seconds(6, drawing(None))
    assert bench.told("high_energy") == ["firing"], "unknown joules end nothing"
    bench.seconds(16, drawing(500.0))
    assert bench.told("high_energy") == ["firing", "resolved"]


def test_joules_per_token_over_ten_seconds(tmp_path: Path) -> None:
    bench = own_window(tmp_path, "low_efficiency")
    made = {f"n{i}": 0 for i in range(4)}

    def second(starved: bool) -> Sequence[Record]:
        out: list[Record] = []
        for i, node in enumerate(made):
            made[node] += 10 if starved and i == 3 else 100
            record = bench.features(node, j_per_token_60s=2.0, energy_j_delta=400.0)
            engines = tuple(msgspec.structs.replace(one, generation_tokens_total=made[node]) for one in record.engines)
            out.append(msgspec.structs.replace(record, engines=engines))
        return out

    bench.seconds(20, lambda _: second(False))
    assert bench.alerts() == []
    bench.seconds(14, lambda _: second(True))
    assert {one.labels["engine"] for one in bench.alerts("low_efficiency")} == {"n3-e0", "n3-e1"}
    first = bench.alerts("low_efficiency")[0]
    assert first.evidence["stack_median_j_per_token"] == pytest.approx(16.0)
    bench.seconds(16, lambda _: second(False))
    assert bench.told("low_efficiency") == ["firing"] * 2 + ["resolved"] * 2


# --- latency ---


def test_a_margin_lets_what_is_hardly_over_the_bound_pass(tmp_path: Path) -> None:
    text = (ROOT / "streams/jobs/alert_rules/performance_degradation.toml").read_text()
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "performance_degradation.toml").write_text(text + "margin_ratio = 0.5\n")
    bench = Bench(tmp_path, alert_rules_dir=tmp_path / "rules")
    bench.feed(held(bench, n1_e0=False, n1_e1=True))
    bench.seconds(90, slow(bench, 45.0))  # 1.5 times the hold-out, 1.43 times the bound
    assert bench.alerts() == []
    bench.seconds(90, slow(bench, 60.0))
    alert = next(one for one in bench.alerts("performance_degradation") if one.labels["metric"] == "tbt")
    assert alert.evidence["bound_ms"] == pytest.approx(1.5 * 1.05 * (alert.evidence["holdout_p99_ms"] or 0))


def held(bench: Bench, *, signer: Signer | None = None, **flags: bool) -> PowerDesired:
    engines = sorted(flags)
    n = len(engines)
    record = PowerDesired(
        cluster="c1", node="n1", epoch=1, seq=1, issued_at_ns=bench.now_ns, sample_ts_ns=bench.now_ns, ttl_ms=15_000,
        on_expiry="restore", mode="on", strategy="balanced", policy_version="1", reason="",
        gpu=EnvelopeColumns(
            uuid=tuple(f"GPU-{i}" for i in range(n)), min_sm_mhz=(None,) * n, max_sm_mhz=(None,) * n,
            max_power_w=(None,) * n, engine=tuple(e.replace("_", "-") for e in engines),
            holdout=tuple(flags[e] for e in engines), reason=("",) * n,
        ),
    )  # fmt: skip
    return record if signer is None else signer.sign(record)


def slow(bench: Bench, ours_ms: float, theirs_ms: float = 30.0) -> Callable[[int], Sequence[Record]]:
    return lambda _: [bench.features(tbt_ms={"n1-e0": ours_ms, "n1-e1": theirs_ms})]


def test_performance_degradation(bench: Bench) -> None:
    bench.feed(held(bench, n1_e0=False, n1_e1=True))
    bench.seconds(90, slow(bench, 30.5))
    assert bench.alerts() == []
    bench.seconds(90, slow(bench, 45.0))
    found = bench.alerts("performance_degradation")
    assert {one.labels["metric"] for one in found} == {"tbt", "ttft", "e2e"}
    alert = next(one for one in found if one.labels["metric"] == "tbt")
    assert alert.evidence["bound_ms"] == pytest.approx(1.05 * (alert.evidence["holdout_p99_ms"] or 0))
    assert (alert.evidence["value"] or 0) > 44 and alert.node is None and alert.labels["stack"] == STACK
    bench.seconds(120, slow(bench, 30.0))
    assert bench.told("performance_degradation").count("resolved") == 3


def test_a_slow_load_is_slow_for_the_holdout_too_and_no_degradation(bench: Bench) -> None:
    bench.feed(held(bench, n1_e0=False, n1_e1=True))
    bench.seconds(120, slow(bench, 90.0, 90.0))
    assert bench.alerts() == []


def test_without_a_holdout_nothing_is_said(bench: Bench) -> None:
    bench.feed(held(bench, n1_e0=False, n1_e1=False))
    bench.seconds(120, slow(bench, 90.0, 30.0))
    assert bench.alerts() == []


def test_a_forged_envelope_hides_no_slow_group(tmp_path: Path) -> None:
    ensure_keys(Layout(tmp_path))
    bench = Bench(tmp_path)
    bench.feed(held(bench, signer=Signer.load(Layout(tmp_path).actuation_key), n1_e0=False, n1_e1=True))
    bench.feed(held(bench, n1_e0=True, n1_e1=False))  # not signed
    bench.seconds(120, slow(bench, 45.0))
    assert "firing" in bench.told("performance_degradation")


# --- data ---


def sensed(bench: Bench, other_w: float) -> Callable[[int], Sequence[Record]]:
    gpu = GpuColumns(uuid=("GPU-0", "GPU-1"), power_w=(400.0, None))
    domains = DomainColumns(
        name=("gpu-0", "gpu-1", "package-0"), kind=("gpu", "gpu", "cpu_package"), source=("redfish",) * 3,
        quality=("measured",) * 3, power_w=(other_w, 300.0, 90.0), gpu_uuid=("GPU-0", "GPU-1", None),
    )  # fmt: skip
    return lambda _: [bench.telemetry(gpu=gpu, domains=domains)]


def test_sensor_disagreement(bench: Bench) -> None:
    bench.seconds(100, sensed(bench, 395.0))
    assert bench.alerts() == []
    bench.seconds(100, sensed(bench, 250.0))
    [alert] = bench.alerts("sensor_disagreement")
    assert alert.gpu_uuid == "GPU-0" and "the GPU says 400 W, the second sensor 250 W" in alert.summary
    bench.seconds(100, sensed(bench, 400.0))
    assert bench.told("sensor_disagreement") == ["firing", "resolved"]


def test_anomaly(bench: Bench) -> None:
    verdict = AnomalyVerdict(
        cluster="c1", node="n1", verdict_id="v", ts_ns=bench.now_ns, gpu_uuid="GPU-1", metric="waste_w", score=9.0,
        threshold=6.0, model="robust_z", model_version="1", action="alert", quality="simulated",
        window_start_ns=bench.now_ns - 60 * S, window_end_ns=bench.now_ns, evidence={"waste_w": 70.0},
    )  # fmt: skip
    bench.feed(verdict)
    [alert] = bench.alerts()
    assert (alert.rule, alert.gpu_uuid, alert.quality) == ("anomaly", "GPU-1", "simulated")
    assert alert.evidence == {"value": 9.0, "bound": 6.0, "waste_w": 70.0}
    bench.seconds(430, lambda _: [])
    assert bench.told("anomaly") == ["firing", "resolved"]


# --- the job ---


def test_normal_load_is_no_alert(bench: Bench) -> None:
    bench.feed(held(bench, n1_e0=False, n1_e1=True))
    calm = {"power_w": 450.0, "device": LIMITS, "waste_w": 5.0, "j_per_token_60s": 2.0}
    bench.seconds(400, lambda _: [bench.telemetry(), bench.features(**calm)])
    assert bench.alerts() == []


def hot(bench: Bench) -> Callable[[int], Sequence[Record]]:
    return lambda _: [bench.telemetry(), bench.features(power_w=699.0, device=LIMITS)]


def test_a_restart_tells_nothing_again_and_still_ends_what_was_open(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.feed(bench.ack("not_actuatable", "refused", "not_actuatable: x"))
    bench.seconds(120, hot(bench))
    first = bench.alerts()
    assert sorted(one.rule for one in first) == ["high_energy", "not_actuatable"]
    again = Bench(tmp_path, state=bench.state)  # kill -9: only what was published is left, and no revoke was called
    again.clock.now_s, again.seq = bench.clock.now_s, bench.seq
    again.start()
    again.seconds(120, hot(again))
    assert again.alerts() == []
    again.feed(again.ack("command", "applied"))
    again.seconds(120, lambda _: [again.telemetry(), again.features(power_w=300.0, device=LIMITS)])
    assert [(one.rule, one.state) for one in again.alerts()] == [
        ("not_actuatable", "resolved"), ("high_energy", "resolved")
    ]  # fmt: skip
    assert {one.alert_id for one in again.alerts()} == {one.alert_id for one in first}


def test_a_batch_that_is_read_twice_gives_the_same_alert_id(tmp_path: Path) -> None:
    """Killed between publishing the alert and its snapshot: the batch comes again."""
    ids = []
    for name in ("a", "b"):
        bench = Bench(tmp_path / name)
        bench.seconds(120, hot(bench))
        ids.append([one.alert_id for one in bench.alerts()])
    assert ids[0] == ids[1] and len(ids[0]) == 1


def test_an_alert_is_in_the_snapshot_before_its_batch_is_acknowledged(bench: Bench) -> None:
    bench.feed(bench.ack("not_actuatable", "refused", "x"))
    kinds = [type(record).__name__ for record, _ in bench.publisher.sent]
    assert kinds == ["Alert"] and ("alerts", 0) in bench.state.saved
    assert b"not_actuatable" in bytes(bench.state.saved["alerts", 0].data)


def test_after_a_restart_nobody_is_silent_before_they_had_time_to_speak(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.seconds(5, lambda _: [bench.telemetry("n1"), bench.telemetry("n2")])
    bench.job.revoke(frozenset({0}))
    again = Bench(tmp_path, state=bench.state)
    again.clock.now_s = bench.clock.now_s + 3600
    again.start()
    again.seconds(25, lambda _: [again.telemetry("n1")])
    assert again.alerts() == []
    again.seconds(10, lambda _: [again.telemetry("n1")])
    assert [one.node for one in again.alerts()] == ["n2"], "who never came back is missed all the same"


@pytest.mark.parametrize("silent", [{"n2"}, {"n1", "n2"}])
def test_a_restart_neither_ends_nor_repeats_a_silence(tmp_path: Path, silent: set[str]) -> None:
    """The new worker has heard nobody yet: that is no news of the node that was silent, nor of the cluster."""
    bench, both = Bench(tmp_path), {"n1", "n2"}
    bench.seconds(5, lambda _: [bench.telemetry(node) for node in both])
    bench.seconds(40, lambda _: [bench.telemetry(node) for node in both - silent])
    assert bench.told("agent_silent") == ["firing"]
    again = Bench(tmp_path, state=bench.state)
    again.clock.now_s = bench.clock.now_s + 5
    again.start()
    again.seconds(90, lambda _: [again.telemetry(node) for node in both - silent])
    assert again.alerts() == []
    again.seconds(5, lambda _: [again.telemetry(node) for node in both])
    assert again.told("agent_silent") == ["resolved"]


def test_a_restart_knows_who_is_held_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.feed(held(bench, n1_e0=False, n1_e1=True))
    bench.seconds(120, slow(bench, 45.0))
    assert bench.told("performance_degradation") == ["firing"] * 3
    again = Bench(tmp_path, state=bench.state)
    again.clock.now_s, again.seq = bench.clock.now_s, bench.seq
    again.start()
    again.seconds(120, slow(again, 30.0))
    assert again.told("performance_degradation") == ["resolved"] * 3


@pytest.mark.parametrize("topic", [TELEMETRY, FEATURES, DESIRED, APPLIED, ANOMALY])
@pytest.mark.parametrize("junk", [b"", b"{", b"\xff\xfe", b"[" * 5000, b"{}", b'{"cluster":"c1","node":1}'])
def test_what_does_not_decode_goes_to_the_dead_letters_and_the_job_goes_on(
    bench: Bench, topic: Topic, junk: bytes
) -> None:
    bench.feed(junk, topic=topic)
    assert len(bench.publisher.dead) == 1 and bench.publisher.dead[0][2] == junk
    bench.feed(bench.ack("not_actuatable", "refused", "x"))
    assert len(bench.alerts()) == 1


def test_columns_of_unequal_length_are_refused(bench: Bench) -> None:
    good = codec.encode(bench.features())
    bench.feed(good.replace(b'"power_w_mean_60s":[400.0,', b'"power_w_mean_60s":['), topic=FEATURES)
    assert "column power_w_mean_60s has 7 values for 8 rows" in bench.publisher.dead[0][0].error
    one = codec.encode(sensed(bench, 1.0)(0)[0])
    bench.feed(one.replace(b'"gpu_uuid":["GPU-0",', b'"gpu_uuid":['), topic=TELEMETRY)
    assert "column gpu_uuid has 2 values for 3 rows" in bench.publisher.dead[1][0].error


def test_another_clusters_records_are_not_ours(bench: Bench) -> None:
    bench.feed(msgspec.structs.replace(bench.ack("not_actuatable", "refused", "x"), cluster="other"))
    assert bench.alerts() == []


def test_a_node_with_a_clock_of_the_next_century_spoils_nothing(tmp_path: Path) -> None:
    bench = carbon(tmp_path, location="FR", carbon_factors=tmp_path / "factors.toml")
    bench.seconds(40, lambda _: [bench.telemetry(), bench.features(energy_j_delta=10_000.0)])
    far = msgspec.structs.replace(bench.features("n9", energy_j_delta=1.0), window_end_ns=4 * 10**18)
    bench.feed(far)
    bench.seconds(20, lambda _: [bench.telemetry(), bench.features(energy_j_delta=10_000.0)])
    assert bench.told("carbon_budget") == ["firing"] and bench.told("stream_lag") == []


def test_the_job_writes_alerts_and_its_snapshot_and_nothing_else(tmp_path: Path) -> None:
    """An alert never lowers a limit: whatever happens, nothing of another kind leaves this job."""
    bench = Bench(tmp_path)
    for event in ("command", "expiry", "restore", "foreign_change", "not_actuatable"):
        for status in ("applied", "refused", "expired", "restored"):
            bench.feed(bench.ack(event, status, "x"))
    bench.seconds(120, hot(bench))
    assert {type(record) for record, _ in bench.publisher.sent} == {Alert}
    assert len(bench.alerts()) > 3


# --- the rules' files ---


@pytest.mark.parametrize("name", sorted(path.stem for path in alerts_rules.SHIPPED.glob("*.toml")))
def test_every_shipped_rule_has_a_runbook_with_its_four_parts(name: str) -> None:
    values = alerts_rules.read_toml(alerts_rules.SHIPPED / f"{name}.toml")
    assert values["runbook"] == f"docs/runbooks/{name}.md"
    page = (ROOT / values["runbook"]).read_text()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == ["Meaning", "Look", "Act", "Undo"]


def test_the_brief_s_kinds_are_all_there() -> None:
    assert set(RULES) | {"carbon_budget"} == {
        "high_energy", "low_efficiency", "carbon_budget", "agent_silent", "stream_lag", "restore_failed",
        "not_actuatable", "performance_degradation", "limit_drift", "idle_leak", "sensor_disagreement",
        "restore_happened", "anomaly", "duplicate_node", "model_drift", "row_brake",
    }  # fmt: skip


def test_a_folder_overrides_by_name_and_a_broken_file_is_not_overlooked(tmp_path: Path) -> None:
    text = (alerts_rules.SHIPPED / "idle_leak.toml").read_text()
    (tmp_path / "idle_leak.toml").write_text(text.replace("threshold = 60.0", "threshold = 99.0"))
    (tmp_path / "anomaly.toml").write_text((alerts_rules.SHIPPED / "anomaly.toml").read_text() + "\n")
    found: dict[str, Rule] = dict(alerts_rules.load(tmp_path).rules)
    assert found["idle_leak"].threshold == 99.0 and found["high_energy"] == RULES["high_energy"]
    (tmp_path / "idle_leak.toml").write_text("enabled = false\n" + text)
    assert alerts_rules.load(tmp_path).silent["idle_leak"] == "enabled = false in its file"
    (tmp_path / "idle_leak.toml").write_text(text.replace("threshold", "treshold"))
    with pytest.raises(StreamsError, match=r"idle_leak\.toml: rule idle_leak: 'treshold' is no field"):
        alerts_rules.load(tmp_path)
    (tmp_path / "idle_leak.toml").write_text("x" * 70_000)
    with pytest.raises(StreamsError, match="at most 65536 are read"):
        alerts_rules.load(tmp_path)
    with pytest.raises(StreamsError, match="does not exist; make it, or unset EO_ALERT_RULES_DIR"):
        alerts_rules.load(tmp_path / "none")


def test_t0_is_what_the_fakes_say() -> None:
    assert T0_NS == 1_700_000_000 * S
