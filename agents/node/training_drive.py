"""A training job under the chooser: clocks are tried inside the live envelope and one is kept, within the bound.

It turns what the job and the GPUs say into units of some whole steps, and hands the clock that the session wants to the
control loop, which goes through the capper like any other. Without a grant, with heat, with a job that stands still or
falls silent: default clocks, and what was being measured is measured again.
"""

from __future__ import annotations

from typing import Final

from agents.node.engine_drive import STALE_S, UNGRANTED, Situation
from models.control.release import heat_or_brake
from models.control.training_session import Session, Unit, clocks
from models.control.types import ClockBounds, Decision
from streams.contract import records
from streams.contract.records import EngineReading

UNIT_S: Final = 1.0  # least length of a unit: GPUs are read once a second
STILL_S: Final = 30.0  # without a finished step, or ten times a step's length: evaluation, a checkpoint, a hang
STILL_STEPS: Final = 10.0
KIND: Final = "training"


class _Steps:
    """Whole steps since the last unit: their number, seconds, and seconds of waiting."""

    def __init__(self) -> None:
        self._before: EngineReading | None = None
        self.clear()

    def clear(self) -> None:
        """What ran until now belongs to no unit."""
        self.count = self.seconds = self.wait_s = 0.0

    def take(self, engine: EngineReading) -> bool:
        """Adds what a reading says is new; whether any step ended."""
        before = self._before
        if before is not None and engine.ts_ns == before.ts_ns:
            return False
        steps = float(sum(engine.e2e.count)) if engine.e2e is not None else 0.0
        seconds = 0.0 if engine.e2e is None else engine.e2e.sum_ms / 1e3
        if engine.e2e is None and before is not None:
            steps, seconds = _from_outside(before, engine)
            if steps <= 0.0:
                return False  # the reading before stays: the step began there
        self._before = engine
        self.count, self.seconds = self.count + steps, self.seconds + seconds
        self.wait_s += 0.0 if engine.tbt is None else engine.tbt.sum_ms / 1e3
        return steps > 0.0


def _from_outside(before: EngineReading, now: EngineReading) -> tuple[float, float]:
    if before.requests_total is None or now.requests_total is None:
        return 0.0, 0.0
    return float(now.requests_total - before.requests_total), (now.ts_ns - before.ts_ns) / 1e9


class _Watts:
    """Mean watts of all GPUs of the job since it was last asked: from energy counters, else from power readings."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._first: tuple[int, float] | None = None
        self._readings: list[float] = []

    def take(self, now: Situation) -> None:
        energy, ts_ns = now.columns.energy_j(now.rows), now.columns.ts_ns
        if self._last is not None and ts_ns == self._last[0]:
            return
        power = now.columns.power_w(now.rows)
        if power is not None:
            self._readings.append(power * len(now.rows))
        if energy is not None:
            self._last = (ts_ns, energy)
            self._first = self._first or self._last

    def mean(self) -> float | None:
        """Takes what was collected; None for nothing that can be true."""
        first, last, readings = self._first, self._last, self._readings
        self._first, self._readings = last, []
        if first is not None and last is not None and last[0] > first[0] and last[1] > first[1]:
            return (last[1] - first[1]) / (last[0] - first[0]) * 1e9
        return sum(readings) / len(readings) if readings else None


class TrainingDrive:
    """One training job.

    Args:
        bound: how much longer a step may take than at default clocks.
        run_steps: length of the run; None = unknown.
    """

    drift: str | None = None

    def __init__(self, *, bound: float, run_steps: int | None = None) -> None:
        self._bound, self._run_steps = bound, run_steps
        self._session: Session | None = None
        self._range: ClockBounds | None = None
        self._steps, self._watts = _Steps(), _Watts()
        self._stepped_s: float | None = None
        self._step_s: float | None = None
        self._state = "watched"

    def decide(self, now_s: float, now: Situation) -> Decision:
        """The lock that the job's GPUs should have; None = default clocks."""
        self._watts.take(now)
        moved = self._steps.take(now.engine)
        self._stepped_s = now_s if moved or self._stepped_s is None else self._stepped_s
        why = self._obstacle(now_s, now)
        if why is not None or now.bounds is None:
            self._set_aside()
            self._state = "watched"
            return Decision(None, why or UNGRANTED)
        session = self._in_bounds(now.bounds)
        self._feed(session)
        self._state = "chosen" if session.state == "chosen" else "searching"
        lock = None if session.setting >= now.bounds.default_mhz else round(session.setting)
        return Decision(lock, f"training: {session.reason}")

    def _obstacle(self, now_s: float, now: Situation) -> str | None:
        if now.bounds is None:
            return UNGRANTED
        if not -STALE_S <= now.age_s <= STALE_S:
            return f"the job's numbers are {now.age_s:.1f} s old, bound {STALE_S:g} s: default clocks"
        if (hot := heat_or_brake(now.columns.throttle(now.rows))) is not None:
            return hot
        still_s = now_s - (self._stepped_s if self._stepped_s is not None else now_s)
        most_s = max(STILL_S, STILL_STEPS * (self._step_s or 0.0))
        if still_s > most_s:
            return f"no step has ended for {still_s:.0f} s, bound {most_s:.0f} s: default clocks"
        return None

    def _in_bounds(self, bounds: ClockBounds) -> Session:
        """The session of these bounds; other ones are another search."""
        if self._session is None or bounds != self._range:
            grid = clocks(bounds.min_mhz, min(bounds.default_mhz, bounds.max_mhz), bounds.step_mhz)
            reference = float(bounds.default_mhz)
            settings = grid if reference in grid else (*grid, reference)
            self._session = Session(settings, reference=reference, bound=self._bound, run_steps=self._run_steps)
            self._range = bounds
        return self._session

    def _feed(self, session: Session) -> None:
        steps = self._steps
        if steps.count < 1.0 or steps.seconds < UNIT_S:
            return
        self._step_s = steps.seconds / steps.count
        watts = self._watts.mean()
        if watts is not None:
            session.feed(Unit(self._step_s, steps.count, watts, steps.wait_s / steps.count))
        steps.clear()

    def _set_aside(self) -> None:
        self._steps.clear()
        self._watts.mean()
        if self._session is not None:
            self._session.spoil()

    def report(self) -> records.EngineControl:
        """For the record and the metrics."""
        choice = None if self._session is None else self._session.choice
        if choice is None:
            return records.EngineControl(state=self._state)
        return records.EngineControl(
            state=self._state,
            slowdown_ratio=round(choice.slowdown_interval[1], 5),
            saving_ratio=round(choice.saving, 5),
        )
