"""The live envelope as the control loop holds it: what was granted, per GPU and engine, and until when. Pure values.

Only what the capper acknowledged as applied or clamped is in here; a hold-out GPU never is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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

    def bounds(self, uuids: Iterable[str], *, default_mhz: int | None, step_mhz: int) -> ClockBounds | None:
        """The range that all GPUs of an engine share; None when one of them has no grant: then none is touched."""
        ranges = [self.ranges.get(uuid) for uuid in uuids]
        granted = [r for r in ranges if r is not None]
        if not granted or len(granted) < len(ranges):
            return None
        low, high = max(r.min_mhz for r in granted), min(r.max_mhz for r in granted)
        return ClockBounds(low, high, default_mhz or high, step_mhz) if low <= high else None

    def without(self, uuids: Iterable[str]) -> LiveEnvelope | None:
        """The lease after it ended for some GPUs; None when it ended for all that it granted a range to."""
        ended = self.ranges.keys() & set(uuids)
        if not ended:
            return self
        left = {uuid: held for uuid, held in self.ranges.items() if uuid not in ended}
        return replace(self, ranges=left) if left else None


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
    targets = {t.engine: Targets(t.tbt_ms, t.ttft_ms, t.e2e_ms) for t in desired.targets}
    return LiveEnvelope(desired.epoch, desired.seq, received_s + desired.ttl_ms / 1000, ranges, targets)
