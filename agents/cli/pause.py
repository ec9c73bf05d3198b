"""`eo pause`: stop new commands for a node or the cluster; what is in force goes back to its own values at once."""

from __future__ import annotations

import argparse

from agents.cli import intents
from agents.cli.base import DONE, confirm, emit, writing
from agents.cli.brokers import resolve_bootstrap
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo pause --for 10m --reason 'driver update'\n  eo pause --node node-0007 --yes\n\n"
        "One envelope that grants nothing is sent to each node, then none until `eo resume` or the end of --for."
    )
    parser.add_argument("--node", help="only this node; else the whole cluster")
    intents.common(parser)
    writing(parser)


def run(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    scope = intents.node_scope(args.node)
    bootstrap = resolve_bootstrap(layout)
    intents.note_unknown_node(bootstrap, args.node)
    known_ns = None if args.dry_run else intents.newest_ns(bootstrap, layout, "pause", scope)
    intent = intents.make(
        "pause", scope, layout=layout, reason=args.reason, duration_s=args.duration_s, known_ns=known_ns
    )
    what = f"{'the cluster' if args.node is None else args.node} ({intents.cluster_name()})"
    if not args.dry_run:
        confirm(args, f"Pause {what} {intents.until(intent)}?")
        intents.publish(bootstrap, intent)
    verb = "Would pause" if args.dry_run else "Paused"
    emit(
        args,
        intents.as_dict(intent, sent=not args.dry_run),
        f"{verb} {what} {intents.until(intent)}. End it: eo resume",
    )
    return DONE
