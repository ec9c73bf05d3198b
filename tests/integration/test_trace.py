"""One command's trace through real processes: node agent, capper, features, actuation, ledger, to an OTLP receiver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol
from uuid import uuid4

import msgspec
import pytest

from agents.cli.config import ensure_keys
from agents.cli.main import main
from agents.cli.processes import end
from agents.fleet import registers as fleet_registers
from streams.contract.layout import Layout
from streams.contract.records import GpuColumns, NodeTelemetry
from tests.fakes.otlp_receiver import Receiver, SpanSeen

pytestmark = pytest.mark.integration
NODE = "sim-001"
WATTS = 500.0
SERVICES = {"eo-agent", "eo-capper", "eo-worker-features", "eo-worker-actuation", "eo-worker-ledger"}
ANSWER = ["ledger.answer", "node.receive", "actuation.commit", "actuation.decide", "features.process", "agent.sample"]
SETTING = ["capper.set", "capper.grant", "node.receive"]
WHOLE = {*ANSWER, *SETTING, "capper.readback", "capper.verify"}


class Site:
    """A node with a capper on simulated devices, three jobs, all exporting to one receiver."""

    def __init__(self, bootstrap: str, folder: Path, receiver: Receiver) -> None:
        self.layout, self.cluster = Layout(folder), f"trace-{uuid4().hex[:8]}"
        ensure_keys(self.layout)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("EO_", "OTEL_"))},
            "EO_DATA_DIR": str(folder),
            "EO_CLUSTER": self.cluster,
            "KAFKA_BOOTSTRAP": bootstrap,
            "EO_MODE": "on",
            "EO_ENVELOPE_INTERVAL_S": "1",
            "EO_CAPPER_OPT_IN": "1",
            "EO_CAPPER_MAX_MODE": "on",
            "EO_NODE_NAME": NODE,
            "EO_NODE_SOURCES": "replay",
            "EO_NODE_REPLAY_PATH": str(folder / "recording.jsonl"),
            "EO_NODE_METRICS_PORT": "0",
            "EO_TRACE_EVERY": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-team=energy%20team",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.registers = fleet_registers.create(self.layout.fleet, cluster=self.cluster, nodes=1, gpus_per_node=8)
        (folder / "recording.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, self._recording())))
        self.children: list[subprocess.Popen[bytes]] = []

    def _recording(self) -> list[NodeTelemetry]:
        uuids = self.registers.node_uuids(0)
        rows = len(uuids)
        return [
            NodeTelemetry(
                cluster=self.cluster, node=NODE, boot_id="r", seq=i, ts_ns=i * 10**9, source=("replay",),
                quality="simulated",
                gpu=GpuColumns(
                    uuid=uuids, name=("NVIDIA H100",) * rows, power_w=(600.0,) * rows,
                    energy_mj=tuple(600_000 * i for _ in uuids), limit_w=(700.0,) * rows,
                    limit_default_w=(700.0,) * rows, limit_min_w=(200.0,) * rows, limit_max_w=(700.0,) * rows,
                    sm_max_mhz=(1980,) * rows, util_ratio=(0.9,) * rows, temp_c=(60.0,) * rows,
                ),
            )
            for i in range(1, 4)
        ]  # fmt: skip

    def start(self, *argv: str) -> None:
        log = (self.layout.root / f"{'-'.join(argv[:2])}.log").open("ab")
        with log:
            self.children.append(
                subprocess.Popen([sys.executable, "-m", "agents", *argv], env=self.env, stdout=log, stderr=log)
            )

    def logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()[-1500:]}" for p in sorted(self.layout.root.glob("*.log")))

    def stop(self) -> None:
        for child in reversed(self.children):
            end(child, 20)


def until(condition: Callable[[], object], seconds: float, site: Site) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, site.logs()
        time.sleep(0.1)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def site(topics: str, tmp_path: Path, receiver: Receiver) -> Iterator[Site]:
    made = Site(topics, tmp_path, receiver)
    for job in ("features", "actuation", "ledger"):
        made.start("worker", job)
    made.start("capper", "--actuator", "twin", "--node", NODE)
    until(lambda: (made.layout.capper / NODE / "capper.sock").exists(), 30, made)
    made.start("agent")
    yield made
    made.stop()


def chain(span: SpanSeen, by_id: dict[str, SpanSeen]) -> list[str]:
    """Names from a span up to the root of its trace."""
    names = [span.name]
    while span.parent_id:
        span = by_id[span.parent_id]
        names.append(span.name)
    return names


class Arrived(Protocol):
    """Where spans come in."""

    @property
    def spans(self) -> list[SpanSeen]: ...


def whole_traces(receiver: Arrived) -> list[dict[str, SpanSeen]]:
    """Traces of which every span has come in: each process sends its own once a second, parents after children too."""
    traces: dict[str, dict[str, SpanSeen]] = {}
    for span in list(receiver.spans):
        traces.setdefault(span.trace_id, {})[span.span_id] = span
    return [spans for spans in traces.values() if {span.name for span in spans.values()} >= WHOLE]


@pytest.mark.parametrize("late", sorted(WHOLE))
def test_a_trace_is_whole_only_when_its_last_span_has_come_in(late: str) -> None:
    """Whichever process sends last, under load the features job too: what counts as whole can be walked to its root."""
    parents = dict(pairwise(ANSWER)) | dict(pairwise(SETTING))
    spans = {
        name: SpanSeen(
            service="s", pid=1, name=name, trace_id="t", span_id=name,
            parent_id=parents.get(name, "" if name == ANSWER[-1] else "capper.grant"),
            start_ns=1, end_ns=2, attributes={},
        )
        for name in WHOLE
    }  # fmt: skip
    seen = SimpleNamespace(spans=[span for name, span in spans.items() if name != late])
    assert whole_traces(seen) == []
    seen.spans.append(spans[late])
    assert whole_traces(seen) == [spans]
    assert chain(spans["ledger.answer"], spans) == ANSWER


def test_one_commands_trace_joins_five_processes(
    site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    until(lambda: any(span.name == "node.receive" for span in receiver.spans), 60, site)
    for name in ("EO_DATA_DIR", "EO_CLUSTER", "KAFKA_BOOTSTRAP"):
        monkeypatch.setenv(name, site.env[name])
    assert main(["cap", "set", NODE, str(int(WATTS * 8)), "--yes"]) == 0, capsys.readouterr()
    until(lambda: whole_traces(receiver), 40, site)
    spans = whole_traces(receiver)[0]

    processes = {(span.service, span.pid) for span in spans.values()}
    services = {service for service, _ in processes}
    assert services == SERVICES and len({pid for _, pid in processes}) == 5
    assert {pid for _, pid in processes} == {child.pid for child in site.children}

    answer = next(span for span in spans.values() if span.name == "ledger.answer")
    assert chain(answer, spans) == ANSWER
    setting = next(span for span in spans.values() if span.name == "capper.set")
    assert chain(setting, spans)[:3] == SETTING
    assert setting.attributes["eo.value"] == f"{WATTS:g}"
    assert all(span.end_ns >= span.start_ns > 0 for span in spans.values())
    assert float(site.registers.limit_w.min()) == WATTS

    assert receiver.refused == []
    assert all(headers.get("x-team") == "energy team" for headers in receiver.headers)
    hardware_metrics_arrive(receiver, site)
    metrics_of_the_capper(site)


def hardware_metrics_arrive(receiver: Receiver, site: Site) -> None:
    until(lambda: "hw.power" in receiver.metrics, 10, site)
    power, energy = receiver.metrics["hw.power"][0], receiver.metrics["hw.energy"][0]
    assert (power["unit"], power["kind"], power["value"], power["hw.type"]) == ("W", "gauge", 600.0, "gpu")
    assert power["hw.id"] in site.registers.uuids and power["host.name"] == NODE
    assert (energy["unit"], energy["kind"], power["eo.quality"]) == ("J", "sum", "simulated")


def metrics_of_the_capper(site: Site) -> None:
    """The capper has no port: what it counts is on the agent's page."""
    target = json.loads((site.layout.run / "targets" / f"agent-{NODE}.json").read_text())[0]["targets"][0]

    def page() -> str:
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    until(lambda: f'eo_capper_held{{knob="power_limit_w",node="{NODE}"}} ' in page(), 20, site)
    text = page()
    assert f'eo_capper_up{{node="{NODE}"}} 1.0' in text
    assert f'eo_capper_resident_memory_bytes{{node="{NODE}"}}' in text
    assert 'eo_process_cpu_seconds_total{role="agent"}' in text
