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


@pytest.mark.e2e
def test_an_unattended_demo_loses_nothing_restores_everything_and_can_be_counted_again(
    start: Callable[[float], Demo],
) -> None:
    demo = start(40)
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
