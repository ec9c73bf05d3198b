"""What the alerts job remembers of one partition, and its form as a snapshot: plain values only."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

import msgspec

from models.alerts.carbon import Budget
from models.alerts.life import Book, Open
from models.alerts.recent import Recent

VERSION: Final = 1
LARGEST_BYTES: Final = 900_000  # Kafka's default bound on a message is 1 MB
log = logging.getLogger(__name__)


class Saved(msgspec.Struct):
    """A partition's snapshot."""

    entries: list[Open] = []
    seen_ns: dict[str, int] = {}
    simulated: list[str] = []
    marks: dict[str, tuple[str, int]] = {}
    joules: dict[int, float] = {}
    grams: dict[int, float] = {}
    window_s: float = 0.0
    holdout: dict[str, bool] = {}


@dataclass(slots=True)
class PartitionState:
    """One partition's alerts and what they rest on."""

    book: Book = field(default_factory=Book)
    seen_ns: dict[str, int] = field(default_factory=dict)  # node -> when it was last heard, this machine's wall clock
    simulated: set[str] = field(default_factory=set)
    marks: dict[str, tuple[str, int]] = field(default_factory=dict)  # node -> (boot, seq) of its newest features
    # (engine, window) -> (pool, J/token, when)
    efficiency: dict[tuple[str, float], tuple[str, float, int]] = field(default_factory=dict)
    recent: dict[str, Recent] = field(default_factory=dict)  # node -> its newest seconds, where a rule wants them
    holdout: dict[str, bool] = field(default_factory=dict)  # engine -> what its newest envelope said
    judged_ns: dict[str, int] = field(default_factory=dict)  # node -> window end of its last evaluation
    budget: Budget | None = None
    offsets: dict[str, int] = field(default_factory=dict)
    changed: bool = False
    urgent: bool = False  # an alert began or ended: saved at once, so that no restart tells it again

    def is_new(self, node: str, boot_id: str, seq: int) -> bool:
        """Whether features of a node are newer than all seen; a repeated record must not count its joules twice."""
        boot, last = self.marks.get(node, ("", -1))
        if boot == boot_id and seq <= last:
            return False
        self.marks[node] = (boot_id, seq)
        return True

    def forget(self, node: str) -> None:
        """A node that is gone for good."""
        self.seen_ns.pop(node, None)
        self.simulated.discard(node)
        self.marks.pop(node, None)
        self.judged_ns.pop(node, None)
        self.recent.pop(node, None)

    def saved(self) -> Saved:
        """The snapshot, cut down to what one message holds: alerts that fire are kept before everything else."""
        budget = self.budget or Budget(0.0)
        out = Saved(
            list(self.book.entries.values()),
            dict(self.seen_ns),
            sorted(self.simulated),
            dict(self.marks),
            dict(budget.joules),
            dict(budget.grams),
            budget.window_s,
            dict(self.holdout),
        )
        if len(msgspec.json.encode(out)) > LARGEST_BYTES:
            log.warning("%d alerts in the making are left out of a snapshot that is too large", len(out.entries))
            out.entries, out.holdout = self.book.firing(), {}  # the next envelopes tell who is held out
        if len(msgspec.json.encode(out)) > LARGEST_BYTES:
            out.entries = [Open(e.rule, e.subject, 1, e.last_ns, e.first_over_ns, e.started_ns) for e in out.entries]
        return out

    def recover(self, saved: Saved) -> None:
        """Takes a snapshot in."""
        self.book.entries = {(one.rule, one.subject): one for one in saved.entries}
        self.seen_ns, self.simulated, self.marks = dict(saved.seen_ns), set(saved.simulated), dict(saved.marks)
        self.holdout = dict(saved.holdout)
        if self.budget is not None and saved.window_s == self.budget.window_s:
            self.budget.joules, self.budget.grams = dict(saved.joules), dict(saved.grams)
