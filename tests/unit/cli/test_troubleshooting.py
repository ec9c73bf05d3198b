"""docs/troubleshooting.md quotes messages that exist, and names verbs and settings that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from agents.cli.known_names import known_names
from agents.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
COMMAND = re.compile(r"^(eo |[A-Z_]+=|pip |apt |chmod|nvidia-smi|--|-?\d|lost_total$)")


def _texts() -> str:
    """Every string of the source, each value of an f-string as one "…"."""
    found: list[str] = []
    for room in ("agents", "streams", "models"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def _quoted() -> list[str]:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    return [quote for row in rows for quote in re.findall(r"`([^`]+)`", row) if not COMMAND.match(quote)]


def test_every_quoted_message_is_in_the_source() -> None:
    source = _texts()
    quotes = _quoted()
    assert len(quotes) > 30
    assert [quote for quote in quotes if quote.rstrip("… ") not in source] == []


def test_every_verb_and_setting_exists() -> None:
    verbs = set(re.findall(r"`eo ([a-z]+)", PAGE)) - {"demo"}
    assert verbs and verbs <= set(VERBS)
    names = {name for name in re.findall(r"\bEO_[A-Z_]+", PAGE) if not name.endswith("_")}
    assert names and names <= known_names()
