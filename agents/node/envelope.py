"""The live envelope as the control loop holds it: what was granted, per GPU and engine, and until when. Pure values.

Only what the capper acknowledged as applied or clamped is in here; a hold-out GPU never is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from models.control.types import ClockBounds, Targets
from streams.contract.records import PowerApplied, PowerDesired

GRANTED: Final = frozenset({"applied", "clamped"})
NO_TARGETS: Final = Targets(None, None, None)


@dataclass(frozen=True, slots=True)
class ClockRange:
    """Clock range granted to one GPU, in MHz."""

    min_mhz: int
    max_mhz: int


@dataclass(frozen=True, slots=True)
class LiveEnvelope:
    """One lease: ranges by UUID, targets by engine, its end on the monotonic clock (seconds)."""

    epoch: int
    seq: int
    expires_s: float
    ranges: dict[str, ClockRange]
    targets: dict[str, Targets]
    ceilings: dict[str, float] = field(default_factory=dict)  # highest power limit, of GPUs that have a range

    def bounds(self, uuids: Iterable[str], *, default_mhz: int | None, step_mhz: int) -> ClockBounds | None:
        """The range that all GPUs of an engine share; None when one of them has no grant: then none is touched."""
        ranges = [self.ranges.get(uuid) for uuid in uuids]
        granted = [r for r in ranges if r is not None]
        if not granted or len(granted) < len(ranges):
            return None
        low, high = max(r.min_mhz for r in granted), min(r.max_mhz for r in granted)
        return ClockBounds(low, high, default_mhz or high, step_mhz) if low <= high else None

    def ceiling_w(self, uuids: Iterable[str]) -> float | None:
        """The highest power limit that all GPUs of a job may have; None when one of them is granted none.

        Only a GPU with a clock range has one: a cap without it is somebody's hold or a freeze, and leaves no choice.
        """
        found = [self.ceilings.get(uuid) for uuid in uuids]
        granted = [watts for watts in found if watts is not None]
        return min(granted) if granted and len(granted) == len(found) else None

    def without(self, uuids: Iterable[str]) -> LiveEnvelope | None:
        """The lease after it ended for some GPUs; None when it ended for all that it granted a range to."""
        ended = self.ranges.keys() & set(uuids)
        if not ended:
            return self
        left = {uuid: held for uuid, held in self.ranges.items() if uuid not in ended}
        ceilings = {uuid: watts for uuid, watts in self.ceilings.items() if uuid in left}
        return replace(self, ranges=left, ceilings=ceilings) if left else None


def granted(desired: PowerDesired, ack: PowerApplied, *, received_s: float) -> LiveEnvelope | None:
    """What of a command is live after its acknowledgement; None when it granted no clock range to any GPU."""
    status = dict(zip(ack.gpu.uuid, ack.gpu.status, strict=True))
    columns = desired.gpu
    ranges = {
        uuid: ClockRange(low, high)
        for uuid, low, high, holdout in zip(
            columns.uuid, columns.min_sm_mhz, columns.max_sm_mhz, columns.holdout, strict=True
        )
        if not holdout and low is not None and high is not None and status.get(uuid) in GRANTED
    }
    if not any(s in GRANTED for s in status.values()):
        return None
    previous = dict(zip(ack.gpu.uuid, ack.gpu.previous_limit_w, strict=True))
    ceilings = {  # the capper never sets above what it found
        uuid: min(watts, previous.get(uuid) or watts)
        for uuid, watts in zip(columns.uuid, columns.max_power_w, strict=True)
        if uuid in ranges and watts is not None
    }
    targets = {t.engine: Targets(t.tbt_ms, t.ttft_ms, t.e2e_ms) for t in desired.targets}
    return LiveEnvelope(desired.epoch, desired.seq, received_s + desired.ttl_ms / 1000, ranges, targets, ceilings)
