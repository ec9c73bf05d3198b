"""Whether two agents speak under one node name: an earlier boot comes back after a later one began, again and again.

A restart changes the boot once and for all; records of an old spool come before those of the new one. Only two writers
at one time make boots alternate. Times are the caller's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

OLD_BOOTS = 4  # of a node that are remembered
MOST_RETURNS = 200
QUIET_NS = 300 * 10**9  # after its last return a node is still looked at for so long, so that its alert can end


@dataclass(slots=True)
class _Seen:
    boot_id: str
    earlier: dict[str, None] = field(default_factory=dict)  # in the order in which they were left
    returns_ns: deque[int] = field(default_factory=lambda: deque(maxlen=MOST_RETURNS))


class BootWatch:
    """The boots of many nodes; a node costs one look-up a message as long as its boot stays."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Seen] = {}

    def see(self, node: str, boot_id: str, now_ns: int, *, window_ns: int) -> int | None:
        """One message; the returns of earlier boots within the window, None where there is nothing to say."""
        seen = self._nodes.get(node)
        if seen is None:
            self._nodes[node] = _Seen(boot_id)
            return None
        if boot_id != seen.boot_id:
            if boot_id in seen.earlier:
                seen.returns_ns.append(now_ns)
                del seen.earlier[boot_id]
            seen.earlier[seen.boot_id] = None
            if len(seen.earlier) > OLD_BOOTS:
                del seen.earlier[next(iter(seen.earlier))]
            seen.boot_id = boot_id
        if not seen.returns_ns:
            return None
        count = sum(at > now_ns - window_ns for at in seen.returns_ns)
        if not count and now_ns - seen.returns_ns[-1] > QUIET_NS:
            seen.returns_ns.clear()
        return count

    def boots(self, node: str) -> int:
        """How many boots of a node are remembered."""
        seen = self._nodes.get(node)
        return 0 if seen is None else 1 + len(seen.earlier)

    def forget(self, node: str) -> None:
        self._nodes.pop(node, None)
