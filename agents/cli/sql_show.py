"""How `eo sql` prints: tables that fit or turn on their side, JSON, CSV, the list of queries, the columns of views."""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import sys
import textwrap
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from agents.cli.base import DONE, USAGE, EoError, emit, table

if TYPE_CHECKING:
    from agents.cli.sql_run import Answer


def answer(args: argparse.Namespace, found: Answer) -> None:
    """Prints the rows as JSON (a list of objects), CSV or text."""
    if args.json:
        emit(args, [{name: _plain(value) for name, value in row.items()} for row in found.records()], "")
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(found.columns)
        writer.writerows([["" if value is None else _text(value) for value in row] for row in found.rows])
    else:
        emit(args, None, _as_text(found, shutil.get_terminal_size((160, 24)).columns))


def _as_text(found: Answer, width: int) -> str:
    cells = [[None if value is None else _text(value) for value in row] for row in found.rows]
    text = table(cells, found.columns)
    if len(cells) <= 3 and max(map(len, text.splitlines())) > width:
        turned = [[name, *values] for name, *values in zip(found.columns, *cells, strict=True)]
        text = table(turned, ["column", *(f"row {number + 1}" for number in range(len(cells)))])
    count = f"{len(cells)} row{'' if len(cells) == 1 else 's'}"
    return "\n".join([text, "", f"{count}{_simulated(found)}"])


def _simulated(found: Answer) -> str:
    """Says how many of the rows shown rest on simulated samples."""
    names = [name for name in ("simulated_ratio", "quality") if name in found.columns]
    if not names:
        return ""
    at = found.columns.index(names[0])
    values = [row[at] for row in found.rows]
    count = sum(1 for value in values if value == "simulated" or (isinstance(value, float) and value > 0))
    return f"; SIMULATED: {count} of them rest on simulated samples" if count else ""


def _plain(value: Any) -> Any:
    """A value that JSON has: unknown is null, times are ISO 8601."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case datetime():
            return value.isoformat()
        case Decimal():
            return float(value)
        case dict():
            return {str(key): _plain(member) for key, member in value.items()}
        case list() | tuple():
            return [_plain(member) for member in value]
        case _:
            return value


def _text(value: Any) -> str:
    match value:
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S") + (
                f".{value.microsecond // 1000:03}" if value.microsecond else ""
            )
        case dict() | list() | tuple():
            return json.dumps(_plain(value), default=str)
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def queries(args: argparse.Namespace) -> int:
    """The shipped queries."""
    from streams.sinks.sql_files import load

    found = load("queries").values()
    as_json = [
        {
            "name": query.name,
            "question": query.question,
            "params": {param.name: param.default for param in query.params},
            "columns": dict(query.columns),
        }
        for query in found
    ]

    def text() -> str:
        width = max(60, shutil.get_terminal_size((100, 24)).columns) - 2
        lines: list[str] = []
        for query in found:
            params = " ".join(f"{param.name}={param.default}" for param in query.params)
            lines += [
                f"{query.name}  [{params}]",
                *textwrap.wrap(query.question, width, initial_indent="  ", subsequent_indent="  "),
            ]
        return "\n".join([*lines, "", "run one: eo sql NAME --param hours=1"])

    emit(args, as_json, text)
    return DONE


def views() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Every view: what a row is or answers, and its columns with meaning and unit."""
    from streams.sinks import schemas, sql_files
    from streams.sinks.archive_reader import view_name

    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for dataset in schemas.DATASETS:
        columns = [(name, meaning) for name, _, meaning in dataset.columns]
        found[view_name(dataset.name)] = (f"one row per {dataset.row.removeprefix('one ')}", columns)
    for kind in ("rollups", "views"):
        for view in sql_files.load(kind).values():
            found[view.name] = (view.question, list(view.columns))
    return found


def schema(args: argparse.Namespace, name: str) -> int:
    """All views, or the columns of one."""
    known = views()
    if name and name not in known:
        raise EoError(f"{name!r} is not a view; the views are {', '.join(known)}.", USAGE)
    if name:
        row, columns = known[name]
        emit(
            args,
            {"view": name, "row": row, "columns": dict(columns)},
            lambda: f"{row}\n\n{table(columns, ['column', 'meaning'])}",
        )
    else:
        listed = [[view, row] for view, (row, _) in known.items()]
        as_json = {view: {"row": row, "columns": dict(columns)} for view, (row, columns) in known.items()}
        emit(args, as_json, lambda: table(listed, ["view", "what it is"]) + "\n\ncolumns: eo sql --schema VIEW")
    return DONE
