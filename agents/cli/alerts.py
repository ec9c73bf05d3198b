"""`eo alerts`: what fires now and why, the rules in force, and silences, which end by themselves.

A silence mutes the telling (webhooks, Alertmanager), never the alert: topic, archive and `eo alerts list` have it.
"""

from __future__ import annotations

import argparse
import getpass
import os
import time
from typing import TYPE_CHECKING, Any

from agents.cli.base import DONE, FAILED, USAGE, EoError, confirm, emit, table, writing
from streams.contract.layout import Layout

if TYPE_CHECKING:
    from streams.contract.records import Alert
    from streams.sinks.silences import Silences

EPILOG = """examples:
  eo alerts list
  eo alerts list --all --json
  eo alerts rules
  eo alerts silence --rule idle_leak --node 'node-00*' --for 2h --reason 'driver update'
  eo alerts silences
  eo alerts unsilence 1f2e3d4c"""
TEXT = """{state} {rule} ({severity}), {subject}
  {summary}
  since {since} UTC; data is {quality}
  look:    eo sql {sql}
  done:    {action}
  undo:    {undo}
  runbook: {runbook}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from agents.cli.intents import duration_s

    parser.epilog = EPILOG
    parser.add_argument(
        "what",
        choices=("list", "rules", "silence", "silences", "unsilence"),
        help="show alerts, show rules, begin, show or end a silence",
    )
    parser.add_argument("id", nargs="?", help="for unsilence: the silence, see `eo alerts silences`")
    parser.add_argument("--all", action="store_true", help="for list: resolved ones of the topic too")
    for name in ("rule", "node", "gpu", "group"):
        parser.add_argument(f"--{name}", default="", help=f"for silence and list: only this {name}; * and ? match")
    parser.add_argument("--for", dest="duration_s", type=duration_s, metavar="TIME", help="for silence: 90s, 10m, 2h")
    parser.add_argument("--reason", default="", help="for silence: why")
    writing(parser)


def run(args: argparse.Namespace) -> int:
    from streams.errors import StreamsError

    actions = {
        "list": _list,
        "rules": _rules,
        "silence": _silence,
        "silences": _silences,
        "unsilence": _unsilence,
    }
    try:
        return actions[args.what](args)
    except StreamsError as error:
        raise EoError(f"{error}.") from error


# --- alerts ---


def newest(bootstrap: str, cluster: str) -> list[Alert]:
    """The newest state of every alert in the topic, the newest first."""
    from agents.cli.kafka_read import Reader
    from streams.contract.codec import decode
    from streams.contract.errors import ContractError
    from streams.contract.records import Alert
    from streams.contract.topics import ALERT

    found: dict[str, Alert] = {}
    with Reader(bootstrap, ALERT.name) as reader:
        for message in reader.last(None):
            try:
                alert = decode(Alert, message.value)
            except ContractError:
                continue  # the deliver job has sent it to the dead letters
            known = found.get(alert.alert_id)
            if alert.cluster == cluster and (known is None or known.state == "firing"):
                found[alert.alert_id] = alert
    return sorted(found.values(), key=lambda one: one.ts_ns, reverse=True)


def _list(args: argparse.Namespace) -> int:
    from agents.cli.brokers import resolve_bootstrap
    from agents.cli.intents import cluster_name
    from streams.sinks.silences import Silence

    wanted = Silence(
        id="", until_ns=0, created_ns=0, by="", rule=args.rule, node=args.node, gpu=args.gpu, group=args.group
    )
    layout = Layout.from_env()
    found = newest(resolve_bootstrap(layout), cluster_name())
    shown = [one for one in found if (args.all or one.state == "firing") and wanted.matches(one)]
    now_ns = time.time_ns()
    live = [one for one in _book(layout).all() if one.live(now_ns)]
    values = [_as_dict(one, [s.id for s in live if s.matches(one)]) for one in shown]
    texts = [_text(value) for value in values]
    none = "Nothing is in the topic." if args.all else "Nothing fires."
    emit(args, values, "\n\n".join(texts) if texts else none)
    return DONE


def _as_dict(alert: Alert, silenced_by: list[str]) -> dict[str, Any]:
    from msgspec import to_builtins

    value: dict[str, Any] = to_builtins(alert)
    return {**value, "silenced_by": silenced_by}


def _text(value: dict[str, Any]) -> str:
    subject = value["labels"].get("subject") or value["node"] or value["cluster"]
    text = TEXT.format(**{**value, "state": value["state"].upper(), "subject": subject, "since": _when(value)})
    return text + "".join(f"\n  silenced by {name}" for name in value["silenced_by"])


def _when(value: dict[str, Any]) -> str:
    return _utc(value["started_ns"] or value["ts_ns"])


def _utc(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ns // 10**9))


def _rules(args: argparse.Namespace) -> int:
    """Exit code 1 when a file is wrong: the alerts worker would not start."""
    from models.alerts.rule import INSTANT
    from streams.jobs.alerts_rules import load
    from streams.settings import from_env

    settings = from_env()
    found = load(settings.alert_rules_dir, location=settings.location, factor_file=settings.carbon_factors)
    rows = [
        {
            "rule": one.name,
            "kind": one.kind,
            "severity": one.severity,
            "threshold": one.threshold,
            "confirmed": "at once" if one.kind in INSTANT else f"{one.k} of {one.n}",
            "silent": None,
        }
        for one in found.rules.values()
    ]
    rows += [{"rule": name, "silent": why} for name, why in found.silent.items()]
    rows.sort(key=lambda row: str(row["rule"]))
    head = ("rule", "kind", "severity", "threshold", "confirmed", "silent")
    emit(args, rows, lambda: table([[row.get(name) for name in head] for row in rows], head))
    return DONE


# --- silences ---


def _book(layout: Layout) -> Silences:
    from streams.sinks.silences import Silences

    return Silences(layout.deliver / "silences.json")


def _silence(args: argparse.Namespace) -> int:
    from msgspec import to_builtins

    from streams.sinks.silences import Silence

    if args.duration_s is None:
        raise EoError("a silence needs its end: pass --for 2h, at most 30d.", USAGE)
    now_ns = time.time_ns()
    wanted = Silence(
        id=os.urandom(4).hex(),
        until_ns=now_ns + args.duration_s * 10**9,
        created_ns=now_ns,
        by=getpass.getuser(),
        reason=args.reason,
        rule=args.rule,
        node=args.node,
        gpu=args.gpu,
        group=args.group,
    )
    wanted.check()
    what = _pattern(to_builtins(wanted))
    if not args.dry_run:
        confirm(args, f"Silence alerts of {what} until {_utc(wanted.until_ns)} UTC?")
        _book(Layout.from_env()).add(wanted)
    verb = "Would silence" if args.dry_run else "Silenced"
    text = f"{verb} {what} until {_utc(wanted.until_ns)} UTC. End it: eo alerts unsilence {wanted.id}"
    emit(args, {**to_builtins(wanted), "written": not args.dry_run}, text)
    return DONE


def _silences(args: argparse.Namespace) -> int:
    from msgspec import to_builtins

    now_ns = time.time_ns()
    found = _book(Layout.from_env()).all()
    values = [{**to_builtins(one), "live": one.live(now_ns)} for one in found]
    rows = [
        (v["id"], _pattern(v), _utc(v["until_ns"]), "live" if v["live"] else "over", v["by"], v["reason"])
        for v in values
    ]
    emit(args, values, table(rows, ("id", "mutes", "until UTC", "", "by", "reason")) if rows else "There is none.")
    return DONE


def _pattern(value: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value[name]}" for name in ("rule", "node", "gpu", "group") if value[name])


def _unsilence(args: argparse.Namespace) -> int:
    if not args.id:
        raise EoError("name the silence to end; `eo alerts silences` lists them.", USAGE)
    book = _book(Layout.from_env())
    if args.dry_run:
        known = any(one.id == args.id for one in book.all())
        emit(args, {"id": args.id, "known": known}, f"Would end silence {args.id}." if known else "There is none.")
        return DONE if known else FAILED
    ended = book.end(args.id, time.time_ns())
    emit(args, {"id": ended.id, "ended": True}, f"Ended silence {ended.id}; what still fires is told now.")
    return DONE
