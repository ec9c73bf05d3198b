"""When a node's envelope is due, and the envelope of each node that is: the beat of the actuation job.

It marks on the node what was drafted. Whether anything may be sent at all (roster, intents, a writer) is the job's
matter.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from models.policy.turns import turn_s
from streams.contract.records import PowerDesired
from streams.jobs.actuation_decide import Decider
from streams.jobs.actuation_state import NodeState, PartitionState
from streams.jobs.base import JobContext
from streams.observe.trace import Value


class Beat:
    """Drafts the envelopes that are due."""

    def __init__(self, ctx: JobContext, decider: Decider) -> None:
        self._ctx, self._decider, self._options = ctx, decider, decider.options

    def drafts(self, part: PartitionState, nodes: Iterable[NodeState], now_s: float, now_ns: int) -> list[PowerDesired]:
        """What goes out now for those of `nodes` whose newest sample is fresh enough to decide on."""
        fresh_ns = now_ns - int(self._options.oldest_sample_s * 1e9)
        due = [node for node in nodes if node.window_end_ns >= fresh_ns and self._due(node, now_s, now_ns)]
        return [self._draft(part, node, now_s, now_ns) for node in due]

    def _due(self, node: NodeState, now_s: float, now_ns: int) -> bool:
        if self._paused(node, now_ns):
            return not node.silenced  # one envelope that grants nothing, then none
        if node.silenced or node.urgent or node.issued_s is None:
            return True
        return now_s - node.issued_s >= self._options.interval_s

    def _paused(self, node: NodeState, now_ns: int) -> bool:
        return self._decider.book.pause(node.node, now_ns) is not None

    def _draft(self, part: PartitionState, node: NodeState, now_s: float, now_ns: int) -> PowerDesired:
        begun_ns = now_ns if node.trace is None else time.time_ns()
        draft = self._decider.draft(part, node, now_ns)
        if node.trace is not None:
            self._trace(node, draft, begun_ns)
        node.issued_s, node.urgent = turn_s(node.node, now_s, self._options.interval_s), False
        node.silenced = self._paused(node, now_ns)
        if self._options.mode in ("canary", "on"):
            part.note_grants(node, draft.gpu, now_s)
        return draft

    def _trace(self, node: NodeState, draft: PowerDesired, begun_ns: int) -> None:
        """The decision as a child of the sample that it used; its context goes to the writer beside the draft."""
        parent, tracing, node.trace = node.trace, self._ctx.tracing, None
        if tracing is None:
            return
        facts: dict[str, Value] = {"host.name": node.node, "eo.mode": draft.mode, "eo.strategy": draft.strategy}
        facts |= {"eo.reason": draft.reason, "eo.sample_age_ms": (draft.issued_at_ns - draft.sample_ts_ns) / 1e6}
        span = tracing.tracer.start("actuation.decide", parent=parent, start_ns=begun_ns, attributes=facts)
        span.end()
        tracing.handoff.put((draft.node, draft.issued_at_ns), span.traceparent)
