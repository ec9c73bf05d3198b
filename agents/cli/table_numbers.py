"""Named columns of a text table as numbers: seconds or ISO 8601 for times, plain numbers for the rest.

What cannot be read becomes NaN where the caller counts it, else an error with line, column, value and what is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite, nan
from pathlib import Path
from typing import Final

from agents.cli.table_file import NoTable, rows

MOST_SHOWN: Final = 60  # characters of a value that is no number


@dataclass(slots=True)
class Numbers:
    """`first_bad`: where the first row stands that cannot be used, and why; `bad`: how many there are."""

    columns: list[list[float]]
    first_bad: str = ""
    bad: int = 0
    rows: int = 0


def numbers(path: Path, names: tuple[str, ...], *, tolerant: bool = False) -> Numbers:
    """The columns of a file; NoTable at the first cell that is no number, where the caller is not tolerant of it."""
    found = Numbers([[] for _ in names])
    for line, cells, over in rows(path, names):
        found.rows += 1
        read = [_number(name, cell or "") for name, cell in zip(names, cells, strict=True)]
        why = next(
            (f"line {line}, column {name}: {why}" for name, (_, why) in zip(names, read, strict=True) if why), ""
        )
        if over:  # a thousands separator or a decimal comma parts a number in two and shifts what follows
            read = [(nan, "") for _ in names]
            why = f"line {line}: {over} more values than columns; write numbers without separators"
        if why and not tolerant:
            raise NoTable(f"{path} {why}; correct the line or take it out")
        found.bad += bool(why)
        found.first_bad = found.first_bad or why
        for column, (value, _) in zip(found.columns, read, strict=True):
            column.append(value)
    return found


def number(path: Path, line: int, name: str, text: str | None) -> float:
    """One cell; NoTable where it is no number."""
    value, why = _number(name, text or "")
    if why:
        raise NoTable(f"{path} line {line}, column {name}: {why}; correct the line or take it out")
    return value


def _number(name: str, text: str) -> tuple[float, str]:
    """The value and what is wrong with it; what is no number is NaN."""
    time = name.startswith("timestamp")
    try:
        value = float(text)
    except ValueError:
        value = _iso_s(text) if time else nan
    wanted = "seconds (such as 1000.5) nor an ISO 8601 time" if time else "number (such as 1000.5)"
    if not isfinite(value):
        text = text[:MOST_SHOWN]
        return nan, f"{text!r} is neither {wanted}" if time else f"{text!r} is not a {wanted}"
    if value < 0.0 and name.endswith("tokens"):
        return value, f"{text.strip()} tokens is below 0"
    return value, ""


def _iso_s(text: str) -> float:
    """Seconds since 1970; a time without a zone is UTC."""
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return nan
