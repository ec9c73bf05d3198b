"""The whole loop on this machine: broker, topics, keys, simulated nodes, worker; up, and down in order."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agents.cli import brokers, topic_admin
from agents.cli.base import DEMO_MARK, REFUSED, EoError
from agents.cli.processes import Processes, Usage, alive, read_json
from agents.fleet import registers as fleet_registers
from streams.contract.layout import Layout

PARTITIONS: Final = 4
READERS: Final = ("features", "anomaly", "actuation", "ledger", "archive", "alerts")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: size, policy and length. `seconds` None = until Ctrl-C."""

    nodes: int = 100
    gpus: int = 8
    seconds: float | None = None
    strategy: str = "balanced"
    mode: str = "on"
    seed: int = 1
    training: int = 0  # nodes that train instead of serving
    training_knob: str = "clock"
    short_alerts: bool = False  # alert rules with a demo's windows, and an invented grid; else those that ship


class Stack:
    """One running loop below one data folder."""

    def __init__(self, layout: Layout, plan: Plan, *, say: Say) -> None:
        self.layout, self.plan, self._say = layout, plan, say
        self.broker: brokers.BrokerInfo | None = None
        self.started_ns = time.time_ns()
        self.ended_ns: int | None = None  # when the nodes were told to end: they fall silent after it
        self._alert_env: dict[str, str] = {}
        self.processes = Processes(layout.root / "logs", self._env(""))
        self._own_broker = False

    def _env(self, bootstrap: str) -> dict[str, str]:
        return {
            **os.environ,
            "EO_DATA_DIR": str(self.layout.root),
            "EO_CLUSTER": "demo",
            "EO_MODE": self.plan.mode,
            "EO_STRATEGY": self.plan.strategy,
            "EO_GATEWAY_OPEN_DEMO": "true",
            "EO_GATEWAY_SAMPLE_HISTORY": "true",
            "KAFKA_BOOTSTRAP": bootstrap,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            **self._alert_env,
        }

    def _alerts(self) -> dict[str, str]:
        """Writes the demo's rules and its grid; whoever has set rules or factors of their own keeps them."""
        from agents.cli import demo_rules
        from agents.fleet import grid

        if not self.plan.short_alerts:
            return {}
        out: dict[str, str] = {}
        gpus = self.plan.nodes * self.plan.gpus
        if "EO_ALERT_RULES_DIR" not in os.environ:
            out["EO_ALERT_RULES_DIR"] = str(demo_rules.write(self.layout.root, gpus))
            self._say(demo_rules.told(gpus))
        else:
            self._say("alert rules: EO_ALERT_RULES_DIR is yours, so windows are not cut for a demo")
        if "EO_LOCATION" not in os.environ and "EO_CARBON_FACTORS" not in os.environ:
            out["EO_LOCATION"] = grid.LOCATION
            out["EO_CARBON_FACTORS"] = str(grid.write(self.layout.fleet, grid.text()))
        else:
            self._say("carbon: EO_LOCATION or EO_CARBON_FACTORS is yours, so the fault dirty-grid reaches no alert")
        return out

    @property
    def bootstrap(self) -> str:
        if self.broker is None:
            raise EoError("the stack is not started; call start() first")
        return self.broker.bootstrap

    def start(self) -> None:
        """Broker, keys, topics before any worker, devices at their defaults, then the processes."""
        from agents.cli.config import ensure_keys

        fresh_folder(self.layout, self._say)
        before = brokers.status(self.layout)
        self.broker = brokers.up(self.layout)
        self._own_broker = before is None and self.broker.kind != "external"
        self._say(f"broker: {self.broker.label} at {self.broker.bootstrap}")
        ensure_keys(self.layout)
        topic_admin.apply(self.broker.bootstrap, partitions=PARTITIONS)
        fleet_registers.create(self.layout.fleet, cluster="demo", nodes=self.plan.nodes, gpus_per_node=self.plan.gpus)
        self._alert_env = self._alerts()
        self.processes.env = self._env(self.broker.bootstrap)
        self.processes.start("worker", "worker")
        self._await_jobs()
        plan = self.plan
        size = f"--nodes={plan.nodes}", f"--gpus={plan.gpus}", f"--seed={plan.seed}"
        self.processes.start("fleet", "fleet", *size, *_training(plan))
        self.processes.start("gateway", "gateway", "--host=127.0.0.1", "--port=0")

    def api_address(self) -> str | None:
        """Where the Energy API answers; None while it starts."""
        address = (read_json(self.layout.run / "gateway.json") or {}).get("address")
        return address if isinstance(address, str) else None

    def _await_jobs(self, *, timeout_s: float = 40.0) -> None:
        """Until every job has its partitions: what nodes send before that would only be measured as a slow start."""
        from agents.cli.lag import settled_groups

        groups = tuple(f"eo-demo-{job}" for job in READERS)
        deadline = time.monotonic() + timeout_s
        while len(settled := settled_groups(self.bootstrap, groups)) < len(groups):
            if time.monotonic() > deadline:
                missing = ", ".join(sorted(set(groups) - set(settled)))
                self._say(f"after {timeout_s:.0f} s these jobs had not joined yet: {missing}; going on without them")
                return
            time.sleep(0.25)

    def usage(self) -> Usage:
        """CPU and memory of everything that the loop runs, the broker and this process included."""
        extra = {"view": os.getpid()}
        if self.broker is not None and self.broker.pid is not None:
            extra["broker"] = self.broker.pid
        return self.processes.usage(extra)

    def settle(self, *, timeout_s: float = 40.0) -> None:
        """Ends the nodes (they restore their devices), then waits until every job has read what they sent."""
        self.processes.stop("gateway")
        self._say("ending the nodes: every limit goes back to the value found before")
        self.ended_ns = time.time_ns()
        self.processes.stop("fleet")
        deadline = time.monotonic() + timeout_s
        while (behind := self.lag()) and time.monotonic() < deadline:
            self.processes.revive()
            time.sleep(0.2)
        if behind:
            self._say(f"after {timeout_s:.0f} s these jobs were still behind: {behind}")
        self.processes.stop("worker", timeout_s=30)

    def lag(self) -> dict[str, int]:
        """Messages that each job has not committed yet; a job without a commit counts whole."""
        from agents.cli.lag import committed_lag

        return {job: lag for job in READERS if (lag := committed_lag(self.bootstrap, f"eo-demo-{job}", job))}

    def stop(self) -> None:
        """Ends what is left; a broker that was there before us stays."""
        self.processes.stop_all()
        if self._own_broker:
            brokers.down(self.layout)


def _training(plan: Plan) -> tuple[str, ...]:
    """The fleet's jobs, short enough that a choice is seen while somebody watches."""
    from agents.cli.demo_training import RUN_STEPS, STEP_S

    if not plan.training:
        return ()
    return (
        f"--training={plan.training}",
        f"--training-knob={plan.training_knob}",
        f"--training-steps={RUN_STEPS}",
        f"--training-step-s={STEP_S}",
    )


def fresh_folder(layout: Layout, say: Say) -> None:
    """An empty data folder: an earlier demo's folder moves to `<name>-previous`; anything else is refused."""
    root = layout.root
    mark = root / DEMO_MARK
    if mark.exists():
        _refuse_running(json.loads(mark.read_text()).get("pid"), root)
        previous = root.with_name(root.name + "-previous")
        _remove_old_demo(previous)
        brokers.down(layout)
        root.rename(previous)
        say(f"the last demo's data moved to {previous}")
    elif root.exists() and any(root.iterdir()):
        raise EoError(
            f"{root} holds data that no demo wrote; set EO_DATA_DIR to another folder, so that yours stays",
            REFUSED,
        )
    root.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"pid": os.getpid(), "started_ns": time.time_ns()}))


def _refuse_running(pid: object, root: Path) -> None:
    if isinstance(pid, int) and pid != os.getpid() and alive(pid):
        raise EoError(
            f"a demo with pid {pid} already runs in {root}; end it, or set EO_DATA_DIR to another folder", REFUSED
        )


def _remove_old_demo(folder: Path) -> None:
    """Removes the demo before the last one; a folder that no demo wrote is not ours to remove."""
    import shutil

    if not folder.exists():
        return
    if not (folder / DEMO_MARK).exists():
        raise EoError(f"{folder} is in the way and no demo wrote it; move it, or set EO_DATA_DIR elsewhere", REFUSED)
    shutil.rmtree(folder)
