"""What Prometheus sees: DCGM's names and units, no sample for the unknown, an address that is taken."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agents.node import exporter
from agents.node.agent import NodeAgent
from agents.node.control_loop import ControlLoop
from agents.node.errors import SettingsError
from agents.node.exporter import AgentCollector
from agents.node.publisher import EventPublisher
from agents.node.spool import Spool
from streams.contract.records import GpuColumns
from tests.fakes.kafka_producer import FakeProducer
from tests.fakes.sources import UUIDS, FakeCapper, FakeSource, desired, engine, gpu_columns


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path, max_bytes=1 << 20, segment_bytes=1 << 16)
    yield made
    made.close()


Samples = dict[tuple[str, str | None], float]


def scrape(collector: AgentCollector) -> Samples:
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    return {
        (sample.name, sample.labels.get("UUID") or sample.labels.get("source")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def collector(agent: NodeAgent, spool: Spool) -> AgentCollector:
    return AgentCollector(agent, spool, published=lambda: 3, wall_ns=lambda: 12 * 10**9, monotonic=lambda: 100.0)


def test_dcgm_names_carry_dcgm_units(spool: Spool) -> None:
    gpu = GpuColumns(
        uuid=UUIDS[:1],
        name=("NVIDIA H100",),
        power_w=(412.5,),
        energy_mj=(10**12,),
        util_ratio=(0.5,),
        mem_used_mb=(1048.576,),
        limit_w=(650.0,),
        limit_default_w=(700.0,),
        sm_mhz=(1755,),
        temp_c=(61.0,),
        throttle=(4,),
    )
    agent = NodeAgent("c", "n1", [FakeSource("nvml", gpu=gpu)], spool)
    agent.sample(10 * 10**9)
    found = scrape(collector(agent, spool))
    uuid = UUIDS[0]
    assert found["DCGM_FI_DEV_POWER_USAGE", uuid] == 412.5
    assert found["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", uuid] == 1e12
    assert found["DCGM_FI_DEV_GPU_UTIL", uuid] == 50
    assert found["DCGM_FI_DEV_FB_USED", uuid] == pytest.approx(1000)
    assert found["DCGM_FI_DEV_ENFORCED_POWER_LIMIT", uuid] == 650
    assert found["DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF", uuid] == 700
    assert found["DCGM_FI_DEV_SM_CLOCK", uuid] == 1755
    assert found["DCGM_FI_DEV_GPU_TEMP", uuid] == 61
    assert found["DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", uuid] == 4
    assert found["eo_sample_age_seconds", None] == 2
    assert (found["eo_spool_depth", None], found["eo_published_total", None]) == (1, 3)
    assert found["eo_spool_lost_total", None] == 0
    assert found["eo_agent_cpu_seconds_total", None] > 0


def test_labels_are_dcgms_plus_quality(spool: Spool) -> None:
    gpu = gpu_columns(1, name=("NVIDIA H100",))
    agent = NodeAgent("c", "n1", [FakeSource("twin", gpu=gpu, quality="simulated")], spool)
    agent.sample(1)
    metric = next(m for m in collector(agent, spool).collect() if m.name == "DCGM_FI_DEV_POWER_USAGE")
    assert metric.samples[0].labels == {
        "gpu": "0",
        "UUID": UUIDS[0],
        "modelName": "NVIDIA H100",
        "Hostname": "n1",
        "quality": "simulated",
    }


def test_the_unknown_has_no_sample(spool: Spool) -> None:
    gpu = gpu_columns(2, power_w=(1.0, None), temp_c=None, state=("ok", "lost"))
    agent = NodeAgent("c", "n1", [FakeSource("nvml", gpu=gpu)], spool)
    assert ("eo_sample_age_seconds", None) not in scrape(collector(agent, spool))
    agent.sample(1)
    found = scrape(collector(agent, spool))
    assert ("DCGM_FI_DEV_POWER_USAGE", UUIDS[0]) in found
    assert ("DCGM_FI_DEV_POWER_USAGE", UUIDS[1]) not in found
    assert not [name for name, _ in found if name == "DCGM_FI_DEV_GPU_TEMP"]
    assert (found["eo_gpu_ok", UUIDS[0]], found["eo_gpu_ok", UUIDS[1]]) == (1, 0)


def test_locks_leases_and_failures(tmp_path: Path, spool: Spool) -> None:
    acks = Spool(tmp_path / "acks", max_bytes=1 << 20, segment_bytes=1 << 16)
    control = ControlLoop("n1", FakeCapper(), monotonic=lambda: 95.0)
    source, bad = FakeSource("nvml", gpu=gpu_columns(), engines=(engine(),)), FakeSource("bad")
    bad.broken = "no"
    agent = NodeAgent("c", "n1", [source, bad], spool, control, events=EventPublisher(acks, FakeProducer()))
    assert ("eo_lease_remaining_seconds", None) not in scrape(collector(agent, spool))
    agent.command(desired(ttl_ms=15_000), 0)
    control.locks[UUIDS[2]] = 1500
    agent.sample(1)
    found = scrape(collector(agent, spool))
    assert found["eo_gpu_sm_lock_mhz", UUIDS[2]] == 1500
    assert ("eo_gpu_sm_lock_mhz", UUIDS[0]) not in found
    assert found["eo_lease_remaining_seconds", None] == 10
    assert found["eo_source_failures_total", "bad"] == 1
    assert found["eo_commands_refused_total", None] == 0
    acks.close()


def test_serves_on_a_free_port_and_says_when_one_is_taken(spool: Spool) -> None:
    agent = NodeAgent("c", "n1", [FakeSource("a", gpu=gpu_columns(1))], spool)
    agent.sample(1)
    server, thread, port = exporter.serve(collector(agent, spool), "127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"DCGM_FI_DEV_POWER_USAGE{" in answer.read()
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"on 127.0.0.1:{port} .*EO_NODE_METRICS_PORT"):
            exporter.serve(collector(agent, spool), "127.0.0.1", port)
