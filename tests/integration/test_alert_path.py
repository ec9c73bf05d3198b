"""Our rules in a real Prometheus, our routes in a real Alertmanager, a real webhook: each of the five kinds, both ways.

Time is compressed: the rules' windows and waits are cut to seconds in a copy, everything else is what is shipped.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.test_dashboard import free_port
from tests.peers import require_peer

pytestmark = pytest.mark.integration
COMPOSE = Path(__file__).parents[2] / "compose"
SITE = """groups:
  - name: site
    rules:
      - {record: eo_carbon_intensity_grams_per_kwh, expr: vector(400), labels: {source: test}}
      - {record: eo_carbon_budget_grams_per_day, expr: vector(5000)}
"""
KINDS = {"high_energy", "low_efficiency", "carbon_budget", "system_failure", "performance_degradation"}


def page(*, ill: bool) -> str:
    """A node's metrics: hot, wasteful and slow at once, or well; another one is silent, or speaks."""
    watts, use, age, gap = (690, 0.01, 90, 0.25) if ill else (300, 0.8, 0.5, 0.04)
    labels = 'node="n1",gpu="0",gpu_uuid="GPU-0",quality="measured"'
    return (
        f"eo_gpu_power_watts{{{labels}}} {watts}\neo_gpu_power_limit_default_watts{{{labels}}} 700\n"
        f"eo_gpu_utilization_ratio{{{labels}}} {use}\n"
        f'eo_sample_age_seconds{{node="silent",quality="measured"}} {age}\n'
        f'eo_engine_time_between_tokens_seconds{{node="n1",model="m",quality="measured",quantile="0.99"}} {gap}\n'
    )


@dataclass
class World:
    """What the fake node says, and what the webhook has heard: (kind, status)."""

    ill: bool = True
    heard: set[tuple[str, str]] = field(default_factory=set)
    bodies: list[dict[str, Any]] = field(default_factory=list)


def serve(world: World) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(page(ill=world.ill).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            world.bodies.append(body)
            world.heard |= {(alert["labels"]["kind"], alert["status"]) for alert in body["alerts"]}
            self._answer(b"")

        def _answer(self, text: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def files(folder: Path, node: int, alertmanager: int) -> None:
    rules = (COMPOSE / "prometheus" / "rules" / "alerts.yml").read_text()
    rules = re.sub(r"\[(10m|15m|1h)\]", "[3s]", re.sub(r"for: \w+", "for: 1s", rules))
    (folder / "alerts.yml").write_text(rules)
    recording = (COMPOSE / "prometheus" / "rules" / "recording.yml").read_text()
    (folder / "recording.yml").write_text(recording.replace("interval: 15s", "interval: 1s"))
    (folder / "site.yml").write_text(SITE)
    prometheus = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["recording.yml", "alerts.yml", "site.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{node}"]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    routes = yaml.safe_load((COMPOSE / "alertmanager" / "alertmanager.yml").read_text())
    routes["receivers"][0]["webhook_configs"] = [{"url": f"http://127.0.0.1:{node}/hook", "send_resolved": True}]
    for route in (routes["route"], *routes["route"]["routes"]):
        route |= {"group_wait": "1s", "group_interval": "1s"}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(routes))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    prometheus, alertmanager = require_peer("prometheus"), require_peer("prometheus-alertmanager")
    made, ports = World(), (free_port(), free_port())
    server = serve(made)
    files(tmp_path, server.server_port, ports[1])
    commands = (
        [alertmanager, f"--config.file={tmp_path / 'alertmanager.yml'}", f"--storage.path={tmp_path / 'am'}",
         f"--web.listen-address=127.0.0.1:{ports[1]}", "--cluster.listen-address="],
        [prometheus, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
         f"--web.listen-address=127.0.0.1:{ports[0]}", "--rules.alert.resend-delay=1s"],
    )  # fmt: skip
    with (tmp_path / "log").open("ab") as log:
        children = [subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path) for command in commands]
    yield made
    for child in children:
        child.kill()
        child.wait(10)
    server.shutdown()
    server.server_close()


def until(condition: Callable[[], object], world: World, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, sorted(world.heard)
        time.sleep(0.1)


def test_each_of_the_five_kinds_reaches_a_webhook_firing_and_resolved(world: World) -> None:
    until(lambda: {(kind, "firing") for kind in KINDS} <= world.heard, world)
    world.ill = False
    until(lambda: {(kind, "resolved") for kind in KINDS} <= world.heard, world)
    alerts = [alert for body in world.bodies for alert in body["alerts"]]
    assert all(alert["annotations"]["runbook"].startswith("docs/runbooks/") for alert in alerts)
