"""One knob of one GPU: what it said before us, what we made it say, whether somebody else has turned it since.

It sets only what it is told to and always reads back; leases, bounds and the save file are the core's. A device that
needs seconds to obey (`latency_s`) is told and then watched by `check`, so that no other GPU waits for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from agents.capper.actuators.base import Actuator, Bounds
from agents.capper.actuators.errors import ActuatorError, ForeignChange
from agents.capper.savefile import SavedKnob
from streams.contract.failpoints import hit
from streams.observe.notes import step

log = logging.getLogger("eo.capper")
TRIES: Final = 3
POLL_S: Final = 0.01
TOLERANCE: Final = {"power_limit_w": 1.0, "sm_lock_mhz": 0.5}  # drivers round limits to their own steps
EXACT: Final = 0.0005  # half a milliwatt, the unit in which devices count limits


@dataclass(slots=True)
class Claim:
    """Our hold on a knob. `ours` is what it read after our last set, unless `known` is False (a restart, a failure).

    `asked` is what we told it then: a device may round.
    """

    saved: SavedKnob
    ours: float | None
    known: bool = True
    asked: float | None = None


@dataclass(slots=True)
class Pending:
    """A value that a slow device was told and does not show yet.

    `quiet_at_s`: until then an earlier set may still come into force, so that reading the value proves nothing.
    """

    value: float | None
    deadline_s: float
    restore: bool
    quiet_at_s: float = -math.inf
    tries: int = 1


@dataclass(frozen=True, slots=True)
class PutBack:
    """How a restore stands: `done`, `pending` (told, not shown yet), `foreign` (somebody else's value stands,
    untouched) or `failed`. On `pending` and `failed` the save is kept."""

    state: Literal["done", "pending", "foreign", "failed"]
    before: float | None
    after: float | None
    problem: str = ""


class Knob:
    """Reads, sets and restores one knob; remembers the claim that the save file holds."""

    __slots__ = (
        "_bounds",
        "_quiet_at_s",
        "_sleep",
        "_tolerance",
        "actuator",
        "changed_at_s",
        "claim",
        "pending",
        "set_calls",
        "unreadable",
        "uuid",
    )

    def __init__(self, actuator: Actuator, uuid: str, sleep: Callable[[float], None]) -> None:
        self.actuator, self.uuid, self._sleep = actuator, uuid, sleep
        self.claim: Claim | None = None
        self.pending: Pending | None = None
        self._quiet_at_s: float | None = None  # None = an earlier run may have told the device anything
        self.changed_at_s = -math.inf
        self.set_calls = 0
        self.unreadable = False  # told already that the device does not answer
        self._bounds: Bounds | None = None
        self._tolerance = TOLERANCE[actuator.knob]

    def bounds(self) -> Bounds:
        """The device's bounds, asked once. Raises ActuatorError."""
        if self._bounds is None:
            self._bounds = self.actuator.bounds(self.uuid)
        return self._bounds

    def read(self) -> float | None:
        """The value in force. Raises ActuatorError."""
        return self.actuator.read(self.uuid)

    def same(self, a: float | None, b: float | None) -> bool:
        """Equal as far as the device can tell."""
        if a is None or b is None:
            return a is b
        return abs(a - b) <= self._tolerance

    @staticmethod
    def exactly(a: float | None, b: float | None) -> bool:
        """The same value, not merely one that a device may have rounded to."""
        if a is None or b is None:
            return a is b
        return abs(a - b) <= EXACT

    def stands(self, value: float | None) -> bool:
        """True when the device was last told this value or says it, and nothing else may come into force."""
        claim = self.claim
        if self.pending is not None:
            return self.exactly(value, self.pending.value)
        if claim is None or not claim.known:
            return False
        return self.exactly(value, claim.ours) or (claim.asked is not None and self.exactly(value, claim.asked))

    def foreign(self) -> bool:
        """True when the device says something else than we last made it say. Raises ActuatorError."""
        claim = self.claim
        if claim is None or not claim.known:
            return False
        value = self.actuator.read(self.uuid)
        return value != claim.ours and not self.same(value, claim.ours)

    def find(self, wall_ns: int) -> Claim:
        """A claim on the value found now, not yet held. Raises ActuatorError when it cannot be told."""
        found = self.read()
        if found is None and self.actuator.knob == "power_limit_w":
            raise ActuatorError(f"{self.uuid}: the power limit found before us cannot be read")
        default = None if self.actuator.knob == "sm_lock_mhz" else self.bounds().default
        owner = "device default" if self.same(found, default) else "set by others"
        return Claim(SavedKnob(previous=found, owner=owner, saved_at_ns=wall_ns), found)

    def apply(self, value: float | None, now_s: float) -> str | None:
        """Sets and reads back, three tries; returns the problem, None when the device says the value."""
        claim = self.claim
        if claim is None:
            raise RuntimeError(f"{self.uuid}: set without a saved value; this is a defect of the capper")
        known, claim.known = claim.known, False
        self.changed_at_s = now_s
        if self.actuator.latency_s:
            problem = self._tell(value, now_s, restore=False)
            claim.known = known if problem else False  # a device that does not listen has not changed
            return problem
        problem = ""
        for _ in range(TRIES):
            try:
                self.set_calls += 1
                with step("capper.set", **self._told(value)):
                    self.actuator.set(self.uuid, value)
                hit("capper.after_set_before_readback")
                with step("capper.readback", **self._told(value)):
                    got = self._settled(value)
            except ActuatorError as error:
                problem = str(error)
                if not error.retryable:
                    break
                continue
            if self.same(got, value):
                claim.ours, claim.known, claim.asked = got, True, value
                return None
            problem = f"the device says {_text(got)} after it took {_text(value)}"
        return problem

    def _told(self, value: float | None) -> dict[str, str]:
        return {"hw.id": self.uuid, "eo.knob": self.actuator.knob, "eo.value": _text(value)}

    # -- devices that need seconds ---------------------------------------------------------------------------------

    def _tell(self, value: float | None, now_s: float, *, restore: bool) -> str | None:
        """Tells a slow device; returns the problem when it does not even listen."""
        latency_s = self.actuator.latency_s
        quiet_at_s = now_s + latency_s if self._quiet_at_s is None else self._quiet_at_s
        pending = Pending(value, now_s + latency_s, restore, quiet_at_s if restore else -math.inf)
        problem = self._send(pending)
        if problem is None:
            self.pending = pending
            self._quiet_at_s = quiet_at_s if restore else now_s + latency_s
        return problem

    def _send(self, pending: Pending) -> str | None:
        try:
            self.set_calls += 1
            with step("capper.set", **self._told(pending.value)):
                self.actuator.set(self.uuid, pending.value)
            hit("capper.after_set_before_readback")
        except ActuatorError as error:
            return str(error)
        if self.claim is not None:
            self.claim.asked = pending.value
        return None

    def check(self, now_s: float) -> str | None:
        """Looks at what a slow device was told: None = it obeyed or still has time, else the problem, told once.

        When somebody else's value stands, the claim is dropped as well: it is theirs now.
        """
        pending, claim = self.pending, self.claim
        if pending is None or claim is None:
            self.pending = None
            return None
        try:
            got = self.read()
        except ForeignChange as error:
            self.claim = self.pending = None
            return str(error)
        except ActuatorError as error:
            return self._again(pending, now_s, str(error), give_up=not error.retryable)
        if self.same(got, pending.value):
            if now_s >= pending.quiet_at_s:
                self.pending = None
                claim.ours, claim.known = got, True
            return None
        return self._again(pending, now_s, f"the device says {_text(got)} after it took {_text(pending.value)}")

    def _again(self, pending: Pending, now_s: float, problem: str, *, give_up: bool = False) -> str | None:
        """Waits, tells the device once more, or gives up."""
        if now_s < pending.deadline_s and not give_up:
            return None
        if pending.tries < TRIES and not give_up:
            pending.tries += 1
            pending.deadline_s = now_s + self.actuator.latency_s
            if (failed := self._send(pending)) is None:
                return None
            problem = failed
        self.pending = None
        return problem

    def _put_back_slowly(self, claim: Claim, now_s: float) -> PutBack:
        """One step of a restore: told at first, then watched with every call."""
        previous, pending = claim.saved.previous, self.pending
        if pending is None or not pending.restore:
            try:
                before = self.read()
            except ActuatorError as error:
                before, claim.known = None, False
                log.warning("%s cannot be read before it is put back: %s", self.uuid, error)
            if claim.known and not self.exactly(before, previous) and not self.same(before, claim.ours):
                self.claim = self.pending = None
                return PutBack("foreign", before, before)
            if not (claim.known and self.exactly(before, previous)):
                hit("capper.before_restore")
                claim.known, self.changed_at_s = False, now_s
                problem = self._tell(previous, now_s, restore=True)
                return PutBack("failed" if problem else "pending", before, None, problem or "")
        elif problem := self.check(now_s):
            return PutBack("failed" if self.claim else "foreign", None, None, problem)
        elif self.pending is not None:
            return PutBack("pending", None, None)
        self.claim = self.pending = None
        return PutBack("done", previous, previous)

    def _settled(self, value: float | None) -> float | None:
        """What the device says once it says `value`, or when its settling time is over."""
        got = self.read()
        waited = 0.0
        while not self.same(got, value) and waited < self.actuator.settle_s:
            self._sleep(POLL_S)
            waited += POLL_S
            got = self.read()
        return got

    def put_back(self, now_s: float) -> PutBack:
        """Restores the saved value; on `done` and `foreign` the claim is dropped, else it stays."""
        claim = self.claim
        if claim is None:
            return PutBack("done", None, None)
        if self.actuator.latency_s:
            return self._put_back_slowly(claim, now_s)
        previous = claim.saved.previous
        try:
            before = self.read()
        except ActuatorError as error:
            claim.known = False
            return PutBack("failed", None, None, str(error))
        # Only the very value counts as back: skipping the set for a near one would lower the limit with every lease.
        back = self.exactly(before, previous)
        if claim.known and not back and not self.same(before, claim.ours):
            self.claim = None
            return PutBack("foreign", before, before)
        if not (back and (claim.known or self.actuator.exact_readback)):
            hit("capper.before_restore")
            if problem := self.apply(previous, now_s):
                return PutBack("failed", before, None, problem)
        self.claim = None
        return PutBack("done", before, previous)


def _text(value: float | None) -> str:
    return "no lock" if value is None else f"{value:g}"
