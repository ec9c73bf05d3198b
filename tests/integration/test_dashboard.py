"""Every query of the dashboard and every rule, in a real Prometheus fed by our exporters, and in VictoriaMetrics."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.node import exporter
from streams import run_note
from streams.metrics import WorkerMetrics
from streams.observe.own_cost import OwnCost
from streams.sinks.delivery_metrics import DeliveryCollector, Standing
from tests.peers import require_peer
from tests.unit.fleet.conftest import Bench, make_bench

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "compose" / "grafana" / "dashboards" / "overview.json").read_text())
SITE = """groups:
  - name: site
    rules:
      - {record: eo_carbon_intensity_grams_per_kwh, expr: vector(380), labels: {source: test}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class Peers:
    prometheus: str
    victoria: str
    log: Path

    def ask(self, base: str, query: str) -> list[dict[str, Any]]:
        url = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        return found

    def until(self, base: str, query: str, seconds: float = 40) -> list[dict[str, Any]]:
        """What a query gives once it gives something."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := self.ask(base, query):
                    return found
            except OSError:
                pass  # not listening yet
            assert time.monotonic() < deadline, f"{base} gives nothing for {query}\n{self.log.read_text()[-2000:]}"
            time.sleep(0.2)


def configuration(folder: Path, targets: Path, victoria: str) -> Path:
    """The shipped configuration with this test's addresses in it."""
    config = yaml.safe_load((ROOT / "compose" / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "site.yml").write_text(SITE)
    config["rule_files"] = [str(ROOT / "compose" / "prometheus" / "rules" / "*.yml"), str(folder / "site.yml")]
    config["remote_write"] = [{"url": f"{victoria}/api/v1/write", "queue_config": {"batch_send_deadline": "200ms"}}]
    del config["alerting"]
    by_file = next(job for job in config["scrape_configs"] if "file_sd_configs" in job)
    by_file["file_sd_configs"] = [{"files": [str(targets / "*.json")], "refresh_interval": "1s"}]
    config["scrape_configs"] = [by_file]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def feed(bench: Bench, stopping: threading.Event) -> None:
    """Half a minute of the fleet's time per second, with a live lease on every node."""
    beat = 0
    while not stopping.wait(0.1):
        bench.run(0.5)
        if beat % 5 == 0:
            for node in range(len(bench.fleet.nodes)):
                bench.command(node, bench.envelope(node))
        beat += 1


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    prometheus, victoria = require_peer("prometheus"), require_peer("victoria-metrics")
    folder = tmp_path_factory.mktemp("peers")
    bench = make_bench(folder)
    collector = exporter.AgentCollector(
        [node.agent for node in bench.fleet.nodes], bench.spool, published=lambda: 0, wall_ns=bench.wall_ns,
        monotonic=lambda: bench.clock["s"],
        capper=lambda: {node.agent.node: node.capper.status() for node in bench.fleet.nodes},
    )  # fmt: skip
    server, _, port = exporter.serve(collector, "127.0.0.1", 0, OwnCost("fleet", sent_bytes=lambda: 1))
    run_note.write(bench.layout, "fleet", role="fleet", metrics=f"http://127.0.0.1:{port}/metrics")
    worker = WorkerMetrics("features")
    worker.lag.labels("energy.telemetry.node.v1", "0").set(3)
    worker.commit_age.labels("energy.telemetry.node.v1", "0").set(0.5)
    worker.registry.register(OwnCost("worker:features", sent_bytes=lambda: 1))
    worker.registry.register(DeliveryCollector(lambda: [Standing("ops", 2, 30.0, 5, 1, 1)]))
    run_note.write(bench.layout, "features", role="worker:features", metrics=worker.serve())
    stopping = threading.Event()
    thread = threading.Thread(target=feed, args=(bench, stopping), daemon=True)
    thread.start()

    ports = free_port(), free_port()
    found = Peers(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", folder / "log")
    config = configuration(folder, bench.layout.run / run_note.TARGETS, found.victoria)
    commands = (
        [victoria, f"-storageDataPath={folder / 'vm'}", f"-httpListenAddr=127.0.0.1:{ports[1]}",
         "-search.latencyOffset=0s"],
        [prometheus, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
         f"--web.listen-address=127.0.0.1:{ports[0]}"],
    )  # fmt: skip
    with found.log.open("ab") as log:
        children = [subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) for command in commands]
    try:
        found.until(found.prometheus, 'count(up{job="energy-orchestrator"} == 1) == 2')
        # A rate needs two scrapes; the recording rules need a beat after that.
        found.until(found.prometheus, "eo:joules_per_token:rate5m")
        yield found
    finally:
        for child in children:
            child.kill()  # what they keep is this test's own folder
            child.wait(10)
        stopping.set()
        thread.join(10)
        server.shutdown()
        server.server_close()


def queries() -> list[tuple[str, str]]:
    found = []
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "10s").replace("$node", ".*")
            found.append((f"{panel['title']} {target['refId']}", expr))
    return found


def test_no_panel_of_the_dashboard_is_empty(peers: Peers) -> None:
    assert len(queries()) > 20
    for title, expr in queries():
        rows = peers.until(peers.prometheus, expr, 15)
        values = [float(row["value"][1]) for row in rows]
        assert all(value == value for value in values), f"{title}: not a number"


def test_what_the_panels_say_is_what_the_fleet_does(peers: Peers) -> None:
    watts = peers.ask(peers.prometheus, "sum by (quality) (eo_gpu_power_watts)")
    assert [row["metric"] for row in watts] == [{"quality": "simulated"}]
    assert 24 * 50 < float(watts[0]["value"][1]) < 24 * 700
    nodes = peers.ask(peers.prometheus, "count by (node) (eo_gpu_power_watts)")
    assert {row["metric"]["node"]: row["value"][1] for row in nodes} == {f"sim-00{i}": "8" for i in (1, 2, 3)}
    held = peers.ask(peers.prometheus, 'sum(eo_capper_held{knob="power_limit_w"})')
    assert held[0]["value"][1] == "24"
    same = 'label_replace(DCGM_FI_DEV_POWER_USAGE, "gpu_uuid", "$1", "UUID", "(.*)")'
    assert peers.ask(peers.prometheus, f"eo_gpu_power_watts - on (gpu_uuid) {same} != 0") == []


def test_every_rule_is_evaluated_and_none_fires_on_a_healthy_fleet(peers: Peers) -> None:
    with urllib.request.urlopen(f"{peers.prometheus}/api/v1/rules", timeout=10) as answer:
        groups = json.loads(answer.read())["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 20 and {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert not [rule["lastError"] for rule in rules if rule.get("lastError")]
    firing = peers.ask(peers.prometheus, 'ALERTS{alertstate="firing"}')
    assert firing == []
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    for name in recorded - {"eo_carbon_intensity_grams_per_kwh"}:
        peers.until(peers.prometheus, name, 15)


def test_a_process_that_was_killed_is_seen_by_its_target(peers: Peers, tmp_path: Path) -> None:
    """A note that its process could not take away: `up` is 0 and the alert is pending."""
    targets = Path(peers.log.parent) / "run" / run_note.TARGETS
    (targets / "ledger.json").write_text(
        json.dumps([{"targets": [f"127.0.0.1:{free_port()}"], "labels": {"eo_role": "worker:ledger"}}])
    )
    try:
        peers.until(peers.prometheus, 'ALERTS{alertname="EoProcessDown",eo_role="worker:ledger"}', 20)
    finally:
        (targets / "ledger.json").unlink()


def test_victoria_metrics_holds_the_same_series(peers: Peers) -> None:
    ours = peers.until(peers.victoria, 'count(eo_gpu_power_watts{quality="simulated"}) == 24')
    assert ours[0]["value"][1] == "24"
    check: Callable[[str], list[dict[str, Any]]] = lambda expr: peers.until(peers.victoria, expr, 15)  # noqa: E731
    for title, expr in queries():
        assert check(expr), title
    line = b'eo_gpu_power_watts{node="imported",quality="measured"} 321\n'
    url = f"{peers.victoria}/api/v1/import/prometheus"
    with urllib.request.urlopen(urllib.request.Request(url, line, method="POST"), timeout=10) as answer:
        assert answer.status == 204
    assert check('eo_gpu_power_watts{node="imported"}')[0]["value"][1] == "321"
