"""`eo features list|get|history`: the feature store. Latest values come from Kafka, history from the archive.

It reads only, joins no group, and says of every missing value whether it is unknown or expired.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agents.cli.base import DONE, FAILED, USAGE, EoError, emit, table
from agents.cli.known_names import refuse_misspelt
from streams.contract.layout import Layout

if TYPE_CHECKING:
    from streams.store.offline import HistoryRow, OfflineStore
    from streams.store.online import OnlineStore, OnlineValue

LOOK_BACK_S: Final = (15, 120)  # how much of the topic `get` reads: little first, more when the GPU is not in it
UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo features list\n  eo features get GPU-1b2c          (a UUID or its unique beginning)\n"
        "  eo features history GPU-1b2c power_w_mean_60s --from 15m --json\n"
        "  eo features history GPU-1b2c waste_w --from 2026-01-01T00:00:00Z --to 2026-01-01T06:00:00Z"
    )
    parser.add_argument(
        "what", choices=("list", "get", "history"), help="what is registered; values now; values of the archive"
    )
    parser.add_argument("gpu", nargs="?", help="for get and history: a GPU's UUID or its unique beginning")
    parser.add_argument("feature", nargs="?", help="for history (and get, to see only this one): a registered feature")
    parser.add_argument(
        "--from", dest="start", metavar="TIME", help="for history: UTC time, or how long ago, e.g. 15m, 2h, 3d"
    )
    parser.add_argument("--to", dest="end", metavar="TIME", help="for history: the same; default now")
    parser.add_argument("-n", "--limit", type=int, default=100, help="for history: the newest so many values (100)")


def run(args: argparse.Namespace) -> int:
    from streams.errors import StreamsError

    refuse_misspelt(os.environ)
    try:
        return {"list": _list, "get": _get, "history": _history}[args.what](args)
    except StreamsError as error:
        raise EoError(f"{error}.", FAILED) from error


def _list(args: argparse.Namespace) -> int:
    from streams.store.registry import feature_views

    if args.gpu:
        raise EoError("`eo features list` takes no GPU: it lists what is registered.", USAGE)
    views = [
        {
            "name": view.name,
            "entity": view.entity,
            "unit": view.unit,
            "window_s": view.window_s,
            "ttl_s": view.ttl_s,
            "columns": view.columns,
            "formula": view.formula,
            "source": view.source,
        }
        for view in feature_views()
    ]
    names = ("name", "unit", "window_s", "ttl_s", "formula")
    emit(args, views, lambda: table([[_plain(view[name]) for name in names] for view in views], names))
    return DONE


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _get(args: argparse.Namespace) -> int:
    from streams.store.registry import feature_view

    if not args.gpu:
        raise EoError("name a GPU: `eo features get GPU`; `eo top -1` shows some.", USAGE)
    if args.feature:
        feature_view(args.feature)
    store, uuid = _online(args.gpu)
    values = store.row(uuid, now_ns=time.time_ns(), features=[args.feature] if args.feature else None)
    emit(
        args,
        {"gpu_uuid": uuid, "node": store.node_of(uuid), "values": [_with_unit(value) for value in values]},
        lambda: _get_text(store.node_of(uuid), uuid, values),
    )
    return DONE


def _online(text: str) -> tuple[OnlineStore, str]:
    """A store that holds the GPU, and the GPU's whole UUID."""
    from agents.cli.brokers import resolve_bootstrap
    from agents.cli.intents import cluster_name
    from streams.store.online import OnlineStore
    from streams.store.reader import fill
    from streams.store.registry import ttl_s

    bootstrap = resolve_bootstrap(Layout.from_env())
    for look_back_s in LOOK_BACK_S:
        store = OnlineStore(ttl_s())
        fill(store, bootstrap, since_ms=time.time_ns() // 1_000_000 - look_back_s * 1000, cluster=cluster_name())
        uuid = one_of(text, store.gpus())
        if uuid is not None:
            return store, uuid
    raise EoError(
        f"no features of a GPU {text!r} in the last {LOOK_BACK_S[-1]} s ({len(store.gpus())} GPUs have some); "
        "`eo status` shows whether the worker runs, `eo features history` reads the archive."
    )


def one_of(text: str, uuids: tuple[str, ...]) -> str | None:
    """The GPU that the text names, whole or by its beginning, None when none fits; raises EoError when several do."""
    if text in uuids:
        return text
    fitting = [uuid for uuid in uuids if uuid.startswith(text)]
    if len(fitting) > 1:
        raise EoError(
            f"{len(fitting)} GPUs begin with {text!r}, e.g. {fitting[0]} and {fitting[1]}; write more of it.", USAGE
        )
    return fitting[0] if fitting else None


def _with_unit(value: OnlineValue) -> dict[str, object]:
    from streams.store.registry import feature_view

    return {**asdict(value), "unit": feature_view(value.feature).unit}


def _get_text(node: str | None, uuid: str, values: tuple[OnlineValue, ...]) -> str:
    from streams.store.registry import feature_view

    rows = [
        (
            value.feature,
            None if value.value is None else f"{value.value:.6g}",
            feature_view(value.feature).unit,
            value.state if value.state != "expired" else f"expired (lives {value.ttl_s:g} s)",
            None if value.age_s is None else f"{value.age_s:.1f} s",
            value.quality,
        )
        for value in values
    ]
    return f"{uuid} on {node}\n" + table(rows, ("feature", "value", "unit", "state", "age", "quality"))


def _history(args: argparse.Namespace) -> int:
    from streams.store.offline import OfflineStore

    if not args.gpu or not args.feature:
        raise EoError("name a GPU and a feature: `eo features history GPU FEATURE`; `eo features list`.", USAGE)
    if args.limit < 1:
        raise EoError(f"--limit {args.limit} is below 1.", USAGE)
    now_ns = time.time_ns()
    start_ns, end_ns = (None if text is None else time_ns(text, now_ns) for text in (args.start, args.end))
    if start_ns is not None and start_ns > (now_ns if end_ns is None else end_ns):
        raise EoError(f"--from {args.start} is later than --to {args.end or 'now'}.", USAGE)
    store = OfflineStore(Layout.from_env().archive)
    uuid = one_of(args.gpu, store.gpus()) or args.gpu
    rows = _rows(store, uuid, args, start_ns=start_ns, end_ns=end_ns)
    emit(
        args, {"gpu_uuid": uuid, "feature": args.feature, "values": [asdict(row) for row in rows]}, lambda: _text(rows)
    )
    return DONE


def _rows(
    store: OfflineStore, uuid: str, args: argparse.Namespace, *, start_ns: int | None, end_ns: int | None
) -> list[HistoryRow]:
    rows = store.history(uuid, args.feature, start_ns=start_ns, end_ns=end_ns, limit=args.limit)
    if not rows:
        raise EoError(
            f"the archive has no {args.feature} of GPU {uuid} in that time; its newest hour has {len(store.gpus())} "
            "GPUs, `eo top -1` names those of now."
        )
    return rows


def _text(rows: list[HistoryRow]) -> str:
    cells = [
        (_utc(row.window_end_ns), None if row.value is None else f"{row.value:.6g}", row.quality, row.node)
        for row in rows
    ]
    return table(cells, ("window end (UTC)", "value", "quality", "node"))


def _utc(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def time_ns(text: str, now_ns: int) -> int:
    """A time in ns since 1970: "now", an age such as 15m, or ISO 8601 (UTC unless it says otherwise).

    Raises:
        EoError: the text is none of these.
    """
    if text == "now":
        return now_ns
    number, unit = text[:-1], text[-1:]
    if unit in UNITS_S and number.isdecimal():
        return now_ns - int(number) * UNITS_S[unit] * 1_000_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise EoError(f"{text!r} is no time; write 15m, 2h, 3d, or 2026-01-01T00:00:00Z.", USAGE) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000) * 1000
