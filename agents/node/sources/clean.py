"""Texts of strangers (labels, names) made fit for a terminal, a log line and a record. Pure."""

from __future__ import annotations

from typing import Final

LIMIT: Final = 253  # as long as a Kubernetes name may be


def printable(text: str, limit: int = LIMIT) -> str:
    """The text without control characters, which terminals obey, and not longer than the limit."""
    text = text[:limit]
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
