"""What every verb of `eo` shares: exit codes, one-sentence errors, text or JSON. Light, so that help is fast."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Final, Protocol

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
DEMO_MARK: Final = "demo.json"  # a data folder that holds it was made by the demo, whose cluster is called "demo"


class EoError(Exception):
    """An error for the user: one sentence with the value, the bound and the next step; `code` is the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class Verb(Protocol):
    """A verb module: fills its parser, then runs. It is imported only when its verb is called."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


def emit(args: argparse.Namespace, value: object, text: Callable[[], str] | str) -> None:
    """Prints a result: `value` as JSON with --json, else the text."""
    if getattr(args, "json", False):
        json.dump(value, sys.stdout, indent=2, default=str)
        sys.stdout.write("\n")
    else:
        sys.stdout.write((text if isinstance(text, str) else text()).rstrip("\n") + "\n")


def confirm(args: argparse.Namespace, question: str) -> None:
    """Asks before a write, unless --yes; without a terminal it refuses. Raises EoError(REFUSED)."""
    if getattr(args, "yes", False):
        return
    if not sys.stdin.isatty():
        raise EoError(
            f"{question} There is no terminal to ask on: pass --yes to do it, or --dry-run to see it.", REFUSED
        )
    if input(f"{question} [y/N] ").strip().lower() not in {"y", "yes"}:
        raise EoError("Nothing was changed.", REFUSED)


def writing(parser: argparse.ArgumentParser) -> None:
    """Adds the two flags of every writing verb."""
    parser.add_argument("--dry-run", action="store_true", help="show what would be done and do nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """A plain left-aligned table; None prints as "-"."""
    cells = [[*map(str, head)], *[["-" if cell is None else str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
