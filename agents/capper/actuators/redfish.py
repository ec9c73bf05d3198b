"""Power limits through a BMC (out of band), in watts: told at once, shown after seconds, never in the caller's time.

A worker talks to the BMC; `set` only notes what is wanted and `read` gives what the worker saw last, so that a BMC that
hangs delays no other GPU's restore. It must not lower a limit where the BMC would cut the power above it, unless the
node's owner allows that, and it never writes the exception action.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from agents.capper.actuators.base import Bounds, Knob
from agents.capper.actuators.errors import (
    ActuatorError,
    DeviceLost,
    ForeignChange,
    NotPermitted,
    NotSupported,
    OutOfRange,
    Unsafe,
)
from agents.capper.actuators.redfish_http import BmcClient, Mismatch
from agents.capper.actuators.redfish_targets import Seen, Target, change, find, hard_power_off, look, power_resources
from streams.contract.records import Quality

log = logging.getLogger("eo.capper")
QUICK_S: Final = 1.0  # between two looks while something was told
SLOW_S: Final = 5.0  # otherwise: foreign changes are found this late
MATCH_TRIES: Final = 3
SAME_W: Final = 0.5


class RedfishPowerActuator:
    """Limits of a BMC's GPUs, or of its chassis.

    Args:
        client: requests to the BMC, used by the worker alone.
        target: "gpu" or "node".
        latency_s: how long a limit may take to show.
        allow_hard_power_off: lower limits even where the BMC cuts the power above them.
        threaded: False = tests call `step` themselves.
    """

    name = "redfish_power"
    knob: Knob = "power_limit_w"
    quality: Quality = "measured"
    settle_s = 0.0
    exact_readback = False  # a limit told earlier may still come into force
    capability: tuple[str, ...] = ("power_limit_w.set", "power_limit_w.readback=out_of_band")

    def __init__(
        self,
        client: BmcClient,
        *,
        target: str = "gpu",
        latency_s: float = 40.0,
        allow_hard_power_off: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        threaded: bool = True,
    ) -> None:
        self._client, self._which, self.latency_s = client, target, latency_s
        self._allow_hard, self._monotonic, self._threaded = allow_hard_power_off, monotonic, threaded
        self._targets: dict[str, Target] = {}
        self._bounds: dict[str, Bounds] = {}
        self._resources: list[str] = []
        self._lock = threading.Condition()
        # Below: shared with the worker, under the lock.
        self._wanted: dict[str, float] = {}
        self._seen: dict[str, tuple[Seen, float]] = {}
        self._last: dict[str, float | None] = {}  # the limit last seen, to tell a foreign change by
        self._ours: dict[str, deque[float]] = {}  # what we told lately and may show any moment
        self._failed: dict[str, ActuatorError] = {}
        self._hard: str | None = None
        self._busy_until_s = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- Actuator ------------------------------------------------------------------------------------------------------

    def uuids(self) -> tuple[str, ...]:
        """The BMC's limits. The first call asks the BMC and takes seconds. Raises ActuatorError."""
        if not self._targets:
            self._discover()
        return tuple(self._targets)

    def bounds(self, uuid: str) -> Bounds:
        self._target(uuid)
        return self._bounds[uuid]

    def read(self, uuid: str) -> float | None:
        """What the BMC said last, after it was last told. Raises ActuatorError; a failed set is told once."""
        self._target(uuid)
        with self._lock:
            if (failure := self._failed.pop(uuid, None)) is not None:
                raise failure
            found = self._seen.get(uuid)
        if found is None:
            raise DeviceLost(f"{uuid}: the BMC has not been read since it was told a limit")
        if (age_s := self._monotonic() - found[1]) > self.latency_s:
            raise DeviceLost(f"{uuid}: the BMC has not answered for {age_s:.0f} s")
        return found[0].limit_w

    def set(self, uuid: str, value: float | None) -> None:
        """Notes what is wanted; the worker tells the BMC. Raises OutOfRange, NotPermitted."""
        self._target(uuid)
        bounds = self._bounds[uuid]
        if value is None:
            raise OutOfRange(f"{uuid}: a power limit cannot be cleared, only set; give a number of watts")
        if not bounds.minimum <= value <= bounds.maximum:
            raise OutOfRange(f"{uuid}: {value:g} is outside {bounds.minimum:g} to {bounds.maximum:g}")
        with self._lock:
            last = self._last.get(uuid)
            if self._hard and not self._allow_hard and (last is None or value < last):
                raise NotPermitted(_refusal(uuid, self._hard))
            self._wanted[uuid] = value
            self._seen.pop(uuid, None)
            self._failed.pop(uuid, None)
            self._busy_until_s = self._monotonic() + self.latency_s
            self._lock.notify_all()

    def measured_w(self, uuid: str) -> float | None:
        with self._lock:
            found = self._seen.get(uuid)
        return found[0].measured_w if found is not None else None

    def _target(self, uuid: str) -> Target:
        if (target := self._targets.get(uuid)) is None:
            raise DeviceLost(f"{uuid} is none of the {len(self._targets)} limits of this BMC")
        return target

    # -- the worker ----------------------------------------------------------------------------------------------------

    def _discover(self) -> None:
        targets = find(self._client, self._which)
        if not targets:
            raise NotSupported(
                f"BMC {self._client.host} has no power limit with a value and bounds for target {self._which!r}; "
                "see `eo read redfish`, or set redfish_target to the other of gpu, node"
            )
        self._resources = power_resources(self._client)
        for target in targets:
            self._targets[target.key] = target
        self.step()
        for uuid in list(self._targets):
            seen = self._seen.get(uuid)
            if seen is None or seen[0].bounds is None:
                del self._targets[uuid]
            else:
                self._bounds[uuid] = seen[0].bounds
        if self._hard and not self._allow_hard:
            log.warning("%s", _refusal(self._client.host, self._hard))
        if self._threaded:
            self._thread = threading.Thread(target=self._work, name="redfish", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the worker and its connection; waits no longer than one request takes."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(10.0)
        self._client.close()

    def _work(self) -> None:
        while not self._closed:
            with self._lock:
                pause = QUICK_S if self._monotonic() < self._busy_until_s else SLOW_S
                if not (self._wanted or self._closed):
                    self._lock.wait(pause)
            self.step()
            with self._lock:
                if self._wanted and not self._closed:
                    self._lock.wait(QUICK_S)  # the BMC did not take it: not at once again

    def step(self) -> None:
        """Tells the BMC what is wanted, then looks at every limit. Keeps every problem for `read`."""
        self._look_at_exception()
        for uuid, target in self._targets.items():
            with self._lock:
                wanted, last = self._wanted.get(uuid), self._last.get(uuid)
            try:
                if wanted is not None:
                    self._tell(target, wanted, last)
                    with self._lock:
                        if self._wanted.get(uuid) == wanted:
                            del self._wanted[uuid]
                self._look(target)
            except ActuatorError as error:
                self._note(uuid, wanted, error)
        self._look_at_exception()

    def _note(self, uuid: str, wanted: float | None, error: ActuatorError) -> None:
        """A set that can never work ends; one that may work is tried again until the capper wants something else."""
        with self._lock:
            if wanted is not None and not error.retryable and self._wanted.get(uuid) == wanted:
                del self._wanted[uuid]
                self._failed[uuid] = error
        log.debug("%s: %s", uuid, error)

    def _look(self, target: Target) -> None:
        seen = look(self._client.get(target.uri).body, target.form)
        with self._lock:
            if target.key in self._wanted:
                return  # told something new meanwhile: this reading proves nothing
            self._seen[target.key] = (seen, self._monotonic())
            self._last[target.key] = seen.limit_w

    def _look_at_exception(self) -> None:
        try:
            found = hard_power_off(self._client, self._resources)
        except ActuatorError as error:
            log.debug("the exception action cannot be read: %s", error)
            return
        with self._lock:
            before, self._hard = self._hard, found
            if found and not before and self._last and not self._allow_hard:
                for uuid in self._targets:
                    self._failed[uuid] = Unsafe(_refusal(uuid, found))

    def _tell(self, target: Target, watts: float, last: float | None) -> None:
        """Reads, compares, sets if nobody came between. Raises ForeignChange, ActuatorError."""
        ours = self._ours.setdefault(target.key, deque(maxlen=4))
        for attempt in range(MATCH_TRIES + 1):
            doc = self._client.get(target.uri)
            now = look(doc.body, target.form).limit_w
            if now is not None and last is not None and not _near(now, (last, watts, *ours)):
                raise ForeignChange(f"{target.key}: others set the BMC's limit to {now:g} W meanwhile")
            ours.append(watts)  # also when the answer is lost: the BMC may have obeyed
            try:
                # Some BMCs change the tag with every reading: the last try trusts the value just read instead.
                self._client.patch(target.uri, change(target.form, watts), doc.etag if attempt < MATCH_TRIES else "*")
            except Mismatch:
                continue
            return
        raise DeviceLost(f"{target.key}: the BMC's resource changes faster than it can be set (412)")


def _near(value: float, known: tuple[float, ...]) -> bool:
    return any(abs(value - one) <= SAME_W for one in known)


def _refusal(uuid: str, resource: str) -> str:
    return (
        f"{uuid}: the BMC cuts the power above a limit (LimitException HardPowerOff in {resource}), so no limit is "
        "lowered; set it to LogEventOnly at the BMC, or redfish_allow_hard_power_off = true"
    )
