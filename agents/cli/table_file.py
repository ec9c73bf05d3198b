"""Text tables as people keep them: plain or gzip, UTF-8 or UTF-16, parted by commas, semicolons or tabs.

Bytes to text and rows to named cells, with the number of the line; what a cell means is said elsewhere. What is no
text table is refused by what it is.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, Final, TextIO, cast

from agents.cli.base import USAGE, EoError

DELIMITERS: Final = ",;\t"
HEAD_BYTES: Final = 4_096
MOST_LINE: Final = 1 << 20  # characters: what has no line ends is no table, and is not read whole
ABOVE: Final = ("#", "sep=")  # lines above the header: comments, and what a spreadsheet notes of its delimiter
GZIP: Final = b"\x1f\x8b"
PARQUET: Final = b"PAR1"
_OTHERS: Final = {
    PARQUET: "a Parquet file",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
}
_MARKS: Final = {  # UTF-32's little-endian mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class NoTable(ValueError):
    """The file is no text table; the text names file, reason and next step."""


def rows(path: Path, names: tuple[str, ...], optional: str = "") -> Iterator[tuple[int, list[str | None], int]]:
    """Of each row its line, the cells of `names` (and of `optional`, None where it is not there), and cells too many.

    A cell that the row is too short for is "". EoError or NoTable where the file is not there or is no such table.
    """
    wanted = f"give the path of a CSV with the columns {', '.join(names)}"
    if not path.is_file():
        raise EoError(f"{path} is not a file; {wanted}", USAGE)
    try:
        with opened(path) as file:
            yield from _rows(path, file, names, optional)
    except OSError as error:
        raise EoError(f"{path} cannot be read ({error.strerror}); {wanted}", USAGE) from error


def _rows(
    path: Path, file: TextIO, names: tuple[str, ...], optional: str
) -> Iterator[tuple[int, list[str | None], int]]:
    lines = _lines(path, file)
    above, first = 0, next(lines, "")
    while first.startswith(ABOVE):
        above, first = above + 1, next(lines, "")
    delimiter = max(DELIMITERS, key=lambda one: len(set(_split(first, one)) & set(names)))
    reader = csv.reader(chain([first], lines), delimiter=delimiter, skipinitialspace=True)
    header = [name.strip().lower() for name in next(reader, [])]
    at = [_place(path, header, name, names) for name in names]
    if optional:
        at.append(_place(path, header, optional, ()) if optional in header else -1)
    for cells in reader:
        if cells:
            over = sum(1 for cell in cells[len(header) :] if cell.strip())
            yield above + reader.line_num, [None if i < 0 else cells[i] if i < len(cells) else "" for i in at], over


def _split(line: str, delimiter: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]


def _place(path: Path, header: list[str], name: str, names: tuple[str, ...]) -> int:
    times = header.count(name)
    if times == 1:
        return header.index(name)
    if times:
        raise NoTable(f"{path} names the column {name!r} {times} times; keep one of them")
    begins = ", ".join(header)[:80]
    raise NoTable(f"{path} lacks the column {name!r}; its first line must name {', '.join(names)}, and is {begins!r}")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    number = 0
    while line := file.readline(MOST_LINE):
        number += 1
        if len(line) == MOST_LINE:
            raise NoTable(f"{path} line {number} has {MOST_LINE:,} characters or more; give a CSV with one row a line")
        yield line


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The file's text, unpacked and decoded by what its first bytes say."""
    with _unpacked(path) as raw:
        encoding = _encoding(path, raw.read(HEAD_BYTES))
        raw.seek(0)
        yield TextIOWrapper(raw, encoding=encoding, errors="replace", newline="")


def plain_bytes(path: Path, most: int) -> bytes:
    """The file unpacked, its text as UTF-8 without a mark; a Parquet file as it is."""
    with _unpacked(path) as raw:
        data = raw.read(most + 1)
    if len(data) > most:
        raise NoTable(f"{path} has more than {most} bytes unpacked; give fewer rows")
    if data.startswith(PARQUET):
        return data
    encoding = _encoding(path, data[:HEAD_BYTES])
    return data.removeprefix(codecs.BOM_UTF8) if encoding == "utf-8-sig" else data.decode(encoding, "replace").encode()


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        try:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise NoTable(f"{path} is a damaged gzip file ({error}); pack it again or give it unpacked") from error


def _encoding(path: Path, head: bytes) -> str:
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise NoTable(f"{path} is {what}; give it as plain CSV, or as CSV packed with gzip")
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\x00" in head:
        raise NoTable(f"{path} holds zero bytes, so it is no UTF-8 text; save it as CSV in UTF-8")
    return "utf-8-sig"
