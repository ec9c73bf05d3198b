"""Metrics as an interface: the page is current, no name goes away, series are bounded, own cost is told honestly."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from agents.cli import metrics as verb
from agents.cli import metrics_docs
from agents.cli.main import main
from agents.node import families
from streams import run_note
from streams.contract.layout import Layout
from streams.contract.records import DomainColumns, NodeTelemetry
from streams.errors import StreamsError
from streams.metrics import WorkerMetrics
from streams.observe import hw
from streams.observe.own_cost import CPUS, OwnCost, own_watts

ROOT = Path(__file__).parents[3]
FROZEN = ROOT / "tests" / "contracts" / "golden" / "metrics-v1.txt"


def by_name(metrics: list[Metric]) -> dict[str, Metric]:
    return {metrics_docs.exposed(metric): metric for metric in metrics}


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == metrics_docs.page(), "run: python -m agents.cli.metrics_docs > docs/metrics.md"


def test_no_metric_of_a_released_version_is_renamed_removed_or_loses_a_label() -> None:
    now = {(process, name): (kind, set(labels.split(", "))) for process, rows in metrics_docs.rows().items()
           for name, kind, labels, _ in rows}  # fmt: skip
    for line in FROZEN.read_text().splitlines():
        process, name, kind, labels = line.split()
        assert (process, name) in now, f"{name} of {process} is an interface; a test of yours may not remove it"
        kind_now, labels_now = now[process, name]
        assert kind_now == kind
        assert {label for label in labels.split(",") if label != "-"} <= labels_now


def test_the_names_that_users_of_dcgm_kepler_and_prometheus_know() -> None:
    names = {name for _, rows in metrics_docs.rows().items() for name, *_ in rows}
    assert {"DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_POWER_USAGE_INSTANT", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"} <= names
    assert {"kepler_node_gpu_joules_total", "kepler_node_gpu_watts", "kepler_node_cpu_watts"} <= names
    units = ("_total", "_watts", "_seconds", "_ratio", "_celsius", "_bytes", "_hertz", "_records")
    odd = {name for name in names if name.startswith("eo_") and not name.endswith(units)}
    counts = {"eo_gpu_ok", "eo_gpu_sm_lock_mhz", "eo_spool_depth", "eo_capper_up", "eo_capper_held", "eo_capper_gpus"}
    counts |= {"eo_engine_requests_running", "eo_engine_requests_waiting", "eo_node_sensor_value", "eo_worker_info"}
    counts |= {"eo_cluster_gpus", "eo_cluster_gpus_power_unknown", "eo_gateway_stream_clients"}
    counts |= {"eo_engine_chunk_tokens", "eo_engine_control_state", "eo_row_braked_gpus"}
    deliver = {"eo_deliver_pending", "eo_deliver_alertmanager_failures"}
    assert odd == counts | {"eo_worker_dead_letters", "eo_worker_outstanding", "eo_alerts_firing"} | deliver


def test_series_of_eight_gpus_are_bounded_whatever_the_node_has() -> None:
    series = sum(len(m.samples) for m in metrics_docs.families(metrics_docs.agent_collectors(gpus=8)))
    assert 8 * 30 < series < 450
    many = metrics_docs.sample(8)
    assert many.domains is not None
    wide = {
        name: tuple(f"{name}-{i}" if name == "name" else value[0] for i in range(5000))
        for name, value in msgspec.structs.asdict(many.domains).items()
    }
    engines = tuple(msgspec.structs.replace(many.engines[0], engine=f"e{i}") for i in range(5000))
    record = msgspec.structs.replace(many, domains=DomainColumns(**wide), engines=engines)
    assert len(by_name(list(families.of_host([record])))["eo_domain_power_watts"].samples) == families.LIMIT
    from agents.node.families_engine import of_engines

    found = by_name(list(of_engines([(record, ())])))
    assert len(found["eo_engine_requests_running"].samples) == families.LIMIT


def test_no_label_names_a_process_or_a_request() -> None:
    labels = {label for rows in metrics_docs.rows().values() for _, _, names, _ in rows for label in names.split(", ")}
    assert not labels & {"pid", "process", "comm", "request", "request_id", "user", "trace_id"}


def test_energy_is_joules_beside_dcgms_millijoules_and_pods_get_whole_boards() -> None:
    record: NodeTelemetry = metrics_docs.sample(3)
    assert record.gpu is not None
    gpu = msgspec.structs.replace(
        record.gpu, energy_mj=(5_000, None, 7_000), power_w=(300.0, 200.0, None), pod=("a", "a", None),
        namespace=("ns", "ns", None), limit_requested_w=(None, 400.0, None), limit_w=(700.0, 350.0, None),
    )  # fmt: skip
    found = by_name(list(families.of_gpus([msgspec.structs.replace(record, gpu=gpu)])))
    assert [s.value for s in found["eo_gpu_energy_joules_total"].samples] == [5.0, 7.0]
    assert [s.value for s in found["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"].samples] == [5_000, 7_000]
    pods = found["kepler_pod_gpu_watts"].samples
    assert [(s.labels["pod_namespace"], s.labels["pod_name"], s.value) for s in pods] == [("ns", "a", 500.0)]
    # What was asked for is preferred; the limit in force stands in where a source cannot tell it.
    assert [s.value for s in found["DCGM_FI_DEV_POWER_MGMT_LIMIT"].samples] == [700.0, 400.0]


def test_a_drivers_nonsense_costs_its_own_sample_and_not_the_page() -> None:
    record = metrics_docs.sample(2)
    assert record.gpu is not None and record.domains is not None and record.sensors is not None
    nan, inf = float("nan"), float("inf")
    gpu = msgspec.structs.replace(
        record.gpu, power_w=(nan, 5.0), temp_c=(inf, 50.0), util_ratio=(0.5,), name=('a"b\\n', "\udcff"), state=("ok",)
    )
    domains = msgspec.structs.replace(record.domains, power_w=(nan,), parent=())
    broken = msgspec.structs.replace(
        record, gpu=gpu, domains=domains, sensors=msgspec.structs.replace(record.sensors, value=())
    )
    found = by_name([*families.of_gpus([broken]), *families.of_host([broken])])
    assert [s.value for s in found["eo_gpu_power_watts"].samples] == [5.0]
    assert [s.value for s in found["eo_gpu_temperature_celsius"].samples] == [50.0]
    assert [s.value for s in found["eo_gpu_utilization_ratio"].samples] == [0.5]
    assert not found["eo_domain_power_watts"].samples and not found["eo_node_sensor_value"].samples
    registry = CollectorRegistry()
    registry.register(type("One", (), {"collect": lambda self: list(found.values())})())
    text = generate_latest(registry).decode()
    assert len(list(text_string_to_metric_families(text))) == len(found)
    points = json.dumps(hw.metrics([broken], 0), allow_nan=False)
    assert "hw.power" in points


@pytest.mark.parametrize(
    ("name", "maker"),
    [("NVIDIA H100 80GB HBM3", "nvidia"), ("AMD Instinct MI300X", "amd"), ("Ascend 910B", ""), (None, "")],
)
def test_the_vendor_comes_from_the_device_name_or_stays_unknown(name: str | None, maker: str) -> None:
    assert families.vendor(name) == maker


def test_own_watts_are_a_share_of_a_known_power_and_else_unknown() -> None:
    assert own_watts(0.5, 0.5, 100.0) == pytest.approx(100 * min(1.0, 0.5 / (0.5 * CPUS)))
    assert own_watts(0.5, 0.5, None) is None
    assert own_watts(0.5, None, 100.0) is None
    assert own_watts(0.5, 0.0, 100.0) is None
    cpu, clock = iter((1.0, 1.5)), iter((10.0, 11.0))
    cost = OwnCost(
        "x", sent_bytes=lambda: 7, watts=lambda r: 40 * r, cpu_s=lambda: next(cpu), monotonic=lambda: next(clock)
    )
    found = by_name(list(cost.collect()))
    assert found["eo_process_power_watts"].samples[0].value == pytest.approx(20.0)
    assert found["eo_process_power_watts"].samples[0].labels["quality"] == "estimated"
    assert found["eo_process_sent_payload_bytes_total"].samples[0].value == 7
    assert found["eo_process_resident_memory_bytes"].samples[0].value > 1e6
    assert not by_name(list(OwnCost("x").collect()))["eo_process_power_watts"].samples


def test_a_run_note_is_a_target_for_prometheus_as_long_as_its_process_serves(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    note = run_note.write(layout, "features", role="worker:features", metrics="127.0.0.1:1234")
    file = layout.run / "targets" / "features.json"
    assert json.loads(file.read_text()) == [{"targets": ["127.0.0.1:1234"], "labels": {"eo_role": "worker:features"}}]
    agent = run_note.write(layout, "agent-n.x", role="agent", node="n.x", metrics="http://127.0.0.1:9465/metrics")
    assert verb.targets(layout)[0] == {"targets": ["127.0.0.1:9465"], "labels": {"eo_role": "agent", "eo_node": "n.x"}}
    wild = run_note.target_of({"metrics": "0.0.0.0:9466", "role": "worker:ledger"})
    assert wild == {"targets": ["127.0.0.1:9466"], "labels": {"eo_role": "worker:ledger"}}
    (layout.run / "targets" / "torn.json").write_text('[{"tar')
    assert len(verb.targets(layout)) == 2
    run_note.forget(note)
    run_note.forget(agent)
    assert verb.targets(layout) == []
    run_note.write(layout, "worker", role="supervisor")
    assert not (layout.run / "targets" / "worker.json").exists()


def test_the_verb_prints_targets_and_says_when_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    assert main(["metrics", "targets"]) == 1
    assert f"no process with metrics has a run file in {tmp_path}/run; start one" in capsys.readouterr().err
    run_note.write(Layout(tmp_path), "fleet", role="fleet", metrics="http://127.0.0.1:7/metrics")
    assert main(["metrics", "targets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["targets"] == ["127.0.0.1:7"]
    assert main(["metrics", "targets"]) == 0
    assert f"file_sd_configs: {tmp_path}/run/targets/*.json" in capsys.readouterr().out


def test_a_worker_serves_on_loopback_and_says_when_a_port_is_taken() -> None:
    address = WorkerMetrics("features").serve()
    assert address.startswith("127.0.0.1:")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert b'eo_worker_info{job="features"} 1.0' in answer.read()
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(StreamsError, match=rf"cannot be served on 127.0.0.1:{port} .*EO_METRICS_PORT"):
        WorkerMetrics("anomaly").serve("127.0.0.1", port)
    assert os.environ.get("EO_METRICS_PORT") is None
