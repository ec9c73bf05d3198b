"""Means over another window than the features' minute: of one node, from its joules and tokens of each second.

Kept only where a rule asks for it (`window_s`), and only in memory: after a restart it fills again. What was unknown
within the window makes the mean unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from models.alerts.measure import Node

Column = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Second:
    """What one record adds: joules by GPU since the record before, tokens made so far by engine."""

    ts_ns: int
    joules: Mapping[str, float | None]
    tokens: Mapping[str, int | None]


@dataclass(slots=True)
class Recent:
    """The newest records of one node, as far back as `keep_s`."""

    keep_s: float
    seconds: deque[Second] = field(default_factory=deque)

    def add(self, node: Node, energy_j: Column, tokens: Mapping[str, int | None]) -> None:
        """Takes one record in; a clock that went back begins anew."""
        if self.seconds and node.ts_ns <= self.seconds[-1].ts_ns:
            self.seconds.clear()
        self.seconds.append(Second(node.ts_ns, dict(zip(node.uuid, energy_j, strict=False)), dict(tokens)))
        while len(self.seconds) > 1 and self.seconds[1].ts_ns <= node.ts_ns - self.keep_s * 1e9:
            self.seconds.popleft()

    def view(self, node: Node, window_s: float) -> Node:
        """The node with the means of this window in place of the minute's; unknown until the window is full."""
        part = self._window(window_s)
        features = dict(node.features)
        features["power_w_mean_60s"] = [_mean_w(part, uuid) for uuid in node.uuid]
        share: dict[str, float | None] = {}
        for engine in node.engines:
            share |= dict.fromkeys(engine.gpu_uuid, _j_per_token(part, engine.name, engine.gpu_uuid))
        features["j_per_token_60s"] = [share.get(uuid) for uuid in node.uuid]
        return replace(node, features=features, window_ns=int(window_s * 1e9))

    def _window(self, window_s: float) -> list[Second]:
        """The records from the window's begin on, that begin included; empty until there is one so old."""
        if not self.seconds:
            return []
        begin_ns = self.seconds[-1].ts_ns - int(window_s * 1e9)
        part = [one for one in self.seconds if one.ts_ns > begin_ns]
        before = [one for one in self.seconds if one.ts_ns <= begin_ns]
        return [before[-1], *part] if before else []


def _spent_j(part: Sequence[Second], uuid: str) -> float | None:
    """Joules after the first record; None when one is unknown."""
    values = [one.joules.get(uuid) for one in part[1:]]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _mean_w(part: Sequence[Second], uuid: str) -> float | None:
    spent_j = _spent_j(part, uuid)
    return None if spent_j is None else spent_j / ((part[-1].ts_ns - part[0].ts_ns) / 1e9)


def _j_per_token(part: Sequence[Second], engine: str, uuids: Sequence[str]) -> float | None:
    """Joules of an engine's GPUs per token; None when no token was made, or its counter went back."""
    if not part:
        return None
    first, last = part[0].tokens.get(engine), part[-1].tokens.get(engine)
    spent = [_spent_j(part, uuid) for uuid in uuids]
    known = [value for value in spent if value is not None]
    if first is None or last is None or last <= first or len(known) != len(spent):
        return None
    return sum(known) / (last - first)
