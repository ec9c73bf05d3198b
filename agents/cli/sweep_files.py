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

MOST_BYTES = 256 * 1024 * 1024


def columns(path: Path) -> dict[str, list[Any]]:
    """Columns of a CSV or Parquet file; raises EoError with the next step for anything else."""
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise EoError(f"{path} is no file; give a CSV or Parquet file of a sweep, or `all` for those that are shipped")
    if path.stat().st_size > MOST_BYTES:
        raise EoError(f"{path} has {path.stat().st_size} bytes, more than {MOST_BYTES}; give the rows of one sweep")
    try:
        with path.open("rb") as file:
            head = file.readline(65_536)
        if head[:4] == b"PAR1":
            table = parquet.read_table(path)
        else:
            table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=_delimiter(head)))
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise EoError(f"{path} is neither CSV nor Parquet ({first}); save the sweep as CSV with a header") from error
    found: dict[str, list[Any]] = table.to_pydict()
    return found


def _delimiter(header: bytes) -> str:
    """The one of comma, semicolon and tab that the header has most of."""
    return max(",;\t", key=lambda one: header.count(one.encode()))


def recorded(path: Path) -> Found:
    """The sweeps of one file."""
    from models.twin.recordings import Unreadable, from_columns

    try:
        found = from_columns(columns(path))
    except Unreadable as error:
        raise EoError(f"{path}: {error}") from error
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
        return gather({name: columns(folder / name) for name in names})
