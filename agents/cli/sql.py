"""`eo sql`: asks the archive in SQL, by a shipped query's name or freely. Read-only, with row and time limits."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agents.cli.base import DONE, USAGE, EoError

if TYPE_CHECKING:
    from streams.sinks.sql_files import Value

MOST_ROWS: Final = 10_000_000
LONGEST_S: Final = 86_400
EPILOG = """examples:
  eo sql --list
  eo sql savings_holdout
  eo sql power_by_node_hour --param hours=2 --csv
  eo sql "SELECT node, avg(power_w) FROM telemetry_node GROUP BY node"
  eo sql --schema gpu_minute"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("query", nargs="?", help="a query of --list, or SQL in quotes")
    parser.add_argument("--list", action="store_true", help="show the queries with their questions and parameters")
    parser.add_argument(
        "--schema", nargs="?", const="", metavar="VIEW", help="show the views, or one with columns and units"
    )
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the query; may be repeated"
    )
    parser.add_argument("--csv", action="store_true", help="print the rows as CSV")
    parser.add_argument("--archive", type=Path, help="an archive's folder (default: the data folder's)")
    parser.add_argument("--limit-rows", type=int, default=1000, metavar="N", help="most rows printed (1000)")
    parser.add_argument("--timeout-s", type=float, default=30.0, metavar="S", help="longest time to run, s (30)")


def run(args: argparse.Namespace) -> int:
    from agents.cli import sql_run, sql_show
    from streams.contract.layout import Layout

    if args.list:
        return sql_show.queries(args)
    if args.schema is not None:
        return sql_show.schema(args, args.schema)
    if not args.query:
        raise EoError("no query was given; `eo sql --list` shows those that ship with eo.", USAGE)
    _check_limits(args)
    given = _params(args.param)
    if re.fullmatch(r"\w+", args.query):
        query = sql_run.find(args.query)
        sql, params = query.sql, {**sql_run.defaults(query), **sql_run.chosen(query, given)}
    else:
        sql, params = args.query, given
    archive = args.archive or Layout.from_env().archive
    if args.archive is not None and not archive.is_dir():
        raise EoError(f"{archive} is no folder; name an archive's, e.g. data/archive.", USAGE)
    answer = sql_run.ask(archive, sql, params, limit_rows=args.limit_rows, timeout_s=args.timeout_s)
    for note in answer.notes:
        print(f"eo sql: {note}.", file=sys.stderr)
    if answer.more:
        print(f"eo sql: only the first {args.limit_rows} rows are shown; --limit-rows shows more.", file=sys.stderr)
    sql_show.answer(args, answer)
    return DONE


def _check_limits(args: argparse.Namespace) -> None:
    """Raises EoError(USAGE); NaN is within no bound."""
    for option, value, low, high in (
        ("--limit-rows", args.limit_rows, 1, MOST_ROWS),
        ("--timeout-s", args.timeout_s, 0.01, LONGEST_S),
    ):
        if not low <= value <= high:
            raise EoError(f"{option} {value} must be >= {low} and <= {high}; leave it out for the default.", USAGE)


def _params(pairs: list[str]) -> dict[str, Value]:
    """NAME=VALUE, as a number where it is one; raises EoError(USAGE)."""
    values: dict[str, Value] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name.isidentifier():
            raise EoError(f"--param {pair} is not NAME=VALUE.", USAGE)
        values[name] = _typed(text)
    return values


def _typed(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
