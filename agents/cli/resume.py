"""`eo resume`: end a pause; GPUs left alone after a foreign change may be granted again too."""

from __future__ import annotations

import argparse

from agents.cli import intents
from agents.cli.base import DONE, confirm, emit, writing
from agents.cli.brokers import resolve_bootstrap
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo resume\n  eo resume --node node-0007 --yes\n\n"
        "A pause of the cluster is ended by a resume of the cluster, a pause of a node by a resume of that node."
    )
    parser.add_argument("--node", help="only this node; else the whole cluster")
    intents.common(parser, lasts=False)
    writing(parser)


def run(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    scope = intents.node_scope(args.node)
    bootstrap = resolve_bootstrap(layout)
    intents.note_unknown_node(bootstrap, args.node)
    known_ns = None if args.dry_run else intents.newest_ns(bootstrap, layout, "resume", scope)
    intent = intents.make("resume", scope, layout=layout, reason=args.reason, known_ns=known_ns)
    what = f"{'the cluster' if args.node is None else args.node} ({intents.cluster_name()})"
    if not args.dry_run:
        confirm(args, f"Resume {what}?")
        intents.publish(bootstrap, intent)
    verb = "Would resume" if args.dry_run else "Resumed"
    emit(args, intents.as_dict(intent, sent=not args.dry_run), f"{verb} {what}.")
    return DONE
