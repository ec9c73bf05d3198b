"""The fleet is the real agent and the real capper on simulated devices: sampled, commanded, expired, restarted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agents.node.tracing import NodeTracing
from streams.contract.codec import encode
from streams.observe.otlp_json import LightTracer
from streams.observe.trace import OtelSettings
from tests.unit.fleet.conftest import GPUS, NODES, Bench, make_bench


def test_each_node_sends_one_simulated_record_a_second_with_all_gpus(bench: Bench) -> None:
    bench.run(5.0)
    records = bench.telemetry()
    assert len(records) == 5 * NODES
    assert {record.quality for record in records} == {"simulated"}
    for node in bench.fleet.registers.nodes:
        assert [r.seq for r in records if r.node == node] == [1, 2, 3, 4, 5]
    gpu = records[-1].gpu
    assert gpu is not None
    assert len(gpu.uuid) == GPUS
    assert gpu.mem_used_mb is None  # memory is not simulated: unknown, not zero
    assert gpu.power_w is not None
    assert min(w for w in gpu.power_w if w is not None) > 50


def test_the_energy_counter_rises_with_power_and_survives_a_restart(bench: Bench, tmp_path: Path) -> None:
    bench.run(20.0)
    before = bench.fleet.registers.energy_mj.copy()
    assert (before > 20 * 60 * 1000).all()  # 20 s at more than the idle 60 W
    stop(bench)
    again = make_bench(tmp_path)
    again.run(1.0)
    assert (again.fleet.registers.energy_mj > before).all()


def test_a_granted_node_lowers_its_clocks_and_its_power_and_the_others_stay(bench: Bench) -> None:
    bench.run(5.0)
    ack = bench.command(0, bench.envelope(0))
    assert set(ack.gpu.status) == {"applied"}
    for _ in range(10):
        bench.run(3.0)
        bench.command(0, bench.envelope(0))
    registers = bench.fleet.registers
    assert (registers.sm_lock_mhz[:GPUS] > 0).all()
    assert (registers.limit_w[:GPUS] == 600.0).all()
    assert (registers.sm_lock_mhz[GPUS:] == 0).all()
    assert (registers.limit_w[GPUS:] == 700.0).all()
    rate = np.diff([mean_energy(bench, 0), step_and_mean(bench, 0)])[0]
    other = np.diff([mean_energy(bench, 1), step_and_mean(bench, 1)])[0]
    assert rate < other


def mean_energy(bench: Bench, node: int) -> float:
    return float(bench.fleet.registers.energy_mj[node * GPUS : (node + 1) * GPUS].mean())


def step_and_mean(bench: Bench, node: int) -> float:
    bench.command(0, bench.envelope(0))
    bench.run(4.0)
    return mean_energy(bench, node)


def test_an_unrenewed_lease_puts_every_device_back_within_ttl_plus_one_second(bench: Bench) -> None:
    bench.command(0, bench.envelope(0, ttl_ms=5000))
    bench.run(4.0)
    assert bench.fleet.registers.changed()
    bench.run(2.0)
    assert bench.fleet.registers.changed() == ()
    assert any(ack.event == "expiry" and set(ack.gpu.status) <= {"expired", "restored"} for ack in bench.acks())


def test_closing_restores_and_reports_it(bench: Bench) -> None:
    bench.command(1, bench.envelope(1))
    bench.run(3.0)
    bench.fleet.close()
    assert bench.fleet.registers.changed() == ()
    last = bench.acks()[-1]
    assert (last.event, set(last.gpu.status), len(last.gpu.uuid)) == ("restore", {"restored"}, GPUS)


def test_a_killed_fleet_leaves_its_limits_and_the_next_start_puts_them_back(bench: Bench, tmp_path: Path) -> None:
    bench.command(2, bench.envelope(2))
    bench.run(2.0)
    changed = bench.fleet.registers.changed()
    assert len(changed) == GPUS
    kill(bench)
    again = make_bench(tmp_path)
    assert again.fleet.registers.changed() == ()
    again.run(1.0)
    assert any("restored" in ack.gpu.status for ack in again.acks())


def test_a_command_applied_twice_changes_nothing(bench: Bench) -> None:
    envelope = bench.envelope(0)
    first = bench.command(0, envelope)
    state = bench.fleet.registers.limit_w.copy()
    second = bench.command(0, envelope)
    assert second.gpu == first.gpu
    assert (bench.fleet.registers.limit_w == state).all()


def test_a_forged_command_is_refused_with_its_reason(bench: Bench) -> None:
    envelope = bench.envelope(0)
    forged = msgspec.structs.replace(envelope, ttl_ms=6000)
    ack = bench.command(0, forged)
    assert set(ack.gpu.status) == {"refused"}
    assert "signature" in ack.gpu.reason[0]
    assert bench.fleet.registers.changed() == ()


def test_holdout_gpus_are_never_touched(bench: Bench) -> None:
    envelope = bench.envelope(0)
    gpu = msgspec.structs.replace(envelope.gpu, holdout=(True,) * 4 + (False,) * 4)
    bench.command(0, bench.envelope(0, gpu=gpu))
    bench.run(4.0)
    assert (bench.fleet.registers.limit_w[:4] == 700.0).all()
    assert (bench.fleet.registers.sm_lock_mhz[:4] == 0).all()
    assert (bench.fleet.registers.limit_w[4:GPUS] == 600.0).all()


@pytest.mark.parametrize("gpus", [6, 10])
def test_gpus_that_do_not_divide_into_engines_are_refused(gpus: int, tmp_path: Path) -> None:
    from agents.fleet import registers as fleet_registers
    from agents.fleet.bank import Bank

    registers = fleet_registers.create(tmp_path, cluster="c", nodes=1, gpus_per_node=gpus)
    with pytest.raises(ValueError, match="choose a multiple"):
        Bank(registers, twin=None, gpus_per_engine=4)  # type: ignore[arg-type]  # refused before it is looked at


def stop(bench: Bench) -> None:
    bench.fleet.close()
    bench.spool.close()
    bench.acks_spool.close()


def kill(bench: Bench) -> None:
    """What SIGKILL leaves: files and device registers as they are, locks released by the kernel."""
    for node in bench.fleet.nodes:
        node.capper._drop_files()
    bench.spool.close()
    bench.acks_spool.close()


def test_a_fleet_traces_through_its_own_cappers(bench: Bench) -> None:
    """Agent and capper in one process: the same spans, the capper's under its own name."""
    sent: list[dict[str, Any]] = []
    settings = OtelSettings(traces="http://127.0.0.1:1/v1/traces")
    tracer = LightTracer(settings, "eo-fleet", post=lambda url, headers, body: sent.append(json.loads(body)))
    tracing, agent = NodeTracing(tracer, every=1), bench.fleet.nodes[0].agent
    agent.tracing = tracing
    bench.run(1)
    raw = encode(bench.envelope(0))
    root = tracer.start("actuation.commit")
    tracing.arrived(raw, [("traceparent", root.traceparent.encode())])
    ack = agent.command(raw, bench.wall_ns())
    assert ack is not None and set(ack.gpu.status) == {"applied"}
    again = encode(bench.envelope(0))
    tracing.arrived(again, [("traceparent", b"00-nonsense")])
    agent.command(again, bench.wall_ns())
    records = bench.acks_spool.read(0, 10)
    assert ["traceparent" in dict(tracing.applied_headers(record)) for record in records[-2:]] == [True, False]
    tracing.close()
    groups = [group for body in sent for group in body["resourceSpans"]]
    names: dict[str, set[str]] = {}
    for group in groups:
        resource = {item["key"]: item["value"] for item in group["resource"]["attributes"]}
        spans = group["scopeSpans"][0]["spans"]
        names.setdefault(resource["service.name"]["stringValue"], set()).update(span["name"] for span in spans)
    assert names["eo-fleet"] == {"agent.sample", "node.receive"}
    assert names["eo-capper"] == {"capper.grant", "capper.verify", "capper.set", "capper.readback"}


def test_a_request_that_joins_a_granted_engine_gets_a_round_out_of_turn(bench: Bench) -> None:
    asked: list[tuple[float, frozenset[str] | None]] = []
    agent = bench.fleet.nodes[0].agent
    own = agent.control_step

    def step(now_mono_s: float, *, only: frozenset[str] | None = None) -> None:
        asked.append((now_mono_s, only))
        own(now_mono_s, only=only)

    agent.control_step = step  # type: ignore[method-assign]
    bench.run(5.0)
    assert {only for _, only in asked} == {None}  # nothing is granted: twice a second is enough
    asked.clear()
    bench.command(0, bench.envelope(0))
    bench.run(4.0)
    joined = [only for _, only in asked if only is not None]
    # A request each 0.7 s and engine, some in a slot whose turn it is anyway.
    assert 3 <= len(joined) <= 12 and all(only <= {"sim-001/r0", "sim-001/r1"} for only in joined)
    assert len([1 for _, only in asked if only is None]) == 8


def test_the_twins_engines_take_a_chunk_size_and_get_their_own_back_with_the_lease(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    control, bank = bench.fleet.nodes[0].agent.control, bench.fleet._bank
    assert control is not None
    control._chunks = bank
    bench.run(2.0)
    control._drives.clear()
    for _ in range(10):
        bench.command(0, bench.envelope(0))
        bench.run(2.0)
    chunks = bank.twin.engine.chunk_tokens
    assert 128 <= chunks[0] < 512 and chunks[2] == 512
    record = [r for r in bench.telemetry() if r.node == "sim-001"][-1]
    assert record.engines[0].control is not None and record.engines[0].control.chunk_tokens == chunks[0]
    bench.run(6.0)
    assert (bank.twin.engine.chunk_tokens == 512).all()
    for _ in range(4):
        bench.command(0, bench.envelope(0))
        bench.run(2.0)
    assert chunks[0] < 512
    control.release()
    assert (bank.twin.engine.chunk_tokens == 512).all()
