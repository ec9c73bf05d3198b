"""Asks the archive: checks that a statement only reads, runs it under a time and a row limit, leaves out broken files.

Nothing is printed here. `named` answers a shipped query for other parts of the product, on the SQL that users call.
"""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.base import FAILED, REFUSED, USAGE, EoError

if TYPE_CHECKING:
    import duckdb

    from streams.sinks.sql_files import SqlFile, Value

READS: Final = "SELECT, WITH, EXPLAIN, DESCRIBE or SHOW"
MEMORY: Final = "4GB"
_EXPLAIN: Final = re.compile(r"\s*EXPLAIN\s+(ANALYZE\b|\([^)]*\))?\s*", re.IGNORECASE)
_WRITES: Final = re.compile(r"read-only mode", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of a query: at most the limit; `more` says that there were others. `notes` name what was left out."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool
    notes: tuple[str, ...]

    def records(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def named(
    connection: duckdb.DuckDBPyConnection, name: str, params: Mapping[str, Value] | None = None
) -> list[dict[str, Any]]:
    """The rows of a shipped query on an opened archive; `params` override its defaults.

    Raises:
        EoError: no query of that name, no parameter of that name.
    """
    query = find(name)
    cursor = connection.execute(query.sql, {**defaults(query), **chosen(query, params or {})})
    columns = [column[0] for column in cursor.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]


def find(name: str) -> SqlFile:
    """A shipped query; raises EoError(USAGE) with the nearest name."""
    from streams.sinks.sql_files import load

    queries = load("queries")
    if name in queries:
        return queries[name]
    near = difflib.get_close_matches(name, queries, 1) or [known for known in queries if name in known]
    hint = f"did you mean `eo sql {near[0]}`?" if near else "`eo sql --list` shows them."
    raise EoError(f"{name!r} is neither a query that ships with eo nor SQL; {hint}", USAGE)


def defaults(query: SqlFile) -> dict[str, Value]:
    return {param.name: param.default for param in query.params}


def chosen(query: SqlFile, params: Mapping[str, Value]) -> dict[str, Value]:
    """Values of the user, typed as the query's defaults; raises EoError(USAGE)."""
    by_name = {param.name: param for param in query.params}
    values: dict[str, Value] = {}
    for name, value in params.items():
        if name not in by_name:
            known = ", ".join(f"{param.name}={param.default}" for param in query.params) or "none"
            raise EoError(f"{query.name} has no parameter {name!r}; it takes: {known}.", USAGE)
        try:
            values[name] = by_name[name].parse(str(value))
        except ValueError:
            kind = type(by_name[name].default).__name__
            raise EoError(f"{name}={value} is not {kind}; {name} is in {by_name[name].meaning}.", USAGE) from None
        if not by_name[name].allows(values[name]):
            raise EoError(
                f"{name}={value} is out of bounds: {name} ({by_name[name].meaning}) must be {by_name[name].range}; "
                f"leave it out for {by_name[name].default}.",
                USAGE,
            )
    return values


def check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuses whatever is not exactly one reading statement; raises EoError (REFUSED, or USAGE for no SQL at all)."""
    import duckdb

    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise EoError(f"{one_line(error)}; `eo sql --schema` shows views and columns.", USAGE) from error
    if len(statements) != 1:
        raise EoError(f"{len(statements)} statements were given; `eo sql` runs exactly one.", REFUSED)
    kind = statements[0].type.name
    if kind == "EXPLAIN" and (inner := _EXPLAIN.sub("", sql, count=1)) != sql:
        check(connection, inner)
    elif kind != "SELECT":
        raise EoError(f"{kind} is refused: `eo sql` only reads the archive; use {READS}.", REFUSED)


def ask(
    archive: Path,
    sql: str,
    params: Mapping[str, Value],
    *,
    limit_rows: int,
    timeout_s: float,
    leave_out: Collection[Path] = (),
) -> Answer:
    """Runs one reading statement on the archive. A file that turns out to be unreadable is left out and named.

    A file that compaction replaces stays for a grace time longer than any query, so none vanishes under this one.

    Raises:
        EoError: refused, wrong SQL, too slow, too large; one sentence with the next step.
    """
    import duckdb

    from streams.sinks.archive_reader import open_reader, view_names

    words = set(re.findall(r"\w+", sql.lower()))
    only = [name for name in view_names() if name in words]
    broken = set(leave_out)
    opened = open_reader(archive, leave_out=broken, only=None if _asks_for_views(words) else only, memory=MEMORY)
    with opened.connection as connection:
        check(connection, sql)
        try:
            columns, types, rows = _run(connection, sql, params, limit_rows=limit_rows, timeout_s=timeout_s)
        except duckdb.Error as error:
            if not is_data(error) or not (found := unreadable(archive, only) - broken):
                raise _explained(error, timeout_s) from error
            return ask(archive, sql, params, limit_rows=limit_rows, timeout_s=timeout_s, leave_out=broken | found)
    notes = [f"left out {path}: {reason}; move it out of the archive" for path, reason in opened.left_out]
    if not opened.files:
        notes.append(f"the archive {archive} holds no rows yet; `eo demo` or `eo worker archive` fills it")
    return Answer(columns, types, tuple(rows[:limit_rows]), len(rows) > limit_rows, tuple(notes))


def _asks_for_views(words: set[str]) -> bool:
    """SHOW, DESCRIBE and the catalogue's tables want to see every view."""
    return bool(words & {"show", "describe", "summarize", "information_schema"}) or any("duckdb_" in w for w in words)


def _run(
    connection: duckdb.DuckDBPyConnection, sql: str, params: Mapping[str, Value], *, limit_rows: int, timeout_s: float
) -> tuple[tuple[str, ...], tuple[str, ...], list[tuple[Any, ...]]]:
    # A second lock behind check(): in this transaction DuckDB itself refuses to change anything.
    connection.execute("BEGIN TRANSACTION READ ONLY")
    with _deadline(connection, timeout_s):
        cursor = connection.execute(sql, dict(params)) if params else connection.execute(sql)
        columns = tuple(str(column[0]) for column in cursor.description or ())
        types = tuple(str(column[1]) for column in cursor.description or ())
        return columns, types, cursor.fetchmany(limit_rows + 1)


@contextmanager
def _deadline(connection: duckdb.DuckDBPyConnection, timeout_s: float) -> Iterator[None]:
    timer = threading.Timer(timeout_s, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def is_data(error: duckdb.Error) -> bool:
    """Whether a broken or vanished file may be behind the error, and not the SQL."""
    import duckdb

    sql_faults = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.InterruptException)
    return not isinstance(error, (*sql_faults, duckdb.OutOfMemoryException, duckdb.PermissionException))


def unreadable(archive: Path, views: list[str]) -> set[Path]:
    """Files of these views that cannot be read to the end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from streams.sinks import archive_files, archive_reader

    needed = archive_reader.needed(views)
    broken: set[Path] = set()
    for dataset, path in archive_files.each(archive):
        if archive_reader.view_name(dataset) not in needed:
            continue
        try:
            source = pq.ParquetFile(path)
            for index in range(source.num_row_groups):
                source.read_row_group(index)
        except (OSError, pa.ArrowException):
            broken.add(path)
    return broken


def _explained(error: duckdb.Error, timeout_s: float) -> EoError:
    import duckdb

    if isinstance(error, duckdb.InterruptException):
        return EoError(
            f"the query ran longer than {timeout_s:g} s; ask for less time (--param hours=1) or allow more "
            f"(--timeout-s {timeout_s * 4:g}).",
            FAILED,
        )
    if _WRITES.search(str(error)):
        return EoError(f"the statement would write: `eo sql` only reads the archive; use {READS}.", REFUSED)
    if isinstance(error, duckdb.OutOfMemoryException):
        return EoError(f"the query needs more than {MEMORY} of memory; ask for less time or fewer columns.", FAILED)
    if isinstance(error, duckdb.PermissionException):
        return EoError(f"{one_line(error)}; `eo sql` reads the archive and nothing else.", REFUSED)
    return EoError(f"{one_line(error)}; `eo sql --schema` shows views and columns.", FAILED)


def one_line(error: BaseException) -> str:
    """The first line of a database error, without a full stop."""
    return str(error).strip().splitlines()[0].rstrip(". ")
