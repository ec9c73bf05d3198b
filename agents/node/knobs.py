"""The two knobs of a node's GPUs as the loop holds them: clock locks, and power limits below the ceilings of a lease.

It knows what the capper last said is in force and what may not be taken as known; it decides no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from agents.node.capper_client import CapperPort
from agents.node.engine_drive import InForce
from agents.node.envelope import LiveEnvelope
from agents.node.held import Held

LIMIT_TOLERANCE_W: Final = 1.0  # as the capper's: drivers round limits to their own steps
Clocks = dict[str, int | None]
Limits = dict[str, float | None]


class Knobs:
    """Locks and limits by UUID; None = the GPU's own clocks, or the ceiling of its lease."""

    def __init__(self, capper: CapperPort) -> None:
        self._locks: Held[int] = Held(capper.set_clocks)
        self._limits: Held[float] = Held(capper.set_limits, tolerance=LIMIT_TOLERANCE_W, own=False)
        self._limits_known = False  # whether a limit may be set below its ceiling that this loop knows nothing of

    @property
    def locks(self) -> Clocks:
        """Effective clock lock per UUID as the capper last said."""
        return self._locks.values

    @property
    def limits(self) -> Limits:
        """Power limits below the ceilings of their leases, per UUID, as the capper last said; None = at the ceiling."""
        return self._limits.values

    def in_force(self, uuids: Iterable[str]) -> InForce:
        """What was last said of an engine's GPUs."""
        named = tuple(uuids)
        return InForce(tuple(map(self.locks.get, named)), tuple(map(self.limits.get, named)))

    def apply(self, clocks: Mapping[str, int | None], limits: Mapping[str, float | None], *, but: set[str]) -> None:
        """Sends what differs from what is in force or may differ, but not again what was just refused, and nothing of
        the GPUs in `but`. Raises CapperUnavailable."""
        self._locks.apply(clocks, but=but)
        self._limits.apply(limits, but=but)

    def granted(self, live: LiveEnvelope | None) -> None:
        """A new lease: what the old one refused may be asked for again, and every value is told once more."""
        self._locks.renewed()
        self._limits.renewed()
        self._doubt(live)

    def dropped(self, uuids: Iterable[str]) -> None:
        """The capper has put these GPUs back."""
        gone = tuple(uuids)
        self._locks.drop(gone)
        self._limits.drop(gone, doubt=False)

    def lost(self, live: LiveEnvelope | None) -> None:
        """The capper does not answer; `live` is the lease until now. One that restarted has put everything back, one
        that was only slow still holds its locks: neither is assumed."""
        self._doubt(live)
        self._locks.values.clear()
        self._limits.values.clear()
        self._limits_known = False

    def _doubt(self, live: LiveEnvelope | None) -> None:
        """No value that this node has or may set is taken as known until it was told once more."""
        self._locks.doubt(() if live is None else live.ranges)
        self._limits.doubt(() if live is None or self._limits_known else live.ceilings)
        self._limits_known = self._limits_known or live is not None
