"""GPUs that must be left at their own values for a while: frozen by an anomaly, or left alone at the node's word.

A verdict has no power here besides a freeze that ends by itself. Each method says whether anything changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from streams.contract.records import NO_CAPPER, SILENT_CAPPER, AnomalyVerdict, PowerApplied

LEFT_ALONE: Final = {
    "foreign_change": "Somebody else changed this GPU: {}. It is left alone until `eo resume` or a new capper run.",
    "not_actuatable": "This GPU did not obey: {}. It is left alone for a while.",
}


class Freeze(msgspec.Struct, frozen=True, array_like=True):
    """An anomaly's hold on a GPU, which ends by itself."""

    until_ns: int
    verdict_id: str
    text: str


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A GPU that the node asked to be left alone; ends with a new capper run, a human's resume or its time."""

    ts_ns: int
    capper_id: str
    text: str
    node: str
    until_ns: int | None = None


@dataclass(slots=True)
class Restraints:
    """Those of one partition, by GPU."""

    frozen: dict[str, Freeze] = field(default_factory=dict)
    blocked: dict[str, Block] = field(default_factory=dict)

    def verdict(self, verdict: AnomalyVerdict, now_ns: int, *, freeze_s: float) -> bool:
        """Takes a verdict in; only a fresh one with action freeze matters.

        Its time is a node's clock: one that runs ahead does not freeze for longer than `freeze_s` from now.
        """
        until_ns = min(verdict.ts_ns, now_ns) + int(freeze_s * 1e9)
        known = self.frozen.get(verdict.gpu_uuid)
        if verdict.action != "freeze" or until_ns <= now_ns or (known is not None and known.until_ns >= until_ns):
            return False
        text = (
            f"Frozen at default after an anomaly in {verdict.metric} (score {verdict.score:.3g}, threshold "
            f"{verdict.threshold:.3g}, {verdict.model})."
        )
        self.frozen[verdict.gpu_uuid] = Freeze(until_ns, verdict.verdict_id, text)
        return True

    def ack(self, ack: PowerApplied, *, retry_s: float) -> bool:
        """Takes an acknowledgement in: a foreign change or disobedience blocks, a new capper run frees."""
        if ack.event in LEFT_ALONE:
            until = ack.ts_ns + int(retry_s * 1e9) if ack.event == "not_actuatable" else None
            for uuid, reason in zip(ack.gpu.uuid, ack.gpu.reason, strict=True):
                text = LEFT_ALONE[ack.event].format(reason.rstrip("."))
                self.blocked[uuid] = Block(ack.ts_ns, ack.capper_id, text, ack.node, until)
            return True
        if ack.capper_id in (NO_CAPPER, SILENT_CAPPER):
            return False  # the agent's own word: the capper that asked to be left alone may well be running
        return self._free(lambda b: b.node == ack.node and b.capper_id != ack.capper_id and ack.ts_ns > b.ts_ns)

    def expire(self, now_ns: int, resumed_ns: Callable[[str], int]) -> bool:
        """Ends what is over; `resumed_ns` tells when a human last resumed a node."""
        over = [uuid for uuid, freeze in self.frozen.items() if now_ns >= freeze.until_ns]
        for uuid in over:
            del self.frozen[uuid]
        freed = self._free(lambda b: (b.until_ns is not None and now_ns >= b.until_ns) or resumed_ns(b.node) > b.ts_ns)
        return bool(over) or freed

    def _free(self, ended: Callable[[Block], bool]) -> bool:
        freed = [uuid for uuid, block in self.blocked.items() if ended(block)]
        for uuid in freed:
            del self.blocked[uuid]
        return bool(freed)
