"""What the capper knows of one GPU: its two knobs, its lease, and why it is left alone when it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.capper.bounds import ClockWindow
from agents.capper.brake import Held, Table
from agents.capper.knob import Knob, PutBack
from streams.contract.records import AckStatus, Mode, OnExpiry


@dataclass(frozen=True, slots=True)
class Lease:
    """One GPU's share of an envelope; ends on the monotonic clock, whatever the wall clock does."""

    expires_s: float
    on_expiry: OnExpiry
    epoch: int
    seq: int
    mode: Mode
    strategy: str
    clocks: ClockWindow | None
    ceiling_w: float | None = None  # granted: the highest that brake and node's own loop may leave; None = none is
    table: Table | None = None
    chosen_w: float | None = None  # what that loop set below it; renewals inside this ceiling leave it


@dataclass(slots=True)
class Gpu:
    """One GPU. At most one of lease, `yielded_to`, `shunned_until_s` and `restoring` rules it at a time."""

    uuid: str
    power: Knob | None
    clock: Knob | None
    lease: Lease | None = None
    yielded: str = ""  # what a foreign writer did: we keep off until an operator restores or the capper restarts
    shunned: str = ""  # why it did not obey
    shunned_until_s: float = 0.0
    restoring: bool = False  # a put-back failed: the save is kept, the next try is due at retry_at_s
    retry_at_s: float = 0.0
    brake: Held = field(default_factory=Held)
    knobs: tuple[Knob, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.knobs = tuple(knob for knob in (self.clock, self.power) if knob is not None)

    @property
    def claimed(self) -> bool:
        return any(knob.claim is not None for knob in self.knobs)

    def put_back(self, now_s: float, retry_s: float) -> list[PutBack]:
        """Restores every claimed knob, the clock first; what is not back yet leaves `restoring` set."""
        results = [knob.put_back(now_s) for knob in self.knobs if knob.claim is not None]
        self.restoring = any(result.state in {"failed", "pending"} for result in results)
        self.retry_at_s = now_s + retry_s
        self.lease, self.brake = None, Held()
        return results


@dataclass(slots=True)
class Row:
    """One GPU's line of an acknowledgement; effective values are read from the device when it is written."""

    uuid: str
    status: AckStatus
    reason: str
    gpu: Gpu | None = None
    limit_w: float | None = None
    sm_mhz: int | None = None
    previous_w: float | None = None
