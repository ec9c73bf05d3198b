"""Recorded sweeps from files: CSV or Parquet to columns, and the measurements that come with the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.cli.base import EoError

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
        comments, head = _head(path)
        if head[:4] == b"PAR1":
            table = parquet.read_table(path)
        else:
            table = csv.read_csv(
                path,
                read_options=csv.ReadOptions(skip_rows=comments),
                parse_options=csv.ParseOptions(delimiter=_delimiter(head), invalid_row_handler=left_out),
            )
            if torn and not table.num_rows:
                raise EoError(f"{path} is no table: no row has the {table.num_columns} columns of its header")
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise EoError(f"{path} is neither CSV nor Parquet ({first}); save the sweep as CSV with a header") from error
    found: dict[str, list[Any]] = table.to_pydict()
    return found, len(torn)


def _head(path: Path) -> tuple[int, bytes]:
    """Number of comment lines in front, and the header after them."""
    with path.open("rb") as file:
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
        raise EoError(f"{path} holds no usable sweep ({reasons}); a sweep is one workload at two settings or more")
    return found


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
