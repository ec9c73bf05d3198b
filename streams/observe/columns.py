"""One value of a column as an exporter may show it: a driver's nonsense costs one sample, never the page."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite


def cell(values: Sequence[float | None] | None, index: int) -> float | None:
    """A number; None for what is unknown, not finite, or beyond a column that is too short."""
    if values is None or index >= len(values) or (value := values[index]) is None or not isfinite(value):
        return None
    return value


def word(values: Sequence[str | None] | None, index: int) -> str:
    """A text; "" = unknown. What UTF-8 cannot say is replaced."""
    text = "" if values is None or index >= len(values) else values[index] or ""
    return text if text.isascii() else text.encode(errors="replace").decode()
