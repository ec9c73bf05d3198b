"""`eo topics plan|apply|tail`: the contract's topics against a cluster, and one of them for the eye."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import sys

from agents.cli.base import DONE, REFUSED, USAGE, EoError, confirm, emit, table, writing
from agents.cli.brokers import resolve_bootstrap
from agents.cli.known_names import refuse_misspelt
from streams.contract.layout import Layout
from streams.contract.topics import BY_NAME, DEFAULT_PARTITIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo topics plan\n  eo topics apply --partitions 24 --yes\n"
        "  eo topics tail telemetry.node -n 3 --follow\n  eo topics tail power.applied --json"
    )
    parser.add_argument("what", choices=("plan", "apply", "tail"), help="compare, make what is missing, read one")
    parser.add_argument("topic", nargs="?", help="for tail: a topic, long or short (telemetry.node)")
    parser.add_argument("--partitions", type=_positive, default=DEFAULT_PARTITIONS, help="of each topic (24)")
    parser.add_argument("--replication", type=_positive, default=1, help="copies of each new partition (1)")
    parser.add_argument("-n", "--count", type=int, default=10, help="for tail: how many records (10)")
    parser.add_argument("--follow", action="store_true", help="for tail: go on until Ctrl-C")
    writing(parser)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    refuse_misspelt(os.environ)
    if args.what == "tail":
        return _tail(args)
    if args.topic:
        raise EoError(f"`eo topics {args.what}` takes no topic: it is about all of them.", USAGE)
    return _plan(args) if args.what == "plan" or args.dry_run else _apply(args)


def _plan(args: argparse.Namespace) -> int:
    from agents.cli.topic_admin import plan

    changes = plan(resolve_bootstrap(Layout.from_env()), partitions=args.partitions, replication=args.replication)
    rows = [(change.topic, change.action, change.detail) for change in changes]
    emit(args, [dataclasses.asdict(change) for change in changes], table(rows, ("topic", "action", "detail")))
    return REFUSED if any(change.action == "blocked" for change in changes) else DONE


def _apply(args: argparse.Namespace) -> int:
    from agents.cli.topic_admin import apply, plan

    bootstrap = resolve_bootstrap(Layout.from_env())
    wanted = plan(bootstrap, partitions=args.partitions, replication=args.replication)
    todo = [change for change in wanted if change.action in {"create", "alter"}]
    if todo:
        confirm(args, f"Make or change {len(todo)} topics at {bootstrap} ({args.partitions} partitions each)?")
    done = apply(bootstrap, partitions=args.partitions, replication=args.replication)
    words = {"create": "made", "alter": "changed", "same": "was right", "blocked": "LEFT AS IT IS"}
    rows = [(change.topic, words[change.action], change.detail.removeprefix("missing: ")) for change in done]
    emit(args, [dataclasses.asdict(change) for change in done], table(rows, ("topic", "result", "detail")))
    return REFUSED if any(change.action == "blocked" for change in done) else DONE


def full_name(text: str | None) -> str:
    """The topic that a long or short name means; raises EoError(USAGE) with the nearest one."""
    short = {name.removeprefix("energy.").rpartition(".v")[0]: name for name in BY_NAME}
    if text is None:
        raise EoError(f"name a topic: {', '.join(sorted(short))}.", USAGE)
    if text in BY_NAME or text in short:
        return short.get(text, text)
    near = difflib.get_close_matches(text, [*short, *BY_NAME], 1, 0.3)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(sorted(short))}."
    raise EoError(f"{text!r} is no topic of the contract; {hint}", USAGE)


def _tail(args: argparse.Namespace) -> int:
    from agents.cli.kafka_read import Message, Reader
    from agents.cli.kafka_text import as_text, as_value

    if args.count < 0:
        raise EoError(f"-n {args.count} is below 0; give the number of records to show.", USAGE)

    def show(message: Message) -> None:
        # One JSON object per line: a stream has no end to close a list with.
        print(json.dumps(as_value(message), default=str) if args.json else as_text(message), flush=args.follow)

    with Reader(resolve_bootstrap(Layout.from_env()), full_name(args.topic)) as reader:
        found = reader.last(args.count)
        for message in found:
            show(message)
        if not found and not args.follow:
            print(f"{reader.topic} is empty.", file=sys.stderr)
        if args.follow:
            for message in reader.follow():
                show(message)
    return DONE
