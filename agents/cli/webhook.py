"""`eo webhook`: who is told of alerts by POST, a test message, the log of deliveries, and sending one again.

A secret is printed once, when it is made. Addresses are shown by scheme and host: a path may be a secret.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.cli.base import DONE, FAILED, REFUSED, USAGE, EoError, confirm, emit, table, writing
from streams.contract.layout import Layout

if TYPE_CHECKING:
    from streams.contract.records import Alert
    from streams.sinks.http_post import Answer
    from streams.sinks.outbox import Delivery, Outbox
    from streams.sinks.receivers import Receiver, Receivers

EPILOG = """examples:
  eo webhook add https://hooks.example.com/energy --name ops
  eo webhook add https://hooks.slack.com/services/T/B/X --name chat --shape slack --unsigned
  eo webhook list
  eo webhook test ops
  eo webhook deliveries --receiver ops --status dead
  eo webhook replay 17
  eo webhook rotate ops
  eo webhook rotate ops --finish
  eo webhook remove ops --yes"""
VERBS = ("add", "list", "remove", "rotate", "test", "deliveries", "replay")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("what", choices=VERBS, help="what to do")
    parser.add_argument("target", nargs="*", help="add: the URL; replay: numbers of deliveries; else: the receiver")
    parser.add_argument("--name", default="", help="add: name of the receiver (default: its host)")
    parser.add_argument("--shape", default="standard", choices=("standard", "slack", "alertmanager"), help="add: body")
    parser.add_argument("--rule", action="append", default=[], help="add: only this rule; may be repeated")
    parser.add_argument("--least-severity", default="info", choices=("info", "warning", "critical"), help="add")
    parser.add_argument("--allow-host", action="append", default=[], help="add: this host may be private or loopback")
    parser.add_argument("--allow-port", action="append", default=[], type=int, help="add: beside 80 and 443")
    parser.add_argument("--secret-file", type=Path, help="add: your own whsec_ secret, in a file")
    parser.add_argument("--unsigned", action="store_true", help="add: no secret")
    parser.add_argument("--finish", action="store_true", help="rotate: the old secret signs no more")
    parser.add_argument("--receiver", help="deliveries: only of this receiver")
    parser.add_argument("--status", choices=("pending", "delivered", "dead", "muted"), help="deliveries: only these")
    parser.add_argument("--dead", action="store_true", help="replay: every dead one")
    parser.add_argument("-n", "--count", type=int, default=20, help="deliveries: how many of the newest (20)")
    writing(parser)


def run(args: argparse.Namespace) -> int:
    from streams.errors import StreamsError

    actions = {
        "add": _add,
        "list": _list,
        "remove": _remove,
        "rotate": _rotate,
        "test": _test,
        "deliveries": _deliveries,
        "replay": _replay,
    }
    try:
        return actions[args.what](args)
    except StreamsError as error:
        raise EoError(f"{error}.") from error


def _book() -> Receivers:
    from streams.settings import from_env
    from streams.sinks.receivers import Receivers

    settings = from_env()
    return Receivers(settings.webhook_file or settings.layout.deliver / "webhooks.json")


def _outbox() -> Outbox:
    from streams.sinks.outbox import Outbox

    return Outbox(Layout.from_env().deliver / "outbox.sqlite")


def _one(args: argparse.Namespace, what: str) -> str:
    if len(args.target) != 1:
        raise EoError(f"`eo webhook {args.what}` needs {what}.", USAGE)
    return str(args.target[0])


# --- receivers ---


def _add(args: argparse.Namespace) -> int:
    from streams.sinks import address_guard as guard
    from streams.sinks.receivers import Receiver

    url = _one(args, "the receiver's URL")
    allowed = guard.Allowed(frozenset(args.allow_host), frozenset({80, 443, *args.allow_port}))
    try:
        _, host, _, _ = guard.split(url, allowed)
    except guard.Refused as error:
        raise EoError(f"{error}.", REFUSED) from error
    receiver = Receiver(
        name=args.name or host.replace(".", "-")[:40],
        url=url,
        shape=args.shape,
        allow_hosts=tuple(args.allow_host),
        allow_ports=tuple(args.allow_port),
        rules=tuple(args.rule),
        least_severity=args.least_severity,
        created_ns=time.time_ns(),
    )
    note = _note(url, allowed)
    if args.dry_run:
        emit(args, {**_shown(receiver), "added": False}, f"Would add {receiver.name}: {receiver.shown}{note}")
        return DONE
    book = _book()
    made = book.add(receiver, secret=_secret(args.secret_file), signed=not args.unsigned)
    value = {**_shown(book.get(receiver.name)), "added": True, "secret": made}
    said = f"\nIts secret, shown once: {made}" if made else ""
    emit(args, value, f"Added {receiver.name}: {receiver.shown}{said}{note}\nTry it: eo webhook test {receiver.name}")
    return DONE


def _note(url: str, allowed: Any) -> str:
    """What a try would be refused for now; the receiver is added all the same when only its name is unknown yet."""
    from streams.sinks import address_guard as guard

    try:
        guard.check(url, allowed)
    except guard.Refused as error:
        raise EoError(f"{error}.", REFUSED) from error
    except OSError as error:
        return f"\nNote: its name cannot be resolved now ({error.strerror or error})."
    return ""


def _secret(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except OSError as error:
        raise EoError(f"{path} cannot be read ({error.strerror}); leave --secret-file out and one is made.") from error


def _shown(receiver: Receiver) -> dict[str, Any]:
    return {
        "name": receiver.name,
        "url": receiver.shown,
        "shape": receiver.shape,
        "secrets": len(receiver.secrets),
        "rules": list(receiver.rules),
        "least_severity": receiver.least_severity,
        "allow_hosts": list(receiver.allow_hosts),
        "allow_ports": list(receiver.allow_ports),
    }


def _list(args: argparse.Namespace) -> int:
    values = [_shown(one) for one in _book().all()]
    head = ("name", "url", "shape", "secrets", "least_severity", "rules")
    rows = [[v[name] if name != "rules" else ",".join(v["rules"]) or "all" for name in head] for v in values]
    emit(args, values, table(rows, head) if rows else "There is none; `eo webhook add URL` adds one.")
    return DONE


def _remove(args: argparse.Namespace) -> int:
    name, book = _one(args, "the receiver's name"), _book()
    receiver = book.get(name)
    if not args.dry_run:
        confirm(args, f"Remove {name} ({receiver.shown}) and its secrets?")
        book.remove(name)
    emit(args, {"name": name, "removed": not args.dry_run}, f"{'Would remove' if args.dry_run else 'Removed'} {name}.")
    return DONE


def _rotate(args: argparse.Namespace) -> int:
    name, book = _one(args, "the receiver's name"), _book()
    live = len(book.get(name).secrets)
    if args.dry_run:
        after = 1 if args.finish else live + 1
        emit(args, {"name": name, "secrets": after}, f"Would leave {after} live secrets for {name}.")
        return DONE
    if args.finish:
        confirm(args, f"Drop the old secret of {name}? Whoever still checks with it refuses our messages then.")
        book.finish(name)
        emit(args, {"name": name, "secrets": 1}, f"Only the newest secret of {name} signs now.")
        return DONE
    made = book.rotate(name)
    text = f"New secret of {name}, shown once: {made}\nBoth sign until: eo webhook rotate {name} --finish"
    emit(args, {"name": name, "secrets": live + 1, "secret": made}, text)
    return DONE


# --- messages ---


def sample(cluster: str, now_ns: int) -> Alert:
    """A test message: an alert that says what it is."""
    from streams.contract.records import Alert

    return Alert(
        cluster=cluster,
        node=None,
        alert_id=f"test-{now_ns}",
        rule="webhook_test",
        severity="info",
        state="firing",
        ts_ns=now_ns,
        started_ns=now_ns,
        summary="This is a test of `eo webhook test`; nothing is wrong.",
        evidence={},
        runbook="docs/webhooks.md",
        group="test",
        action="nothing",
        undo="nothing was changed",
        quality="simulated",
        labels={"subject": "test"},
    )


def send_test(book: Receivers, receiver: Receiver, cluster: str) -> Answer:
    """Sends one test message from here, now, without the outbox."""
    from streams.sinks import http_post, shapes, webhook
    from streams.sinks.outbox import webhook_id

    now_ns = time.time_ns()
    alert = sample(cluster, now_ns)
    body = shapes.body(receiver.shape, [alert], receiver.name)
    sent = webhook.headers(webhook_id([alert], receiver.name), now_ns // 10**9, body, book.keys(receiver))
    return http_post.post(receiver.url, body, sent, allowed=receiver.allowed)


def _test(args: argparse.Namespace) -> int:
    """Exit code 1 when the test message was not taken."""
    from agents.cli.intents import cluster_name
    from streams.sinks import shapes

    book, cluster = _book(), cluster_name()
    receiver = book.get(_one(args, "the receiver's name"))
    if args.dry_run:
        body = shapes.body(receiver.shape, [sample(cluster, time.time_ns())], receiver.name).decode()
        emit(args, {"sent": False, "body": body}, f"Would send to {receiver.shown}:\n{body}")
        return DONE
    answer = send_test(book, receiver, cluster)
    value = {"receiver": receiver.name, "taken": answer.ok, "status": answer.status, "took_ms": answer.took_ms}
    said = answer.status if answer.status is not None else answer.detail
    text = f"{receiver.name} {'took' if answer.ok else 'did not take'} it: {said}, {answer.took_ms:.0f} ms"
    emit(args, {**value, "detail": answer.detail}, text)
    return DONE if answer.ok else FAILED


def _deliveries(args: argparse.Namespace) -> int:
    if args.target:
        return _tries(args)
    if not 1 <= args.count <= 100_000:
        raise EoError(f"-n {args.count} must be >= 1 and <= 100000.", USAGE)
    found = _outbox().deliveries(limit=args.count, receiver=args.receiver, status=args.status)
    values = [_delivery(one) for one in found]
    head = ("id", "receiver", "rule", "state", "alerts", "status", "attempts", "created", "next")
    rows = [[value[name] for name in head] for value in values]
    emit(args, values, table(rows, head) if rows else "Nothing was sent and nothing waits.")
    return DONE


def _delivery(one: Delivery) -> dict[str, Any]:
    return {
        "id": one.id,
        "receiver": one.receiver,
        "webhook_id": one.webhook_id,
        "alert_id": one.alert_id,
        "rule": one.rule,
        "state": one.state,
        "alerts": len(one.alerts),
        "status": one.status,
        "attempts": one.attempts,
        "created": _utc(one.created_s),
        "next": _utc(one.next_s) if one.status == "pending" else None,
        "ended": None if one.ended_s is None else _utc(one.ended_s),
    }


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def _numbers(args: argparse.Namespace) -> list[int]:
    try:
        return [int(text) for text in args.target]
    except ValueError as error:
        raise EoError(f"{error}; write numbers as `eo webhook deliveries` shows them.", USAGE) from error


def _tries(args: argparse.Namespace) -> int:
    box, values = _outbox(), []
    for number in _numbers(args):
        values += [
            {"id": number, "at": _utc(t.at_s), "answer": t.answer, "detail": t.detail, "took_ms": t.took_ms}
            for t in box.attempts(number)
        ]
    head = ("id", "at", "answer", "took_ms", "detail")
    emit(args, values, table([[v[name] for name in head] for v in values], head) if values else "Not tried yet.")
    return DONE


def _replay(args: argparse.Namespace) -> int:
    box, numbers = _outbox(), _numbers(args)
    if bool(numbers) == args.dead:
        raise EoError("name the deliveries to send again (see `eo webhook deliveries`), or pass --dead.", USAGE)
    if args.dead:
        numbers = [one.id for one in box.deliveries(limit=100_000, receiver=args.receiver, status="dead")]
    if args.dry_run:
        emit(args, {"replayed": 0, "would": len(numbers)}, f"Would send {len(numbers)} again.")
        return DONE
    confirm(args, f"Send {len(numbers)} again?")
    done = box.replay(numbers, now_s=time.time())
    emit(args, {"replayed": done}, f"{done} will be sent again by the deliver worker, with the same webhook-id.")
    return DONE if done == len(numbers) else FAILED
