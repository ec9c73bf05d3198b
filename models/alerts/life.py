"""The life of an alert: seen k of n times it fires once, stays silent while it lasts, and is resolved once.

Times are the subject's own (nanoseconds), so that a replay of the same records gives the same alerts with the same
identities. What is unknown changes nothing: it neither confirms nor resolves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, Literal

from models.alerts.rule import INSTANT, Rule

Quality = Literal["measured", "estimated", "simulated"]
CLOCK_SET_BACK_NS: Final = 3600 * 10**9  # a subject whose time is this far behind its own past had a wrong clock


@dataclass(frozen=True, slots=True)
class Finding:
    """One evaluation of one subject: a value with what it rests on. `value` None = not known now."""

    subject: str  # unique within the rule, e.g. a node, a GPU, a stack
    ts_ns: int
    value: float | None
    evidence: dict[str, float | None] = field(default_factory=dict)
    node: str | None = None
    gpu_uuid: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    quality: Quality = "measured"
    window_start_ns: int | None = None
    reason: str = ""  # why, in the words of whoever reported it
    over: bool | None = None  # decided by the kind itself, where a bound alone cannot


@dataclass(slots=True)
class Open:
    """What is remembered of one (rule, subject): plain values, so that it can be saved."""

    rule: str
    subject: str
    bits: int = 0
    last_ns: int = 0  # last evaluation with a known value
    first_over_ns: int = 0  # where the run of exceedances began
    started_ns: int = 0  # 0 = not firing
    node: str | None = None
    gpu_uuid: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    quality: Quality = "measured"
    value: float | None = None
    evidence: dict[str, float | None] = field(default_factory=dict)
    until_ns: int = 0  # an event's alert ends by itself then; 0 = it does not


@dataclass(frozen=True, slots=True)
class Change:
    """An alert to be told."""

    state: Literal["firing", "resolved"]
    rule: str
    finding: Finding
    started_ns: int
    why: str = ""  # of a resolution: recovered, over, no data


def alert_id(cluster: str, rule: str, subject: str, started_ns: int) -> str:
    """The same firing, the same id: a replay repeats it, and its resolution carries it too."""
    return blake2b("\0".join((cluster, rule, subject, str(started_ns))).encode(), digest_size=10).hexdigest()


@dataclass(slots=True)
class Book:
    """All alerts, open or in the making, of one partition."""

    entries: dict[tuple[str, str], Open] = field(default_factory=dict)

    def take(self, rule: Rule, finding: Finding) -> Change | None:
        """One evaluation; the change that it brings, if any. Older than the last one, or too soon after it: none."""
        if finding.value is None and finding.over is None:
            return None
        key = (rule.name, finding.subject)
        entry = self.entries.get(key) or Open(rule.name, finding.subject)
        pause_ns = 0 if rule.kind in INSTANT else int(rule.every_s * 1e9)
        if entry.last_ns and entry.last_ns - CLOCK_SET_BACK_NS < finding.ts_ns < entry.last_ns + pause_ns:
            return None
        change = self._judge(rule, entry, finding)
        if entry.bits or entry.started_ns:
            self.entries[key] = entry
        else:
            self.entries.pop(key, None)
        return change

    def is_open(self, rule: Rule, subject: str) -> bool:
        """Whether something is remembered of a subject: only then can good news change anything."""
        return (rule.name, subject) in self.entries

    def _judge(self, rule: Rule, entry: Open, finding: Finding) -> Change | None:
        over, recovered = _verdict(rule, finding)
        entry.last_ns = finding.ts_ns
        if over and entry.bits == 0 and not entry.started_ns:
            entry.first_over_ns = finding.ts_ns
        n = 1 if rule.kind in INSTANT else rule.n
        k = 1 if rule.kind in INSTANT else rule.k
        entry.bits = (entry.bits << 1 | over) & ((1 << n) - 1)
        if entry.started_ns:
            return self._continue(rule, entry, finding, over=over, recovered=recovered, k=k)
        if not (over and entry.bits.bit_count() >= k):
            return None
        entry.started_ns = max(entry.first_over_ns, 1)
        _remember(entry, finding)
        entry.until_ns = _end(rule, finding.ts_ns)
        return Change("firing", rule.name, finding, entry.started_ns)

    def _continue(
        self, rule: Rule, entry: Open, finding: Finding, *, over: bool, recovered: bool, k: int
    ) -> Change | None:
        """While it fires: exceedances only keep it alive; it ends when the last n evaluations hold fewer than k and the
        newest is below the bound of recovery."""
        if over:
            _remember(entry, finding)
            entry.until_ns = _end(rule, finding.ts_ns)
            return None
        if not recovered or entry.bits.bit_count() >= k:
            return None
        started = entry.started_ns
        entry.started_ns, entry.bits = 0, 0
        return Change("resolved", rule.name, finding, started, "recovered")

    def due(self, rules: Mapping[str, Rule], now_ns: int) -> Iterator[Change]:
        """Alerts that end by time: an event whose hold is over, a subject of which nothing is known any more, a rule
        that is gone."""
        for key, entry in list(self.entries.items()):
            rule = rules.get(entry.rule)
            why = _ended(rule, entry, now_ns)
            if why is None:
                continue
            del self.entries[key]
            if entry.started_ns:
                yield Change("resolved", entry.rule, _last(entry, now_ns), entry.started_ns, why)

    def drop(self, node: str, now_ns: int) -> Iterator[Change]:
        """Ends everything about a node that is gone for good."""
        for key, entry in [(k, e) for k, e in self.entries.items() if e.node == node or e.subject == node]:
            del self.entries[key]
            if entry.started_ns:
                yield Change("resolved", entry.rule, _last(entry, now_ns), entry.started_ns, "the node is gone")

    def firing(self) -> list[Open]:
        """Alerts that fire now."""
        return [entry for entry in self.entries.values() if entry.started_ns]


def _verdict(rule: Rule, finding: Finding) -> tuple[bool, bool]:
    if finding.over is not None:
        return finding.over, not finding.over
    assert finding.value is not None
    return rule.over(finding.value), rule.recovered(finding.value)


def _remember(entry: Open, finding: Finding) -> None:
    entry.node, entry.gpu_uuid, entry.labels = finding.node, finding.gpu_uuid, dict(finding.labels)
    entry.quality, entry.value, entry.evidence = finding.quality, finding.value, dict(finding.evidence)


def _end(rule: Rule, ts_ns: int) -> int:
    hold_s = float(rule.number("hold_s")) if "hold_s" in rule.options else 0.0
    return ts_ns + int(hold_s * 1e9) if hold_s else 0


def _ended(rule: Rule | None, entry: Open, now_ns: int) -> str | None:
    if rule is None:
        return "the rule is no longer there"
    if entry.until_ns and now_ns >= entry.until_ns:
        return "over"
    if rule.kind not in INSTANT and now_ns > entry.last_ns + rule.stale_s * 1e9:
        return "no data"
    return None


def _last(entry: Open, now_ns: int) -> Finding:
    return Finding(
        subject=entry.subject,
        ts_ns=now_ns,
        value=entry.value,
        evidence=entry.evidence,
        node=entry.node,
        gpu_uuid=entry.gpu_uuid,
        labels=entry.labels,
        quality=entry.quality,
    )
