"""Which records were seen. A sender that crashed sends again what it is not sure of; the archive keeps the first copy.

Nodes count their messages: (node, boot_id) -> lowest, highest, and the holes between is exact and small. The other
records are rare: their identities are kept, the newest ones. No IO here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

MAX_HOLES: Final = 10_000  # per node and boot; a wider gap is loss, not disorder
MAX_RECENT: Final = 100_000  # identities of rare records kept per partition
MAX_BOOTS: Final = 4  # kept per node; older ones cannot be sent again once their spool is drained
Identity = tuple[object, ...]


@dataclass(slots=True)
class _Seen:
    low: int
    high: int
    holes: set[int] = field(default_factory=set)

    def fresh(self, seq: int) -> bool:
        if seq > self.high:
            if seq - self.high <= MAX_HOLES:
                self.holes.update(range(self.high + 1, seq))
            self.high = seq
            return True
        if seq < self.low:
            if self.low - seq <= MAX_HOLES:
                self.holes.update(range(seq + 1, self.low))
            self.low = seq
            return True
        if seq in self.holes:
            self.holes.remove(seq)
            return True
        return False


class _Saved(msgspec.Struct, frozen=True):
    node: str
    boot_id: str
    low: int
    high: int
    holes: list[int]


class Snapshot(msgspec.Struct, frozen=True):
    """Marks that hold for everything up to and including `last_offset`."""

    last_offset: int
    seen: list[_Saved]


class SeqMarks:
    """Marks of one topic partition."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, _Seen]] = {}

    def fresh(self, node: str, boot_id: str, seq: int) -> bool:
        """Whether this message was not seen before; notes it as seen."""
        boots = self._nodes.setdefault(node, {})
        seen = boots.get(boot_id)
        if seen is not None:
            return seen.fresh(seq)
        self._add(boots, boot_id, _Seen(seq, seq))
        return True

    def _add(self, boots: dict[str, _Seen], boot_id: str, seen: _Seen) -> None:
        boots[boot_id] = seen
        if len(boots) > MAX_BOOTS:
            del boots[next(iter(boots))]

    def snapshot(self, last_offset: int) -> bytes:
        """The marks as JSON."""
        seen = [
            _Saved(node, boot_id, one.low, one.high, sorted(one.holes))
            for node, boots in self._nodes.items()
            for boot_id, one in boots.items()
        ]
        return msgspec.json.encode(Snapshot(last_offset, seen))

    @staticmethod
    def peek(raw: bytes) -> Snapshot:
        """A snapshot from its JSON; raises msgspec.MsgspecError for one that is torn."""
        return msgspec.json.decode(raw, type=Snapshot)

    def restore(self, snapshot: Snapshot) -> None:
        """Takes over a snapshot."""
        for one in snapshot.seen:
            self._add(self._nodes.setdefault(one.node, {}), one.boot_id, _Seen(one.low, one.high, set(one.holes)))


class RecentMarks:
    """The newest identities of one topic partition."""

    def __init__(self, limit: int = MAX_RECENT) -> None:
        self._seen: dict[Identity, None] = {}
        self._limit = limit

    def fresh(self, identity: Identity) -> bool:
        """Whether this identity was not seen among the newest; notes it as seen."""
        if identity in self._seen:
            return False
        self._seen[identity] = None
        if len(self._seen) > self._limit:
            del self._seen[next(iter(self._seen))]
        return True
