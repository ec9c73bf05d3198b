"""A receiver of webhooks that checks every signature with the specification's own library, a real Alertmanager that
sends on to it, and a real Prometheus asked by promtool: what the tests of alerts listen with.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook

from tests.faults.worker_rig import until
from tests.peers import require_peer


class Listener:
    """A receiver of webhooks: /hook is ours (signatures checked), /am is what Alertmanager sends on."""

    def __init__(self) -> None:
        self.secret = ""
        self.ours: list[tuple[str, str]] = []
        self.theirs: list[tuple[str, str]] = []
        self.ids: list[tuple[str, str, str]] = []
        self.alerts: list[tuple[dict[str, Any], float]] = []  # our own body's data, and when it came (wall clock)
        self.wrong: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                try:
                    outer.take(self.path, body, dict(self.headers.items()))
                except Exception as error:  # noqa: BLE001  whatever is wrong with a message fails the test at its end
                    outer.wrong.append(f"{self.path}: {error!r}")
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, path: str, body: str, headers: dict[str, str]) -> None:
        if path == "/am":
            self.theirs += [(a["labels"]["alertname"], a["status"]) for a in json.loads(body)["alerts"]]
            return
        value = Webhook(self.secret).verify(body, {name.lower(): text for name, text in headers.items()})
        self.alerts.append((value["data"], time.time()))
        self.ours.append((value["data"]["rule"], value["data"]["state"]))
        self.ids.append((value["data"]["rule"], value["data"]["labels"]["subject"], value["data"]["state"]))

    def seen(self, state: str) -> set[str]:
        """Kinds that both saw in this state."""
        ours = {rule for rule, now in self.ours if now == state}
        return ours & {rule for rule, now in self.theirs if now == state}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


AM = """
route: {{receiver: here, group_by: [alertname, subject], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers:
  - name: here
    webhook_configs: [{{url: "http://127.0.0.1:{port}/am", send_resolved: true}}]
"""


@contextmanager
def alertmanager(listener: Listener, folder: Path) -> Iterator[str]:
    """A real Alertmanager that tells the listener; gives its address."""
    program, address = require_peer("prometheus-alertmanager"), _free_address()
    (folder / "am.yml").write_text(AM.format(port=listener.port))
    command = [program, f"--config.file={folder / 'am.yml'}", f"--storage.path={folder / 'am'}"]
    options = [f"--web.listen-address={address}", "--cluster.listen-address="]
    with _running([*command, *options], address, folder / "am.log"):
        yield f"http://{address}"


@contextmanager
def prometheus(targets: Path, folder: Path) -> Iterator[Promtool]:
    """A real Prometheus that scrapes what the files below `targets` name each second, asked by the real promtool."""
    program, promtool, address = require_peer("prometheus"), require_peer("promtool"), _free_address()
    files = {"files": [f"{targets}/*.json"], "refresh_interval": "1s"}
    scrape = {"job_name": "energy-orchestrator", "file_sd_configs": [files]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with _running([*command, f"--web.listen-address={address}"], address, folder / "prometheus.log"):
        yield Promtool(promtool, f"http://{address}")


@dataclass(frozen=True)
class Promtool:
    """The real promtool in front of a Prometheus."""

    program: str
    url: str

    def series(self, expression: str, *, since_s: float) -> list[float]:
        """Values of one series from a time (seconds of the wall clock) to now, one a second."""
        span = [f"--start={since_s:.0f}", f"--end={time.time():.0f}", "--step=1s", "--format=json"]
        done = subprocess.run(
            [self.program, "query", "range", *span, self.url, expression],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        return [float(value) for _, value in found[0]["values"]] if found else []


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def _running(command: list[str], address: str, log_file: Path) -> Iterator[None]:
    """A peer's process from when it listens."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        host, port = address.split(":")
        until(lambda: process.poll() is not None or _answers(host, int(port)), 30, f"{command[0]} listening")
        assert process.poll() is None, log_file.read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
