"""Recorded sweeps from files: CSV or Parquet to columns, and the measurements that come with the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.cli.base import EoError
from agents.cli.table_file import PARQUET, NoTable, plain_bytes

if TYPE_CHECKING:
    from models.twin.measured import Measured
    from models.twin.recordings import Found

MOST_COMMENTS = 100
MOST_BYTES = 256 * 1024 * 1024


def columns(path: Path) -> tuple[dict[str, list[Any]], int]:
    """Columns of a CSV or Parquet file, and how many torn rows were left out; EoError names what else it is."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise EoError(f"{path} is no file; give a CSV or Parquet file of a sweep, or `all` for those that are shipped")
    if path.stat().st_size > MOST_BYTES:
        raise EoError(f"{path} has {path.stat().st_size} bytes, more than {MOST_BYTES}; give the rows of one sweep")
    torn: list[int] = []

    def left_out(row: Any) -> str:
        torn.append(row.actual_columns)
        return "skip"

    try:
        data = plain_bytes(path, MOST_BYTES)
        if data.startswith(PARQUET):
            table = parquet.read_table(BytesIO(data))
        else:
            comments, head = _head(data)
            table = csv.read_csv(
                BytesIO(data),
                read_options=csv.ReadOptions(skip_rows=comments),
                parse_options=csv.ParseOptions(delimiter=_delimiter(head), invalid_row_handler=left_out),
            )
            if torn and not table.num_rows:
                raise EoError(f"{path} is no table: no row has the {table.num_columns} columns of its header")
    except NoTable as error:
        raise EoError(str(error)) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise EoError(f"{path} is neither CSV nor Parquet ({first}); save the sweep as CSV with a header") from error
    _no_rivals(path, table)
    found: dict[str, list[Any]] = table.to_pydict()
    return found, len(torn)


def _no_rivals(path: Path, table: Any) -> None:
    """Refuses two columns of one name that differ: either may be meant."""
    first: dict[str, int] = {}
    for at, name in enumerate(table.column_names):
        if name in first and not table.column(at).equals(table.column(first[name])):
            raise EoError(f"{path} names the column {name!r} more than once, with other values; keep one of them")
        first.setdefault(name, at)


def _head(data: bytes) -> tuple[int, bytes]:
    """Number of comment lines in front, and the header after them."""
    file = BytesIO(data)
    for at in range(MOST_COMMENTS):
        head = file.readline(65_536)
        if not head.startswith(b"#"):
            return at, head
    return 0, head


def _delimiter(header: bytes) -> str:
    """The one of comma, semicolon and tab that the header has most of."""
    return max(",;\t", key=lambda one: header.count(one.encode()))


def recorded(path: Path) -> Found:
    """The sweeps of one file."""
    from models.twin.recordings import Unreadable, from_columns

    try:
        table, torn = columns(path)
        found = from_columns(table)
    except Unreadable as error:
        raise EoError(f"{path}: {error}") from error
    if torn:
        found.skipped["row with another number of columns"] = torn
    if not found.sweeps:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in found.skipped.items()) or "it has no rows"
        raise EoError(
            f"{path} holds no usable sweep ({reasons}); a sweep is one workload at two settings or more"
            + _split_by(found.split_by)
        )
    return found


def _split_by(columns: tuple[str, ...]) -> str:
    """The columns that make a workload of what may be one sweep, and what to do with them."""
    if not columns:
        return ""
    names = " and ".join(repr(name) for name in columns)
    these = f"the column {names} splits" if len(columns) == 1 else f"the columns {names} together split"
    return f"; {these} the rows, so take out what does not tell workloads apart"


@contextmanager
def shipped_folder() -> Iterator[Path]:
    """The folder of measurements inside the package."""
    with as_file(files("models.twin").joinpath("data/measured")) as folder:
        yield folder


def measured() -> Measured:
    """All shipped measurements."""
    from models.twin.measured import gather

    with shipped_folder() as folder:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in (".csv", ".parquet"))
        return gather({name: columns(folder / name)[0] for name in names})
