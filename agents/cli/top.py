"""`eo top`: watts, latency and caps by node, from the topics; -1 prints once."""

from __future__ import annotations

import argparse
import sys
import time

from agents.cli.base import DONE, FAILED, emit, table
from agents.cli.live import LiveReader, LiveState, NodeView
from agents.cli.parser import number, whole
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: eo top -1"
    parser.add_argument("-1", "--once", action="store_true", help="print once and end")
    parser.add_argument("--cluster", default=None, help="cluster to show (default: EO_CLUSTER)")
    parser.add_argument(
        "-n", "--rows", type=whole(1, 1_000_000), default=20, help="nodes shown, the hungriest first (default 20)"
    )
    parser.add_argument(
        "--interval-s", type=number(0.1, 3600), default=2.0, help="seconds between two pictures (default 2)"
    )


def run(args: argparse.Namespace) -> int:
    from agents.cli.brokers import resolve_bootstrap
    from agents.cli.intents import cluster_name

    cluster = args.cluster or cluster_name()
    reader, state = LiveReader(resolve_bootstrap(Layout.from_env()), history_s=15.0), LiveState(cluster)
    try:
        reader.catch_up(state)
        if args.once or args.json:
            emit(args, rows(state, args.rows), lambda: picture(state, args.rows))
            return DONE if state.nodes else FAILED
        return _watch(args, reader, state)
    finally:
        reader.close()


def _watch(args: argparse.Namespace, reader: LiveReader, state: LiveState) -> int:
    while True:
        sys.stdout.write("\x1b[H\x1b[J" + picture(state, args.rows) + "\n")
        sys.stdout.flush()
        until = time.monotonic() + args.interval_s
        while time.monotonic() < until:
            reader.poll(state, max(0.05, until - time.monotonic()))


def rows(state: LiveState, limit: int) -> list[dict[str, object]]:
    """One row per node, the hungriest first."""
    views = sorted(state.nodes.values(), key=_watts, reverse=True)[:limit]
    return [
        {
            "node": view.node,
            "quality": view.quality,
            "power_w": round(_watts(view), 1) if view.power_w else None,
            "gpus": len(view.power_w),
            "capped": sum(view.capped(uuid) for uuid in view.limit_w),
            "holdout": sum(group == "hold-out" for group in view.group.values()),
            "mode": view.mode,
            "last": f"{view.last_event}: {view.last_status}",
        }
        for view in views
    ]


def _watts(view: NodeView) -> float:
    return sum(watts for watts in view.power_w.values() if watts is not None)


def picture(state: LiveState, limit: int) -> str:
    """The table with its head line; says when nothing was heard."""
    if not state.nodes:
        others = state.counts.get("other_cluster", 0)
        return (
            f"No node of cluster {state.cluster} was heard in the last 15 s"
            + (f" ({others} messages of other clusters were: --cluster or EO_CLUSTER names yours)" if others else "")
            + ": start `eo agent` or `eo demo`, and look at `eo status`."
        )
    simulated = any(view.quality == "simulated" for view in state.nodes.values())
    now_ns = time.time_ns()
    lag = state.lag_s(now_ns)
    head = f"{'SIMULATED  ' if simulated else ''}{len(state.nodes)} nodes, {state.caps_in_force()} GPUs capped, "
    head += f"slowest node {lag:.1f} s behind" if lag is not None else "no feature yet"
    cells = [list(row.values()) for row in rows(state, limit)]
    return head + "\n" + table(cells, ("node", "quality", "watts", "GPUs", "capped", "hold-out", "mode", "last answer"))
