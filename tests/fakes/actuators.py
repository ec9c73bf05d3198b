"""An actuator in memory with named faults, for tests that need thousands of devices and no time."""

from __future__ import annotations

from agents.capper.actuators.base import Bounds, Knob
from agents.capper.actuators.errors import ActuatorError, DeviceLost, NotPermitted, OutOfRange
from streams.contract.records import Quality

POWER_BOUNDS = Bounds(200.0, 700.0, 700.0)
CLOCK_BOUNDS = Bounds(345.0, 1980.0, 1980.0, tuple(float(mhz) for mhz in range(345, 1981, 15)))


class FakeActuator:
    """Values per GPU; every set is counted, faults are methods with a name and `heal` undoes them."""

    quality: Quality = "simulated"
    settle_s = 0.0
    latency_s = 0.0
    exact_readback = True
    capability: tuple[str, ...] = ()

    def __init__(self, knob: Knob, uuids: tuple[str, ...], *, found: float | None = None, name: str = "") -> None:
        self.knob: Knob = knob
        self.name = name or ("fake_power" if knob == "power_limit_w" else "fake_clock")
        start = 700.0 if found is None and knob == "power_limit_w" else found
        self.values: dict[str, float | None] = dict.fromkeys(uuids, start)
        self.set_calls = 0
        self._lost: set[str] = set()
        self._lying: set[str] = set()
        self._forbidden = False
        self._flaky_sets = 0
        self._rounding_w = 0.0

    # -- Actuator ------------------------------------------------------------------------------------------------------

    def uuids(self) -> tuple[str, ...]:
        return tuple(self.values)

    def bounds(self, uuid: str) -> Bounds:
        self._present(uuid)
        return POWER_BOUNDS if self.knob == "power_limit_w" else CLOCK_BOUNDS

    def read(self, uuid: str) -> float | None:
        self._present(uuid)
        return self.values[uuid]

    def set(self, uuid: str, value: float | None) -> None:
        self.set_calls += 1
        self._present(uuid)
        if self._forbidden:
            raise NotPermitted(f"{uuid}: not permitted")
        if self._flaky_sets:
            self._flaky_sets -= 1
            raise ActuatorError(f"{uuid}: timeout")
        bounds = self.bounds(uuid)
        if value is not None and not bounds.minimum <= value <= bounds.maximum:
            raise OutOfRange(f"{uuid}: {value}")
        if uuid not in self._lying:
            self.values[uuid] = value if value is None else value - self._rounding_w

    def measured_w(self, uuid: str) -> float | None:
        return None if uuid in self._lost else 321.0

    def _present(self, uuid: str) -> None:
        if uuid in self._lost or uuid not in self.values:
            raise DeviceLost(f"{uuid}: GPU is lost")

    # -- named faults --------------------------------------------------------------------------------------------------

    def lost(self, uuid: str) -> None:
        """The GPU does not answer."""
        self._lost.add(uuid)

    def lying_set(self, uuid: str) -> None:
        """Sets are taken and change nothing."""
        self._lying.add(uuid)

    def forbidden(self) -> None:
        """Reads work, sets are not permitted."""
        self._forbidden = True

    def flaky_sets(self, count: int) -> None:
        """The next so many sets fail and may be tried again."""
        self._flaky_sets = count

    def rounding(self, watts: float) -> None:
        """The device holds a little less than it was told."""
        self._rounding_w = watts

    def foreign_writer(self, uuid: str, value: float | None) -> None:
        """Somebody else sets the knob."""
        self.values[uuid] = value

    def heal(self) -> None:
        self._lost.clear()
        self._lying.clear()
        self._forbidden, self._flaky_sets, self._rounding_w = False, 0, 0.0
