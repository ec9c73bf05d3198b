"""From a proved command to a plan per GPU, and from a plan to the device. Knows bounds, rates and states; no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agents.capper.actuators.errors import ActuatorError
from agents.capper.bounds import ClockWindow, NotAllowed, allowed_clocks, allowed_power, snap
from agents.capper.brake import Table, table_of
from agents.capper.braking import RowBrake, chosen_note
from agents.capper.gpu import Gpu, Lease, Row
from agents.capper.knob import Claim, Knob
from agents.capper.settings import CapperSettings
from streams.contract.records import PowerDesired


class ForeignFound(Exception):
    """A knob says something else than we made it say; the GPU is to be yielded."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One GPU's line of an envelope."""

    uuid: str
    low_mhz: int | None
    high_mhz: int | None
    watts: float | None
    holdout: bool
    table: Table | None = None

    @property
    def clocks(self) -> bool:
        return self.low_mhz is not None or self.high_mhz is not None

    @property
    def anything(self) -> bool:
        return self.clocks or self.watts is not None


@dataclass(slots=True)
class Plan:
    """What to do with one GPU: knobs to claim first, a limit to set, a clock window to allow, knobs to put back."""

    gpu: Gpu
    row: Row
    watts: float | None = None
    ceiling_w: float | None = None  # granted, whether or not anything has to be set for it
    braked_w: float | None = None  # below the ceiling, for the row's sake
    table: Table | None = None
    clocks: ClockWindow | None = None
    chosen_w: float | None = None  # of the lease before, where it still stands
    claims: list[tuple[Knob, Claim]] = field(default_factory=list)
    drop: list[Knob] = field(default_factory=list)


def asks(command: PowerDesired) -> Iterator[Ask]:
    """The envelope, line by line."""
    gpu = command.gpu
    columns = zip(gpu.uuid, gpu.min_sm_mhz, gpu.max_sm_mhz, gpu.max_power_w, gpu.holdout, strict=True)
    for index, (uuid, low, high, watts, holdout) in enumerate(columns):
        yield Ask(uuid, low, high, watts, holdout, table_of(command.brake, index))


def refused(ask: Ask, reason: str, gpu: Gpu | None = None) -> Row:
    return Row(ask.uuid, "refused", reason[:400], gpu, limit_w=ask.watts, sm_mhz=ask.high_mhz)


def plan(gpu: Gpu, ask: Ask, *, settings: CapperSettings, brake: RowBrake, now_s: float, wall_ns: int) -> Plan:
    """What this line means for this GPU now.

    Raises:
        NotAllowed: refused, "code: sentence".
        ForeignFound: somebody else turned a knob that we hold.
        ActuatorError: the device does not answer.
    """
    made = Plan(gpu, Row(ask.uuid, "applied", "", gpu, limit_w=ask.watts, sm_mhz=ask.high_mhz))
    _check_state(gpu, now_s)
    for knob in gpu.knobs:
        if knob.foreign():
            raise ForeignFound(_changed(knob))
    if ask.holdout and ask.anything:
        raise NotAllowed("holdout: this GPU stays at its own value, it is the meter of savings")
    notes = [_plan_power(made, ask, settings, brake, now_s, wall_ns), _plan_clocks(made, ask, settings, wall_ns)]
    made.row.reason = "; ".join(filter(None, notes))[:400]
    if not ask.anything:
        made.row.reason = "hold-out: left at its own value" if ask.holdout else "nothing granted: at its own value"
        made.row.status = "restored" if made.drop else "applied"
    elif made.clocks is None and made.watts is None and ask.watts is None:
        raise NotAllowed("no_actuator: no clock lock can be set on this GPU here")
    return made


def _changed(knob: Knob) -> str:
    ours = knob.claim.ours if knob.claim else None
    return f"{knob.actuator.knob} reads {_text(knob.read())}, we had set {_text(ours)}"


def _text(value: float | None) -> str:
    return "no lock" if value is None else f"{value:g}"


def _check_state(gpu: Gpu, now_s: float) -> None:
    if gpu.yielded:
        raise NotAllowed(f"foreign: {gpu.yielded}; left to its other writer until `eo restore` or a restart")
    if gpu.restoring:
        raise NotAllowed("restoring: the value found before us is not back yet")
    if now_s < gpu.shunned_until_s:
        raise NotAllowed(f"not_actuatable: {gpu.shunned}; next try in {gpu.shunned_until_s - now_s:.0f} s")


def _plan_power(made: Plan, ask: Ask, settings: CapperSettings, brake: RowBrake, now_s: float, wall_ns: int) -> str:
    """Fills the power part; returns a note for the row."""
    knob = made.gpu.power
    if knob is None:
        if ask.watts is not None and not ask.clocks:
            raise NotAllowed("no_actuator: no power limit can be set on this GPU here")
        made.row.status = "applied" if ask.watts is None else "clamped"
        return "" if ask.watts is None else "no power limit can be set on this GPU here"
    if ask.watts is None:
        made.drop += [knob] if knob.claim else []
        return ""
    claim = knob.claim or knob.find(wall_ns)
    previous, current = claim.saved.previous, claim.ours
    if previous is None or current is None:
        raise ActuatorError(f"{knob.uuid}: its power limit is unknown")
    made.row.previous_w = previous
    bounds = knob.bounds()
    allowed = allowed_power(ask.watts, bounds=bounds, settings=settings, previous=previous, current=current)
    braked_w = round(brake.under(made.gpu, allowed.value, ask.table, now_s), 3)
    made.ceiling_w, made.table = allowed.value, ask.table
    made.braked_w = braked_w if braked_w < allowed.value else None
    made.chosen_w = _still_chosen(made.gpu.lease, allowed.value, now_s)
    value = braked_w if made.chosen_w is None else min(braked_w, made.chosen_w)
    if brake.active and ask.table is not None and knob.claim is None:
        made.claims.append((knob, claim))  # a brake must not wait for a disk
    if not (knob.stands(value) if knob.claim else knob.exactly(value, current)):
        # The brake waits for no rate: a renewal that it turns is not refused for it.
        since = now_s - knob.changed_at_s
        if value != made.braked_w and since < settings.min_power_interval_s:
            raise NotAllowed(
                f"rate: the limit changed {since:.2f} s ago, {settings.min_power_interval_s:g} s must pass"
            )
        made.watts = value
        made.claims += [(knob, claim)] if knob.claim is None and not made.claims else []
    made.row.status = "clamped" if allowed.clamped or made.braked_w is not None else "applied"
    notes = [
        "" if made.braked_w is None else brake.note(allowed.value, braked_w, ask.table, now_s),
        "" if made.chosen_w is None else chosen_note(made.chosen_w, braked_w),
        allowed.clamped,
    ]
    return "; ".join(filter(None, notes)) or f"limit {allowed.value:g} W"


def _still_chosen(lease: Lease | None, ceiling_w: float, now_s: float) -> float | None:
    """What the node's own loop set under the lease before, where the new ceiling allows it."""
    if lease is None or lease.chosen_w is None or now_s >= lease.expires_s:
        return None
    return lease.chosen_w if lease.chosen_w <= ceiling_w else None


def _plan_clocks(made: Plan, ask: Ask, settings: CapperSettings, wall_ns: int) -> str:
    knob = made.gpu.clock
    if knob is None:
        if not ask.clocks or ask.watts is None:
            return ""
        made.row.status = "clamped"
        return "no clock lock can be set on this GPU here"
    if not ask.clocks:
        made.drop += [knob] if knob.claim else []
        return ""
    claim = knob.claim or knob.find(wall_ns)
    made.clocks = allowed_clocks(
        ask.low_mhz, ask.high_mhz, bounds=knob.bounds(), settings=settings, previous=claim.saved.previous
    )
    # Claimed with the envelope, not with the first lock: the fast loop must never wait for a disk.
    made.claims += [(knob, claim)] if knob.claim is None else []
    if made.clocks.clamped:
        made.row.status = "clamped"
    return made.clocks.clamped or f"clocks {made.clocks.low}-{made.clocks.high} MHz"


def execute(made: Plan, now_s: float) -> str | None:
    """Does what the plan says; returns the problem when a device did not obey. Its claims are durable by now."""
    for knob in made.drop:
        result = knob.put_back(now_s)
        if result.state == "failed":
            return result.problem
        if result.state == "pending":
            made.gpu.restoring, made.gpu.retry_at_s = True, now_s
            made.row.status, made.row.reason = "expired", _told(knob, "its own value")
    power, clock = made.gpu.power, made.gpu.clock
    if made.watts is not None and power is not None and (problem := power.apply(made.watts, now_s)):
        return problem
    if made.watts is not None and power is not None and power.pending is not None:
        made.row.reason = _told(power, f"{made.watts:g} W")
    if made.clocks is not None and clock is not None and clock.claim is not None:
        lock = clock.claim.ours
        if lock is not None and lock != clock.claim.saved.previous and not _inside(lock, made.clocks):
            nearest = min(max(round(lock), made.clocks.low), made.clocks.high)
            return clock.apply(snap(nearest, made.clocks, clock.bounds().grid), now_s)
    return None


def _told(knob: Knob, what: str) -> str:
    return f"the device was told {what} and shows it within {knob.actuator.latency_s:g} s; not confirmed yet"


def _inside(lock: float, window: ClockWindow) -> bool:
    return window.low <= lock <= window.high
