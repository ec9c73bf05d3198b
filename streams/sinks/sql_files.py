"""The SQL that ships with the product: where it lies and what its header says. Text only, no database.

A file begins with a comment: the question, parameters with defaults, columns with units. The rest is one SELECT.
"""

from __future__ import annotations

import re
import sysconfig
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Final

Value = str | int | float
_PARAM: Final = re.compile(r"(\w+) = (\S+)(?: (>=?) (\S+) <= (\S+))? \((.+)\)")
_COLUMN: Final = re.compile(r"(\w+): (.+)")


@dataclass(frozen=True, slots=True)
class Param:
    """A `$name` of a query, with the default that also fixes its type."""

    name: str
    default: Value
    meaning: str
    bounds: tuple[str, float, float] | None = None  # (">" or ">=", lowest, highest)

    def parse(self, text: str) -> Value:
        """A value from the command line; raises ValueError for one of another type."""
        return type(self.default)(text)

    def allows(self, value: Value) -> bool:
        """Whether a value of the right type is within the bounds; NaN never is."""
        if self.bounds is None or isinstance(value, str):
            return True
        sign, lowest, highest = self.bounds
        return (value > lowest or (sign == ">=" and value == lowest)) and value <= highest

    @property
    def range(self) -> str:
        """The bounds in words, empty without any."""
        return "" if self.bounds is None else f"{self.bounds[0]} {self.bounds[1]:.10g} and <= {self.bounds[2]:.10g}"


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One file: name without its number, question, parameters, columns with meaning and unit, the SELECT."""

    name: str
    question: str
    params: tuple[Param, ...]
    columns: tuple[tuple[str, str], ...]
    note: str
    source: str | None  # dataset's view that a roll-up reads
    sql: str


def root() -> Path:
    """The folder `sql`: of the checkout when there is one, else of the installation. Raises FileNotFoundError."""
    checkout = Path(__file__).resolve().parents[2] / "sql"
    installed = Path(sysconfig.get_path("data")) / "share" / "energy-orchestrator" / "sql"
    for folder in (checkout, installed):
        if (folder / "queries").is_dir():
            return folder
    raise FileNotFoundError(f"no SQL files in {checkout} or {installed}; install the package again")


@cache
def load(kind: str) -> dict[str, SqlFile]:
    """All files of `rollups`, `views` or `queries` by name, in the order of their file names."""
    files = (parse(path.stem, path.read_text()) for path in sorted((root() / kind).glob("*.sql")))
    return {file.name: file for file in files}


def parse(stem: str, text: str) -> SqlFile:
    """Reads one file's text; raises ValueError naming the file when its header is not as it must be."""
    lines = text.splitlines()
    above = list(takewhile(lambda line: line.startswith("--"), lines))
    header = [line.removeprefix("--").rstrip() for line in above]
    fields = _fields(header)
    if "question" not in fields or "columns" not in fields:
        raise ValueError(f"{stem}.sql: the first comment must hold `question:` and `columns:`")
    return SqlFile(
        name=re.sub(r"^\d+_", "", stem),
        question=" ".join(fields["question"]),
        params=tuple(_param(stem, line) for line in fields.get("param", [])),
        columns=_columns(fields["columns"]),
        note=" ".join(fields.get("note", [])),
        source=fields["source"][0] if "source" in fields else None,
        sql="\n".join(lines[len(above) :]).strip(),
    )


def _fields(header: list[str]) -> dict[str, list[str]]:
    """Header lines by field; a line that starts no field continues the one above."""
    fields: dict[str, list[str]] = {}
    current = ""
    for line in header:
        found = re.fullmatch(r" (question|param|source|columns):\s*(.*)", line)
        if found:
            current = found[1]
            fields.setdefault(current, []).extend([found[2]] if found[2] else [])
        elif line.strip() and current in {"columns", "note"} and not line.startswith("   "):
            current = "note"
            fields.setdefault(current, []).append(line.strip())
        elif line.strip() and current:
            fields[current].append(line if current == "columns" else line.strip())
    return fields


def _columns(lines: list[str]) -> tuple[tuple[str, str], ...]:
    columns: list[tuple[str, str]] = []
    for line in lines:
        found = _COLUMN.fullmatch(line.strip())
        if line.startswith("   ") and not line.startswith("     ") and found:
            columns.append((found[1], found[2]))
        elif columns:
            name, meaning = columns[-1]
            columns[-1] = name, f"{meaning} {line.strip()}"
    return tuple(columns)


def _param(stem: str, line: str) -> Param:
    found = _PARAM.fullmatch(line)
    if found is None:
        raise ValueError(f"{stem}.sql: `{line}` is no parameter; write `name = default > low <= high (unit, meaning)`")
    bounds = (found[3], float(found[4]), float(found[5])) if found[3] else None
    return Param(found[1], _value(found[2]), found[6], bounds)


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip("'")
