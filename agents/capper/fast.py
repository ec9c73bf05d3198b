"""What the node's own loop may do between two commands: a clock inside the lease's window, a limit below its ceiling.

No value is set that the lease does not allow, or whose old value is not in the save file. It grants nothing and ends
no lease; a foreign change or a device that does not obey goes to the keeper, as after a command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agents.capper.actuators.errors import ActuatorError
from agents.capper.bounds import NotAllowed, allowed_power, snap
from agents.capper.gpu import Gpu
from agents.capper.holdings import Holdings
from agents.capper.keeper import Keeper
from agents.capper.knob import Knob
from agents.capper.settings import CapperSettings


class FastLoop:
    """Moves knobs inside live leases. What it refuses is counted, in a word."""

    def __init__(
        self, *, settings: CapperSettings, holdings: Holdings, keeper: Keeper, wall_ns: Callable[[], int]
    ) -> None:
        self._settings, self._holdings, self._keeper, self._wall_ns = settings, holdings, keeper, wall_ns
        self._counts = keeper.counts

    def clock(self, gpu: Gpu | None, mhz: int | None, now_s: float) -> int | None:
        """Sets a lock, None = the value found before us; returns what is in force."""
        if gpu is None or (knob := gpu.clock) is None:
            return None
        lease = gpu.lease
        if lease is None or lease.clocks is None or now_s >= lease.expires_s or knob.claim is None:
            return self._lock(knob, "no_lease")
        target = knob.claim.saved.previous
        if mhz is not None:
            if type(mhz) is not int or not lease.clocks.low <= mhz <= lease.clocks.high:
                return self._lock(knob, "outside_lease")
            target = snap(mhz, lease.clocks, knob.bounds().grid)
            # A release must never wait for a rate limit: latency comes first.
            if target != knob.claim.ours and now_s - knob.changed_at_s < self._settings.min_clock_interval_s:
                return self._lock(knob, "rate")
        self._turn(gpu, knob, target, now_s)
        return self._lock(knob)

    def _lock(self, knob: Knob, refused_as: str = "") -> int | None:
        """The lock in force; counts a refusal."""
        if refused_as:
            self._counts[f"clock_refused.{refused_as}"] += 1
        claim = knob.claim
        try:
            value = claim.ours if claim is not None and claim.known else knob.read()
        except ActuatorError:
            return None
        return None if value is None else round(value)

    def limit(self, gpu: Gpu | None, watts: float | None, now_s: float) -> float | None:
        """Sets a limit, None = the lease's ceiling; returns what is in force."""
        if gpu is None or (knob := gpu.power) is None:
            return None
        lease = gpu.lease
        if lease is None or lease.ceiling_w is None or now_s >= lease.expires_s:
            return self._limit(knob, "no_lease")
        try:
            target, refused_as = limit_target(
                knob, watts, lease.ceiling_w, braked_w=gpu.brake.watts, settings=self._settings, now_s=now_s
            )
            if target is None:
                return self._limit(knob, refused_as)
            if knob.claim is None:
                self._holdings.claim([(knob, knob.find(self._wall_ns()))])
        except ActuatorError as error:
            self._keeper.lose(gpu, knob, error)
            return None
        except OSError:
            return self._limit(knob, "save")
        self._turn(gpu, knob, target, now_s)
        if gpu.lease is lease and knob.stands(target):
            gpu.lease = replace(lease, chosen_w=None if watts is None else target)
        return self._limit(knob)

    def _limit(self, knob: Knob, refused_as: str = "") -> float | None:
        """The limit in force; counts a refusal."""
        if refused_as:
            self._counts[f"limit_refused.{refused_as}"] += 1
        try:
            return knob.read()
        except ActuatorError:
            return None

    def _turn(self, gpu: Gpu, knob: Knob, target: float | None, now_s: float) -> None:
        try:
            if knob.foreign():
                what = f"{knob.actuator.knob} was changed by others to {knob.read()}"
                self._keeper.yield_to_others(gpu, what, now_s)
            elif knob.claim is None or knob.stands(target):
                return
            elif problem := knob.apply(target, now_s):
                self._keeper.shun(gpu, problem, now_s)
            else:
                return
        except ActuatorError as error:
            self._keeper.lose(gpu, knob, error)
        self._keeper.settle()


def limit_target(
    knob: Knob,
    watts: float | None,
    ceiling_w: float,
    *,
    braked_w: float | None,
    settings: CapperSettings,
    now_s: float,
) -> tuple[float | None, str]:
    """The limit to set for one that the node's own loop wants under a lease, and why not, in a word.

    A return to the ceiling never waits for a rate limit; a knob that we do not hold is at its own value already.
    Raises ActuatorError where the device does not answer.
    """
    # A braked row takes the node's own loop down with it.
    highest_w = ceiling_w if braked_w is None else min(ceiling_w, braked_w)
    if watts is None and knob.claim is None:
        return None, ""
    if watts is not None and (refused_as := _too_much(knob, watts, ceiling_w, highest_w)):
        return None, refused_as
    current = knob.claim.ours if knob.claim is not None else knob.read()
    previous = knob.claim.saved.previous if knob.claim is not None else current
    if previous is None or current is None:
        return None, "unknown"
    if watts is None:  # others may have lowered it between the grant and our first set
        return min(highest_w, previous), ""
    try:
        target = allowed_power(watts, bounds=knob.bounds(), settings=settings, previous=previous, current=current).value
    except NotAllowed:
        return None, "outside_lease"
    if knob.claim is None and knob.exactly(target, current):
        return None, ""  # nothing is held for what stands already
    too_soon = now_s - knob.changed_at_s < settings.min_power_interval_s
    return (None, "rate") if too_soon and target < current and not knob.stands(target) else (target, "")


def _too_much(knob: Knob, watts: float, ceiling_w: float, highest_w: float) -> str:
    """Why a wish is refused before the device is asked, in a word; "" = it is not."""
    if knob.actuator.latency_s:
        return "slow"
    if isinstance(watts, bool) or not isinstance(watts, int | float) or watts > ceiling_w:
        return "outside_lease"
    return "braked" if watts > highest_w else ""
