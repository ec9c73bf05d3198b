"""From a fault in the demo to a receiver and back: `eo demo` as a user runs it, nothing about an alert made by hand.

The demo's own processes run with a small fleet. Five faults are started in the simulated hardware by `eo demo fault`,
one for each kind that the brief names. The real Alertmanager, a receiver that checks signatures with the
specification's own library, and promtool in front of a real Prometheus must each see them firing, and resolved after
their end. The bounds are in the product's clock: the time that an alert bears against those of the fault's file.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.fleet.faults import FAULTS, FaultFile
from tests.fakes.alert_peers import Listener, Promtool, alertmanager, prometheus

pytestmark = pytest.mark.e2e
WITHIN_S = 60.0
PATIENCE_S = 200.0  # of the test, on a machine that does other things too
ALERTS = {fault.alert: name for name, fault in FAULTS.items()}


class Demo:
    """A running `eo demo` of four nodes that tells an Alertmanager."""

    def __init__(self, folder: Path, alertmanager_url: str) -> None:
        self.root, self.out, self.log = folder / "data", folder / "out.json", folder / "demo.log"
        self.env = os.environ | {"EO_DATA_DIR": str(self.root)}
        for name in ("KAFKA_BOOTSTRAP", "EO_WEBHOOK_FILE"):
            self.env.pop(name, None)
        own = {"DEMO_JSON": str(self.out), "EO_ALERTMANAGER_URL": alertmanager_url}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agents", "demo", "--nodes", "4", "--seconds", "600"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self.env | own,
            )  # fmt: skip

    def eo(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "agents", *words],
            env=self.env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE_S:.0f} s\n{self.text()}"
            assert self.process.poll() is None, f"the demo ended early\n{self.text()}"
            time.sleep(0.1)

    def text(self) -> str:
        logs = [self.log, *sorted((self.root / "logs").glob("*.log"))]
        return "\n".join(f"--- {one.name}\n{one.read_text(errors='replace')[-3000:]}" for one in logs if one.exists())

    def summary(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE_S) == 0, self.text()
        found: dict[str, Any] = json.loads(self.out.read_text())
        return found


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    yield one
    one.close()


@pytest.fixture
def demo(listener: Listener, tmp_path: Path) -> Iterator[Demo]:
    with alertmanager(listener, tmp_path) as address:
        one = Demo(tmp_path, address)
        yield one
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            one.process.wait(90)


@pytest.fixture
def promtool(demo: Demo, tmp_path: Path) -> Iterator[Promtool]:
    with prometheus(demo.root / "run" / "targets", tmp_path) as one:
        yield one


def test_each_of_five_faults_is_told_firing_and_resolved(demo: Demo, listener: Listener, promtool: Promtool) -> None:
    demo.until(lambda: "webhook test: " in demo.log.read_text(), "the demo's own webhook test")
    assert re.search(r"webhook test: delivered in \d+ ms, signature verified", demo.log.read_text()), demo.text()
    hook = f"http://127.0.0.1:{listener.port}/hook"
    added = demo.eo("webhook", "add", hook, "--name", "site", "--allow-host", "127.0.0.1",
                    "--allow-port", str(listener.port), "--json")  # fmt: skip
    listener.secret = json.loads(added)["secret"]
    demo.until(lambda: "webhook site: " in (demo.root / "logs" / "worker.log").read_text(), "the receiver in force")
    assert set(ALERTS) & {rule for rule, _ in listener.ours} == set(), "a sound fleet is no news"

    begun_s = time.time()
    demo.eo("demo", "fault", *FAULTS)
    told, status = set[str](), dict[str, Any]()
    while told < set(ALERTS):
        demo.until(lambda: (listener.seen("firing") & set(ALERTS)) - told, f"more than {told} of {set(ALERTS)}")
        status = status or json.loads(demo.eo("status", "--json"))
        for rule in (listener.seen("firing") & set(ALERTS)) - told:
            told.add(rule)
            demo.eo("demo", "fault", ALERTS[rule], "--clear")
    assert status["alerts_firing"] >= 1, "eo status counts what fires"
    demo.until(lambda: set(ALERTS) <= listener.seen("resolved"), f"resolved: {listener.ours} {listener.theirs}")

    for rule in ALERTS:
        demo.until(lambda rule=rule: seen_by(promtool, rule, begun_s), f"promtool sees {rule} begin and end")  # type: ignore[misc]
    assert listener.wrong == []
    in_time(demo, listener)
    summary = demo.summary()
    assert set(ALERTS) <= set(summary["alerts_by_rule"]) and (summary["lost"], summary["not_restored"]) == (0, 0)
    parts = [summary[name] for name in ("applied", "recommended", "refused", "unanswered")]
    assert summary["commands"] == sum(parts) > 0
    assert not (demo.root / "deliver" / "webhooks.json").read_text().count('"demo"'), "the demo's receiver is gone"


def seen_by(promtool: Promtool, rule: str, since_s: float) -> bool:
    """Whether the series of a rule was 0, then more, and is 0 again."""
    values = promtool.series(f'eo_alerts_firing{{rule="{rule}"}}', since_s=since_s)
    return bool(values) and values[0] == 0.0 and max(values) >= 1.0 and values[-1] == 0.0


def in_time(demo: Demo, listener: Listener) -> None:
    """Each alert against its fault: the first firing after its start, the first resolution after its end."""
    for fault in FaultFile(demo.root / "fleet").read():
        mine = [alert for alert, _ in listener.alerts if alert["rule"] == FAULTS[fault.name].alert]
        assert all(one["summary"].startswith("SIMULATED: ") and one["quality"] == "simulated" for one in mine)
        fired_s = min(one["ts_ns"] - fault.start_ns for one in mine if one["state"] == "firing") / 1e9
        ended_s = min(one["ts_ns"] - fault.end_ns for one in mine if one["state"] == "resolved") / 1e9
        print(f"{fault.name}: firing after {fired_s:.1f} s, resolved {ended_s:.1f} s after its end")
        assert -1.0 < fired_s <= WITHIN_S, (fault.name, fired_s)
        assert ended_s <= WITHIN_S, (fault.name, ended_s)
