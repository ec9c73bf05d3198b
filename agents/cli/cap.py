"""`eo cap show|set|clear`: a human's power cap for one GPU, or a power budget for all GPUs of a node.

A GPU's cap stands above the energy policy and below safety: a frozen GPU, one that somebody else has changed and the
hold-out stay at their own values. A node's budget is shared equally by its GPUs and also yields to latency.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Final

from agents.cli import intents
from agents.cli.base import DONE, REFUSED, USAGE, EoError, confirm, emit, table, writing
from agents.cli.brokers import resolve_bootstrap
from agents.cli.parser import name
from streams.contract.layout import Layout

if TYPE_CHECKING:
    from agents.cli.gpu_lookup import Place

MOST_GPUS: Final = 16  # of one node under a common cap
HIGHEST_W: Final = 2000.0  # per GPU: above any board made, so more is a slip of milliwatts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo cap show\n  eo cap set GPU-1b2c 450 --for 2h --reason 'hot aisle'\n"
        "  eo cap set node-0007 4000 --reason 'breaker'   (budget of the whole node)\n  eo cap clear GPU-1b2c --yes"
    )
    parser.add_argument("what", choices=("show", "set", "clear"), help="show caps, set one, end one")
    parser.add_argument("target", nargs="?", type=name, help="a GPU's UUID (or its unique beginning), or a node")
    parser.add_argument("watts", nargs="?", type=float, help="for set: watts")
    intents.common(parser)
    writing(parser)


def run(args: argparse.Namespace) -> int:
    if args.what == "show":
        return _show(args)
    if args.target is None or (args.what == "set") == (args.watts is None):
        raise EoError("write `eo cap set GPU WATTS` or `eo cap clear GPU`.", USAGE)
    if args.what == "set":
        named = args.target.startswith(("GPU-", "MIG-"))
        _check_watts(args.watts, 1 if named else MOST_GPUS)  # before anybody is asked, and again when it is known
    layout = Layout.from_env()
    bootstrap = resolve_bootstrap(layout)
    place, held_out = _find(bootstrap, args.target)
    return (
        _set(args, layout, bootstrap, place, held_out) if args.what == "set" else _clear(args, layout, bootstrap, place)
    )


def _scope(place: Place) -> str:
    return f"gpu/{place.uuid}" if place.uuid else f"node/{place.node}"


def _check_watts(watts: float, gpus: int) -> None:
    if not 0 < watts <= HIGHEST_W * gpus:
        raise EoError(f"{watts:g} W is outside 0 to {HIGHEST_W * gpus:g} W; give watts, not milliwatts.", USAGE)


def _set(args: argparse.Namespace, layout: Layout, bootstrap: str, place: Place, held_out: bool) -> int:
    _check_watts(args.watts, 1 if place.uuid else MOST_GPUS)
    if held_out:
        raise EoError(
            f"{place.uuid} belongs to the hold-out, which stays at default for ever as the meter of savings; cap "
            "another GPU, or set its limit by hand on the node.",
            REFUSED,
        )
    name = place.uuid or f"all GPUs of {place.node} together"
    intent = intents.make(
        "cap",
        _scope(place),
        layout=layout,
        reason=args.reason,
        duration_s=args.duration_s,
        max_power_w=args.watts,
        known_ns=None if args.dry_run else intents.newest_ns(bootstrap, layout, "cap", _scope(place)),
    )
    if not args.dry_run:
        confirm(args, f"Cap {name} at {args.watts:g} W {intents.until(intent)}?")
        intents.publish(bootstrap, intent)
    verb = "Would cap" if args.dry_run else "Asked to cap"
    emit(
        args,
        intents.as_dict(intent, sent=not args.dry_run),
        f"{verb} {name} at {args.watts:g} W {intents.until(intent)}. See: eo explain {args.target}",
    )
    return DONE


def _clear(args: argparse.Namespace, layout: Layout, bootstrap: str, place: Place) -> int:
    scope = _scope(place)
    known_ns = None if args.dry_run else intents.newest_ns(bootstrap, layout, "clear", scope)
    intent = intents.make("clear", scope, layout=layout, reason=args.reason, known_ns=known_ns)
    if not args.dry_run:
        confirm(args, f"End the cap of {place.uuid or place.node}?")
        intents.publish(bootstrap, intent)
    verb = "Would end" if args.dry_run else "Ended"
    emit(args, intents.as_dict(intent, sent=not args.dry_run), f"{verb} the cap of {place.uuid or place.node}.")
    return DONE


def _show(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    now = time.time_ns()
    found = intents.words(resolve_bootstrap(layout), intents.keyring_of(layout), intents.cluster_name())
    live = [
        (word, wrong)
        for word, wrong in found
        if word.kind in ("cap", "pause") and (word.expires_ns is None or word.expires_ns > now)
    ]
    rows = [
        (
            w.scope,
            w.kind,
            w.max_power_w,
            intents.until(w),
            w.actor,
            f"NOT COUNTED: {wrong}" if wrong else w.reason or "-",
        )
        for w, wrong in live
    ]
    text = (
        table(rows, ("scope", "kind", "watts", "lasts", "by", "reason")) if rows else "No cap and no pause is in force."
    )
    emit(args, [{**intents.as_dict(w, sent=True), "refused": wrong or None} for w, wrong in live], text)
    return DONE


def _find(bootstrap: str, target: str) -> tuple[Place, bool]:
    """Where the target is and whether its newest envelope calls it hold-out."""
    from agents.cli.explain_topics import newest_command
    from agents.cli.gpu_lookup import find
    from agents.cli.kafka_read import ASK_S
    from streams.errors import StreamsError
    from streams.replay import Replay

    try:
        with Replay(bootstrap, "eo-cap", timeout_s=ASK_S, quiet=True) as replay:
            place = find(replay, target, intents.cluster_name())
            command = newest_command(replay, place.node, intents.cluster_name())
    except StreamsError as error:
        raise EoError(f"{error}.") from error
    if command is None or place.uuid not in command.gpu.uuid:
        return place, False
    return place, command.gpu.holdout[command.gpu.uuid.index(place.uuid)]
