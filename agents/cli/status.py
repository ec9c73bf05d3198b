"""`eo status`: what is in force now: broker, processes, lag, leases, caps, firing alerts, changed simulated devices."""

from __future__ import annotations

import argparse
import time
from typing import Any

from agents.cli.base import DONE, FAILED, emit, table
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: eo status --json"
    parser.add_argument("--cluster", default=None, help="cluster whose jobs are asked for lag")
    parser.add_argument("--history-s", type=float, default=30.0, help="how far back to read the topics (default 30)")


def run(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    facts = gather(layout, cluster=args.cluster, history_s=args.history_s)
    emit(args, facts, lambda: text(facts))
    return DONE if facts["healthy"] else FAILED


def gather(layout: Layout, *, cluster: str | None, history_s: float) -> dict[str, Any]:
    """All facts of the moment; a part that cannot be asked says why instead of a number."""
    import os

    from agents.cli import alert_counts, brokers
    from agents.cli.intents import cluster_name

    cluster = cluster or cluster_name()
    facts: dict[str, Any] = {"data_dir": str(layout.root), "cluster": cluster, "broker": None, "jobs": {}, "nodes": {}}
    facts["processes"] = processes(layout)
    facts["devices_changed"] = changed_devices(layout)
    info = brokers.status(layout)
    external = os.environ.get("KAFKA_BOOTSTRAP")
    if info is None and not external:
        facts["broker_problem"] = "no broker runs for this data folder; start one with `eo broker up`"
        return facts | {"healthy": False}
    bootstrap = external or (info.bootstrap if info else "")
    facts["broker"] = {"bootstrap": bootstrap, "label": info.label if info else "external"}
    facts |= from_topics(bootstrap, cluster, history_s)
    facts |= alert_counts.facts(bootstrap, cluster)
    dead = [role for role, process in facts["processes"].items() if not process["alive"]]
    return facts | {"healthy": not dead and bool(facts["nodes_seen"])}


def processes(layout: Layout) -> dict[str, dict[str, Any]]:
    """Every process that wrote a run file, and whether its pid still lives."""
    from agents.cli.processes import alive, read_json

    found: dict[str, dict[str, Any]] = {}
    for path in sorted(layout.run.glob("*.json")):
        entry = read_json(path)
        if entry is not None and isinstance(entry.get("pid"), int):
            found[path.stem] = {**entry, "alive": alive(int(str(entry["pid"])))}
    return found


def changed_devices(layout: Layout) -> int | None:
    """Simulated GPUs whose limit or lock is not the default, read from the devices; None where there are none."""
    if not (layout.fleet / "registers.json").exists():
        return None
    from agents.fleet.registers import open_registers

    return len(open_registers(layout.fleet).changed())


def from_topics(bootstrap: str, cluster: str, history_s: float) -> dict[str, Any]:
    """Lag of each job, and the view of the nodes that the last seconds of the topics give."""
    from agents.cli.lag import INPUTS, partition_lags
    from agents.cli.live import LiveReader, LiveState

    jobs = {job: sum(partition_lags(bootstrap, f"eo-{cluster}-{job}", job).values()) for job in INPUTS}
    state, reader = LiveState(), LiveReader(bootstrap, history_s=history_s)
    try:
        reader.catch_up(state)
    finally:
        reader.close()
    now_ns = time.time_ns()
    views = state.nodes.values()
    return {
        "jobs": jobs,
        "nodes_seen": len(state.nodes),
        "modes": sorted({view.mode for view in views}),
        "strategies": sorted({view.strategy for view in views}),
        "leases_live": sum(view.lease_end_ns > now_ns for view in views),
        "leases_over": sum(0 < view.lease_end_ns <= now_ns for view in views),
        "caps_in_force": state.caps_in_force(),
        "lag_s": state.lag_s(now_ns),
        "loop_ms_p99": state.loop_quantile_ms(0.99),
        "power_w_controlled_mean": state.mean_power_w("controlled"),
        "power_w_holdout_mean": state.mean_power_w("hold-out"),
        "simulated_nodes": sum(view.quality == "simulated" for view in views),
    }


def text(facts: dict[str, Any]) -> str:
    """The same for a person; simulated is said first."""
    from agents.cli import alert_counts

    lines = []
    if facts.get("simulated_nodes"):
        lines.append(f"SIMULATED: {facts['simulated_nodes']} of {facts['nodes_seen']} nodes are simulated")
    broker = facts["broker"]
    lines.append(
        f"broker     {broker['label']} at {broker['bootstrap']}" if broker else f"broker     {facts['broker_problem']}"
    )
    rows = [(role, entry["pid"], "runs" if entry["alive"] else "DEAD") for role, entry in facts["processes"].items()]
    lines.append(
        table(rows, ("process", "pid", "state")) if rows else "processes  none has a run file in this data folder"
    )
    if broker:
        lines += [
            "lag        " + ", ".join(f"{job} {lag}" for job, lag in facts["jobs"].items()) + " messages not committed"
        ]
        lines.append(
            f"nodes      {facts['nodes_seen']} seen, mode {'/'.join(facts['modes']) or '-'}, "
            f"strategy {'/'.join(facts['strategies']) or '-'}"
        )
        lines.append(f"leases     {facts['leases_live']} live, {facts['leases_over']} over")
        lines.append(f"caps       {facts['caps_in_force']} GPUs by their last acknowledgement")
        lines.append(alert_counts.line(facts))
        lines.append(f"newest     {_seconds(facts['lag_s'])} behind for the slowest node")
    if facts["devices_changed"] is not None:
        lines.append(
            f"devices    {facts['devices_changed']} simulated GPUs are not at their default (read from the devices)"
        )
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} s"
