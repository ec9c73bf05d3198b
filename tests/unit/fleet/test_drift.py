"""A model that stops predicting: default clocks, an event, an alert. Virtual time, the real agent and capper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agents.fleet.fleet import SLOT_S
from agents.node.misses import Slo
from streams.contract.codec import encode
from streams.contract.records import NO_CAPPER, Alert, PowerApplied
from streams.contract.topics import APPLIED
from streams.jobs.alerts import AlertsJob
from streams.jobs.base import Outcome
from tests.unit.fleet.conftest import GPUS, Bench
from tests.unit.jobs.support import Clock, FakePublisher, context, messages

ENGINE = "sim-001/r0"


def granted(bench: Bench, seconds: float, step_s: float = 2.0) -> None:
    """Runs with leases renewed on node 0."""
    for _ in range(round(seconds / step_s)):
        bench.command(0, bench.envelope(0))
        bench.run(step_s)


def slower(bench: Bench, factor: float) -> None:
    """Another model behind the same name: every iteration takes longer."""
    engine = bench.fleet._bank.twin.engine
    stack = engine.stack
    engine.stack = replace(
        stack, bandwidth_share=stack.bandwidth_share / factor, flop_share=stack.flop_share / factor,
        overhead_s=stack.overhead_s * factor, sequence_s=stack.sequence_s * factor,
    )  # fmt: skip


def drifts(acks: list[PowerApplied]) -> list[PowerApplied]:
    return [ack for ack in acks if ack.event == "restore" and "model drift" in ack.gpu.reason[0]]


def test_drift_gives_default_clocks_an_event_and_an_alert_within_two_seconds(bench: Bench, tmp_path: Path) -> None:
    granted(bench, 24.0)
    registers, control = bench.fleet.registers, bench.fleet.nodes[0].agent.control
    assert control is not None and (registers.sm_lock_mhz[:GPUS] > 0).all()
    assert drifts(bench.acks()) == []
    slower(bench, 1.6)
    begun_ns, ended_ns = bench.wall_ns(), 0
    for _ in range(round(4.0 / SLOT_S)):
        bench.run(SLOT_S)
        if drifts(bench.acks()):
            ended_ns = bench.wall_ns()
            break
    told = drifts(bench.acks())[0]
    # Two or three windows of half a second, and at most half a second of the old model in the first of them.
    assert ended_ns and (ended_ns - begun_ns) / 1e9 <= 2.0
    rows = [registers.rows[uuid] for uuid in told.gpu.uuid]
    assert (registers.sm_lock_mhz[rows] == 0).all()
    assert (set(told.gpu.status), told.capper_id, told.quality) == ({"restored"}, NO_CAPPER, "simulated")
    assert set(told.gpu.effective_sm_mhz) == {None}
    engine = "sim-001/r0" if told.gpu.uuid == registers.uuids[:4] else "sim-001/r1"
    assert told.gpu.reason[0].startswith(f"model drift: the model does not predict {engine} any more")
    assert "default clocks while it is calibrated anew" in control.reasons[engine]
    assert control.report(engine).state == "recalibrating"  # type: ignore[union-attr]

    # The alerts job takes what the node has spooled: one alert, and it ends by itself.
    clock = Clock()
    ctx = context(tmp_path / "jobs", clock)
    job = AlertsJob()
    job.start(ctx)
    job.assign(frozenset({0}))
    told = msgspec.structs.replace(told, cluster="c1")
    records = messages([told, told], 0)
    assert job.process(APPLIED, 0, records) is Outcome.ACK
    publisher = ctx.publisher
    assert isinstance(publisher, FakePublisher)
    [alert] = publisher.of(Alert)
    assert (alert.rule, alert.node, alert.state, alert.severity) == ("model_drift", "sim-001", "firing", "warning")
    assert alert.summary.startswith(f"SIMULATED: sim-001: model drift: the model does not predict {engine}")
    assert (alert.ts_ns - begun_ns) / 1e9 <= 2.0 and alert.quality == "simulated"
    # What is left of the two seconds is the fetch: the job waits half a second for a batch at most.
    assert (alert.ts_ns - begun_ns) / 1e9 + AlertsJob.fetch.max_wait_ms / 1e3 <= 2.5


def test_a_drift_is_told_once_a_minute_and_the_new_model_is_learned(bench: Bench) -> None:
    granted(bench, 24.0)
    slower(bench, 1.6)
    granted(bench, 40.0)
    assert 1 <= len(drifts(bench.acks())) <= 2  # one for each of the two engines
    control = bench.fleet.nodes[0].agent.control
    assert control is not None
    report = control.report(ENGINE)
    assert report is not None and report.state == "controlled"
    assert report.decode_ratio == pytest.approx(1.6, rel=0.1)
    records = [r for r in bench.telemetry() if r.node == "sim-001"]
    last = next(e.control for e in records[-1].engines if e.engine == ENGINE)
    assert last is not None and last.decode_ratio == pytest.approx(1.6, rel=0.1)
    errors = [e.control.time_error_ratio for r in records for e in r.engines if e.engine == ENGINE and e.control]
    assert max(error for error in errors if error is not None) > 0.2


def test_nothing_is_granted_and_still_it_learns(bench: Bench) -> None:
    bench.run(20.0)
    control = bench.fleet.nodes[1].agent.control
    assert control is not None
    report = control.report("sim-002/r0")
    assert report is not None and report.state == "watched"
    assert report.decode_ratio == pytest.approx(1.0, abs=0.05) and report.power_ratio is not None
    assert bench.fleet.registers.changed() == ()


def test_over_one_percent_of_misses_in_the_hour_keep_default_clocks(bench: Bench) -> None:
    control = bench.fleet.nodes[0].agent.control
    assert control is not None
    control._slo = Slo(ttft_ms=1.0)  # every request misses this one
    granted(bench, 20.0)
    assert (bench.fleet.registers.sm_lock_mhz[:GPUS] > 0).any()  # too few requests to say anything yet
    granted(bench, 30.0)
    assert (bench.fleet.registers.sm_lock_mhz[:GPUS] == 0).all()
    assert control.reasons[ENGINE] == "100.0% of the last hour's requests missed the SLO, bound 1 %: default clocks"
    report = control.report(ENGINE)
    assert report is not None and (report.state, report.missed_ratio) == ("rolled_back", 1.0)
    assert encode(bench.telemetry()[-1])  # what is not a number would not be JSON


def test_the_record_still_counts_every_gap_that_the_loop_was_shown(bench: Bench) -> None:
    bench.run(20.0)
    first, last = (next(r for r in records if r.node == "sim-001") for records in _ends(bench))
    tokens = last.engines[0].generation_tokens_total - first.engines[0].generation_tokens_total
    counted = sum(
        sum(e.tbt.count) for r in bench.telemetry() if r.node == "sim-001" and first.seq < r.seq <= last.seq
        for e in r.engines[:1] if e.tbt is not None
    )  # fmt: skip
    firsts = sum(
        sum(e.ttft.count) for r in bench.telemetry() if r.node == "sim-001" and first.seq < r.seq <= last.seq
        for e in r.engines[:1] if e.ttft is not None
    )  # fmt: skip
    assert counted + firsts == tokens  # each token is a first one or has a gap before it


def _ends(bench: Bench) -> tuple[list, list]:  # type: ignore[type-arg]
    records = bench.telemetry()
    return records, records[::-1]
