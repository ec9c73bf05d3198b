"""One line of `eo doctor`: what was looked at, the verdict, what was found, and the next step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agents.cli.base import EoError

Verdict = Literal["ok", "note", "warn", "fail"]
MARKS: Final[dict[Verdict, str]] = {"ok": "ok  ", "note": "-   ", "warn": "warn", "fail": "FAIL"}


@dataclass(frozen=True, slots=True)
class Check:
    """A verdict: `note` is not needed here, `warn` means running with less, `fail` not running."""

    name: str
    verdict: Verdict
    found: str


def guarded(name: str, look: Callable[[], str], *, otherwise: Verdict = "fail") -> Check:
    """Runs one look: its text when it is good, the error's text with the verdict `otherwise` when it is not."""
    try:
        return Check(name, "ok", look())
    except EoError as error:
        return Check(name, otherwise, str(error))


def render(checks: Sequence[Check]) -> str:
    """One line per check, then the count."""
    width = max(len(check.name) for check in checks)
    lines = [f"{MARKS[check.verdict]}  {check.name.ljust(width)}  {check.found}" for check in checks]
    counts = {verdict: sum(check.verdict == verdict for check in checks) for verdict in MARKS}
    return "\n".join([*lines, "", f"{counts['ok']} ok, {counts['warn']} warnings, {counts['fail']} failed"])
