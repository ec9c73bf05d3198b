"""`eo explain GPU|NODE`: the newest command, its lease, the node's answer, the reason, anomalies, the ledger's lines.

From the topics while a broker answers, else from the archive. It reads only.
"""

from __future__ import annotations

import argparse
import time

from agents.cli import explain_story, intents
from agents.cli.base import DONE, EoError, emit
from agents.cli.brokers import resolve_bootstrap
from agents.cli.parser import name
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo explain GPU-1b2c            (a UUID or its unique beginning)\n  eo explain node-0007 --json\n"
        "  eo explain GPU-1b2c --archive --since 2h"
    )
    parser.add_argument("target", type=name, help="a GPU's UUID (or its unique beginning), or a node")
    parser.add_argument(
        "--since", dest="since_s", type=intents.duration_s, default=900, metavar="TIME", help="how far back (15m)"
    )
    parser.add_argument("--archive", action="store_true", help="read the archive even when a broker runs")


def run(args: argparse.Namespace) -> int:
    story = _story(args, Layout.from_env())
    emit(args, story.as_dict(), lambda: explain_story.text(story))
    return DONE


def _story(args: argparse.Namespace, layout: Layout) -> explain_story.Story:
    from agents.cli import explain_archive, explain_topics

    cluster = intents.cluster_name()
    if not args.archive:
        try:
            bootstrap = resolve_bootstrap(layout)
        except EoError:
            if not layout.archive.is_dir():
                raise
        else:
            return explain_topics.gather(
                bootstrap, args.target, cluster=cluster, since_s=args.since_s, now_ns=time.time_ns()
            )
    return explain_archive.gather(layout.archive, args.target, cluster=cluster, since_s=args.since_s)
