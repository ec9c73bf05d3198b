"""Under which key an operator's word stands in its compacted topic, and what it is about.

Compaction keeps the last word of a key, so a key must not be shared by two words that do not replace each other: those
of two clusters on one broker, nor a pause and a cap of the same scope.
"""

from __future__ import annotations

from typing import Literal

from streams.contract.records import IntentKind, OperatorIntent

Family = Literal["pause", "cap"]


def family(kind: IntentKind) -> Family:
    """What a word is about: a resume answers a pause, a clear a cap, and neither says anything about the other."""
    return "pause" if kind in ("pause", "resume") else "cap"


def key_of(intent: OperatorIntent) -> str:
    """The key that a word is written under. No cluster's name has a colon, so no two clusters share one."""
    return f"{intent.cluster}:{_within(intent)}"


def known_keys(intent: OperatorIntent) -> tuple[str, ...]:
    """Every key that a word may be read under: this one and those of earlier writers, which did not name the cluster,
    the first ones not even the family."""
    return key_of(intent), _within(intent), intent.scope


def _within(intent: OperatorIntent) -> str:
    return f"{intent.scope}#{family(intent.kind)}"
