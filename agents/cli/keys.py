"""`eo keys add|list|revoke`: keys of the Energy API. A key is shown once, when it is made; only its hash is kept."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Final

from agents.cli.base import DONE, USAGE, EoError, confirm, emit, table, writing
from agents.cli.intents import duration_s
from streams.contract.layout import Layout

if TYPE_CHECKING:
    from agents.gateway.keys import KeyStore, StoredKey

ROLES: Final = ("read", "operate", "admin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo keys add grafana --role read\n  eo keys add night-shift --role operate --for 12h\n"
        "  eo keys list\n  eo keys revoke 1b2c3d4e --yes\n"
        "roles: read sees everything, operate may also apply recommendations, admin may also list and end keys"
    )
    parser.add_argument("what", choices=("add", "list", "revoke"), help="make a key, show all, end one")
    parser.add_argument("name", nargs="?", help="for add: whose key it is; for revoke: the key's id")
    parser.add_argument("--role", choices=ROLES, help="for add: what the key may do")
    parser.add_argument(
        "--for", dest="duration_s", type=duration_s, metavar="TIME", help="for add: 12h, 30d; else until revoked"
    )
    writing(parser)


def run(args: argparse.Namespace) -> int:
    from agents.gateway.keys import KeyStore

    store = KeyStore(Layout.from_env().keys / "api_keys.json")
    if args.what == "list":
        return _list(args, store)
    if args.name is None or (args.what == "add") != (args.role is not None):
        raise EoError("write `eo keys add NAME --role read|operate|admin` or `eo keys revoke ID`.", USAGE)
    return _add(args, store) if args.what == "add" else _revoke(args, store)


def _add(args: argparse.Namespace, store: KeyStore) -> int:
    now = time.time_ns()
    expires = None if args.duration_s is None else now + args.duration_s * 10**9
    if args.dry_run:
        emit(args, {"name": args.name, "role": args.role}, f"Would make a key of role {args.role} for {args.name}.")
        return DONE
    key, text = store.add(args.name, args.role, now_ns=now, expires_ns=expires)
    told = f"{text}\nIt is shown this once. Role {key.role}, {_until(key)}; end it: eo keys revoke {key.id}"
    emit(args, {**_row(key, now), "key": text}, told)
    return DONE


def _revoke(args: argparse.Namespace, store: KeyStore) -> int:
    known = {key.id: key for key in store.all()}
    if args.name not in known:
        raise EoError(f"there is no key {args.name!r} in {store.path}; `eo keys list` shows them.")
    key = known[args.name]
    if not args.dry_run:
        confirm(args, f"End key {key.id} ({key.name}, role {key.role}) now?")
        key = store.revoke(key.id, now_ns=time.time_ns())
    emit(args, _row(key, time.time_ns()), f"{'Would end' if args.dry_run else 'Ended'} key {key.id} ({key.name}).")
    return DONE


def _list(args: argparse.Namespace, store: KeyStore) -> int:
    now = time.time_ns()
    rows = [_row(key, now) for key in store.all()]
    cells = [(key.id, key.name, key.role, key.state(now), _until(key)) for key in store.all()]
    text = (
        table(cells, ("id", "name", "role", "state", "lasts"))
        if cells
        else "There are no keys; `eo keys add` makes one."
    )
    emit(args, rows, text)
    return DONE


def _row(key: StoredKey, now_ns: int) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "created_ns": key.created_ns,
        "expires_ns": key.expires_ns,
        "state": key.state(now_ns),
    }


def _until(key: StoredKey) -> str:
    if key.expires_ns is None:
        return "until it is revoked"
    return "until " + time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(key.expires_ns // 10**9))
