"""The rules on one node's features: power, idleness, and what a token costs against its peers.

It measures and yields findings; whether one becomes an alert is the business of the book.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from models.alerts import measure
from models.alerts.life import Finding
from models.alerts.recent import Recent
from models.alerts.rule import Rule
from streams.jobs.alerts_state import PartitionState
from streams.jobs.alerts_wire import FeaturesUsed


class NodeRules:
    """The rules of these kinds that are in force, and how often and over which time they are looked at."""

    def __init__(self, by_kind: Mapping[str, Sequence[Rule]]) -> None:
        self._power, self._idle, self._efficiency = (by_kind[kind] for kind in ("power", "idle", "efficiency"))
        windows_s = [rule.number("window_s") for rule in (*self._power, *self._efficiency)]
        self._keep_s = max((one for one in windows_s if one != measure.WINDOW_S), default=0.0)
        every_s = min((rule.every_s for rule in (*self._power, *self._idle, *self._efficiency)), default=60.0)
        self._every_ns = int(max(1.0, every_s) * 1e9) - 500_000_000  # half a sample of slack

    def remember(self, part: PartitionState, seen: FeaturesUsed) -> None:
        """Keeps this second where a rule has a window of its own."""
        if not self._keep_s:
            return
        recent = part.recent.get(seen.node) or part.recent.setdefault(seen.node, Recent(self._keep_s))
        tokens = {engine.engine: engine.generation_tokens_total for engine in seen.engines}
        recent.add(seen.view(), seen.features.energy_j_delta or (), tokens)

    def due(self, part: PartitionState, seen: FeaturesUsed) -> bool:
        """Whether a node is to be judged on this second, which then counts as its last judged one."""
        if abs(seen.window_end_ns - part.judged_ns.get(seen.node, 0)) < self._every_ns:
            return False
        part.judged_ns[seen.node] = seen.window_end_ns
        return True

    def findings(
        self, part: PartitionState, everybody: Iterable[PartitionState], node: measure.Node
    ) -> Iterator[tuple[Rule, Finding]]:
        """What each rule says of a node; its engines' peers are those of all partitions of this worker."""
        parts = list(everybody)
        for rule in self._power:
            yield rule, measure.power(rule, _over(part, rule, node))
        for rule in self._idle:
            yield rule, measure.idle(rule, node)
        for rule in self._efficiency:
            seen = _over(part, rule, node)
            for engine in seen.engines:
                yield rule, self._against_peers(part, parts, rule, seen, engine)

    def _against_peers(
        self,
        part: PartitionState,
        parts: Sequence[PartitionState],
        rule: Rule,
        node: measure.Node,
        engine: measure.Engine,
    ) -> Finding:
        window_s = rule.number("window_s")
        pool = f"{engine.stack}|{engine.workload}|{window_s:g}"
        own = measure.j_per_token(node, engine)
        if own is not None:
            part.efficiency[engine.name, window_s] = (pool, own, node.ts_ns)
        return measure.efficiency(rule, node, engine, self._peers(parts, pool, node.ts_ns))

    def _peers(self, parts: Sequence[PartitionState], pool: str, now_ns: int) -> list[float]:
        """J/token of the engines of a stack, of the last minute."""
        oldest = now_ns - max(measure.WINDOW_NS, 2 * self._every_ns)
        return [
            value
            for part in parts
            for name, value, ts_ns in part.efficiency.values()
            if name == pool and ts_ns >= oldest
        ]


def _over(part: PartitionState, rule: Rule, node: measure.Node) -> measure.Node:
    """The node's means over the rule's own window; the features' minute is the features' own."""
    window_s = rule.number("window_s")
    recent = part.recent.get(node.node)
    return node if window_s == measure.WINDOW_S or recent is None else recent.view(node, window_s)
