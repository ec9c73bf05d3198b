"""The demo as a user runs it: its own command, real Kafka, real processes; then what it says is counted again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agents.cli.processes import alive, read_json
from agents.fleet.registers import open_registers

NODES, GPUS = 20, 8  # with fewer the hold-out needs a minute for enough requests to compare with
KEYS = {
    *("data_dir", "broker", "seconds", "nodes", "gpus", "samples", "features", "anomalies", "commands", "applied"),
    *("refused", "restored", "not_restored", "lost", "duplicates", "dlq", "archived_rows", "power_w_controlled_mean"),
    *("power_w_holdout_mean", "saving_ratio", "saving_interval", "p99_latency_ms_controlled", "p99_latency_ms_holdout"),
    *("loop_ms_p50", "loop_ms_p99", "cpu_core_seconds", "rss_mb"),
}


class Demo:
    """A running `eo demo` in a folder of its own."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.root, self.out, self.log = folder / "data", folder / "out.json", folder / "demo.log"
        env = os.environ | {"EO_DATA_DIR": str(self.root), "DEMO_SECONDS": str(seconds), "DEMO_JSON": str(self.out)}
        env.pop("KAFKA_BOOTSTRAP", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents", "demo", "--nodes", str(NODES), "--gpus", str(GPUS)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env,
            )  # fmt: skip

    def eo(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"EO_DATA_DIR": str(self.root)}
        return subprocess.run(
            [sys.executable, "-m", "agents", *words], env=env, capture_output=True, text=True, timeout=60, check=False
        )

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s\n{self.text()}"
            assert self.process.poll() is None, f"the demo ended early\n{self.text()}"
            time.sleep(0.1)

    def changed(self) -> int:
        return len(open_registers(self.root / "fleet").changed())

    def capped(self) -> bool:
        return (self.root / "fleet" / "registers.bin").exists() and self.changed() > 0

    def pid(self, role: str) -> int | None:
        entry = read_json(self.root / "run" / f"{role}.json")
        pid = entry.get("pid") if entry else None
        return pid if isinstance(pid, int) and alive(pid) else None

    def summary(self, seconds: float) -> dict[str, Any]:
        code = self.process.wait(seconds)
        assert code == 0, self.text()
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found

    def text(self) -> str:
        logs = [self.log, *sorted((self.root / "logs").glob("*.log"))]
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in logs if path.exists()
        )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[float], Demo]]:
    demos: list[Demo] = []

    def begin(seconds: float) -> Demo:
        demos.append(Demo(tmp_path, seconds))
        return demos[-1]

    yield begin
    for demo in demos:
        if demo.process.poll() is None:
            demo.process.send_signal(signal.SIGTERM)
            demo.process.wait(90)


def the_api_answers_and_applies(demo: Demo) -> None:
    """The demo's own gateway: no key from loopback, live rows, a recommendation, and its cap in force."""
    demo.until(lambda: demo.pid("gateway") is not None, 120, "a gateway")
    address = str((read_json(demo.root / "run" / "gateway.json") or {})["address"])
    wanted = {"strategy": "aggressive", "constraints": {"max_power_cap": 640}, "apply": True, "duration_s": 600}
    with httpx2.Client(base_url=address, timeout=20) as http:
        demo.until(lambda: answers(http, "/health"), 60, "a ready gateway")
        demo.until(lambda: http.get("/v1/nodes").json()["items"][-1]["capped"] > 0, 60, "a cap in the API")
        nodes = http.get("/v1/nodes").json()["items"]
        assert {node["quality"] for node in nodes} == {"simulated"} and len(nodes) == NODES
        told = http.post("/optimize", json=wanted, headers={"Idempotency-Key": "e2e"})
        assert told.status_code == 200, told.text
        assert told.json()["applied"]["caps"] > 0, told.text
        capped = told.json()["groups"][0]["power_cap_w"]
        assert capped == 630.0  # the strategy's own ceiling lies below what was asked
        demo.until(lambda: limits(http, "controlled") == {capped}, 30, "the cap on the controlled GPUs")
        assert limits(http, "hold-out") <= {None, 700.0}


def answers(http: httpx2.Client, path: str) -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx2.TransportError:
        return False


def limits(http: httpx2.Client, group: str) -> set[float | None]:
    return {gpu["limit_w"] for gpu in http.get(f"/v1/gpus?group={group}").json()["items"]}


@pytest.mark.e2e
def test_an_unattended_demo_loses_nothing_restores_everything_and_can_be_counted_again(
    start: Callable[[float], Demo],
) -> None:
    demo = start(50)
    the_api_answers_and_applies(demo)
    summary = demo.summary(180)
    assert set(summary) >= KEYS
    assert (summary["lost"], summary["not_restored"], summary["dlq"]) == (0, 0, 0)
    assert summary["samples"] == summary["features"] == summary["archived_rows"] > 30 * NODES * GPUS
    assert summary["commands"] >= NODES
    assert summary["applied"] > 0
    assert summary["restored"] > 0
    assert summary["loop_ms_p99"] > 0
    again = demo.eo("sql", "SELECT count(*) AS n FROM telemetry_node", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)[0]["n"] == summary["archived_rows"]


@pytest.mark.e2e
def test_killed_worker_and_killed_fleet_cost_nothing(start: Callable[[float], Demo]) -> None:
    demo = start(75)
    demo.until(demo.capped, 120, "a cap")
    for role in ("actuation", "features", "archive"):
        demo.until(lambda role=role: demo.pid(role) is not None, 20, f"a {role} job")  # type: ignore[misc]
        os.kill(demo.pid(role) or 0, signal.SIGKILL)
    demo.until(demo.capped, 40, "a cap after the kills")
    os.kill(demo.pid("fleet") or 0, signal.SIGKILL)
    demo.until(lambda: demo.pid("fleet") is not None, 20, "a restarted fleet")
    summary = demo.summary(240)
    assert (summary["lost"], summary["not_restored"]) == (0, 0)
    assert summary["samples"] == summary["archived_rows"]
