"""What the capper last said is in force of one knob, and what has to be sent to it. Values only; it asks nobody itself.

Sent is what differs from what is in force or may differ, but not again what was just refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, TypeVar

V = TypeVar("V", int, float)
EQUAL: Final = 1e-9


class Held(Generic[V]):
    """One knob of all GPUs of a node, by UUID. None = the GPU's own value, or the ceiling of its lease.

    Args:
        send: passes values to the capper and returns what is in force.
        tolerance: how far a value in force may lie from the wanted one and still be it.
        own: whether the value in force after a release is kept (another's lock); else it reads as None.
    """

    def __init__(
        self,
        send: Callable[[Mapping[str, V | None]], dict[str, V | None]],
        *,
        tolerance: float = EQUAL,
        own: bool = True,
    ) -> None:
        self._send: Callable[[Mapping[str, V | None]], dict[str, V | None]] = send
        self._tolerance, self._own = tolerance, own
        self._refused: set[tuple[str, V | None]] = set()
        self.unsure: set[str] = set()  # told once more, also to release
        self.values: dict[str, V | None] = {}

    def apply(self, wanted: Mapping[str, V | None], *, but: Iterable[str] = ()) -> None:
        """Sends what has to be sent, nothing of the GPUs in `but`."""
        goal: dict[str, V | None] = {uuid: None for uuid, value in self.values.items() if value is not None}
        goal.update(dict.fromkeys(self.unsure))
        goal.update(wanted)
        left = frozenset(but)
        change = {uuid: value for uuid, value in goal.items() if uuid not in left and self._differs(uuid, value)}
        if not change:
            return
        effective = self._send(change)
        self.unsure.difference_update(change)
        for uuid, value in change.items():
            self._take(uuid, value, effective.get(uuid))

    def _differs(self, uuid: str, value: V | None) -> bool:
        if uuid in self.unsure:
            return True
        return not self.same(self.values.get(uuid), value) and (uuid, value) not in self._refused

    def _take(self, uuid: str, value: V | None, got: V | None) -> None:
        if value is None and not self._own:
            got = None
        stuck = self.same(got, self.values.get(uuid)) or self._own
        self.values[uuid] = got
        if not self.same(got, value) and stuck:  # what moved part of the way is asked for again
            self._refused.add((uuid, value))

    def same(self, one: V | None, other: V | None) -> bool:
        """Whether two values are one to the device."""
        return one is other if one is None or other is None else abs(one - other) <= self._tolerance

    def renewed(self) -> None:
        """A new lease: what was refused under the old one may be granted now."""
        self._refused.clear()

    def doubt(self, uuids: Iterable[str] = ()) -> None:
        """Nothing that is held, nor anything of these GPUs, is taken as known until it was told once more."""
        self.unsure.update(self.values)
        self.unsure.update(uuids)

    def drop(self, uuids: Iterable[str], *, doubt: bool = True) -> None:
        """A lease ended: the capper has put these GPUs back."""
        for uuid in uuids:
            known = self.values.pop(uuid, None)
            if doubt or known is not None:
                self.unsure.add(uuid)
