"""Under which key an operator's word stands in its compacted topic, and what it is about.

Compaction keeps the last word of a key, so a key must not be shared by two words that do not replace each other: those
of two clusters on one broker, nor a pause and a cap of the same scope.
"""

from __future__ import annotations

from typing import Final, Literal

from streams.contract.records import IntentKind, OperatorIntent

Family = Literal["pause", "cap"]
AHEAD_NS: Final = 60 * 10**9  # a word from the future would silence every later one: readers refuse it


def family(kind: IntentKind) -> Family:
    """What a word is about: a resume answers a pause, a clear a cap, and neither says anything about the other."""
    return "pause" if kind in ("pause", "resume") else "cap"


def key_of(intent: OperatorIntent) -> str:
    """The key that a word is written under. No cluster's name has a colon, so no two clusters share one."""
    return f"{intent.cluster}:{_within(intent)}"


def after(known_ns: int | None, now_ns: int) -> int | None:
    """The time to put on a word when the newest known one about the same has `known_ns`; None: no honest time would do.

    Readers keep the word of the newest time, compaction the one that was written last. Where clocks differ by less than
    AHEAD_NS a writer makes both the same word: its own. Where they differ by more, one of the two clocks is wrong and
    nothing here can tell which.
    """
    if known_ns is None or known_ns < now_ns:
        return now_ns
    return known_ns + 1 if known_ns < now_ns + AHEAD_NS else None


def known_keys(intent: OperatorIntent) -> tuple[str, ...]:
    """Every key that a word may be read under: this one and those of earlier writers, which did not name the cluster,
    the first ones not even the family."""
    return key_of(intent), _within(intent), intent.scope


def _within(intent: OperatorIntent) -> str:
    return f"{intent.scope}#{family(intent.kind)}"
