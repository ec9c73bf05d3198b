"""A receiver of webhooks that checks every signature with the specification's own library, and a real Alertmanager that
sends on to it: what the tests of alerts listen with.
"""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    program = require_peer("prometheus-alertmanager")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "am.yml").write_text(AM.format(port=listener.port))
    command = [program, f"--config.file={folder / 'am.yml'}", f"--storage.path={folder / 'am'}"]
    with (folder / "am.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}", "--cluster.listen-address="], stdout=log, stderr=log
        )
    try:
        host, port = address.split(":")
        until(lambda: process.poll() is not None or _answers(host, int(port)), 30, "Alertmanager listening")
        assert process.poll() is None, (folder / "am.log").read_text()
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
