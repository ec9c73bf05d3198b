"""One engine as the control loop drives it: its controller, what it showed, what it missed, how well it is predicted.

It decides a lock or default clocks and never writes. Whatever the controller cannot make sense of ends in default
clocks for that engine alone: no reading may stop the loop.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol

from agents.node.engine_signal import Columns, Window, state_of
from agents.node.misses import Misses, Slo
from models.control.guard import GUARD_SHARE
from models.control.types import ClockBounds, Decision, EngineState, Health, Observed, Targets
from streams.contract import records
from streams.contract.records import EngineReading

log = logging.getLogger(__name__)
STALE_S: Final = 2.0  # an engine silent for longer is released: its latency is unknown
UNGRANTED: Final = "not every GPU of the engine is granted"


class ControllerPort(Protocol):
    """What the loop needs of models.control.controller.LocalController."""

    def step(
        self,
        now_s: float,
        state: EngineState | None,
        *,
        targets: Targets,
        bounds: ClockBounds,
        throttle: int,
        observed: Observed | None,
    ) -> Decision: ...

    def watch(
        self, now_s: float, state: EngineState | None, *, bounds: ClockBounds, observed: Observed | None
    ) -> None: ...

    def health(self) -> Health: ...


@dataclass(frozen=True, slots=True)
class InForce:
    """What the capper last said of each of the engine's GPUs; None = its own clocks, the ceiling of its limit."""

    locks_mhz: tuple[int | None, ...] = ()
    limits_w: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Situation:
    """One engine at one moment. `bounds`, `ceiling_w`: granted to all of its GPUs; None = nothing is."""

    engine: EngineReading
    columns: Columns
    rows: tuple[int, ...]
    age_s: float
    bounds: ClockBounds | None
    targets: Targets
    step_mhz: int
    ceiling_w: float | None = None
    in_force: InForce = InForce()

    @property
    def default(self) -> ClockBounds | None:
        """Bounds that hold nothing but default clocks; None where these are unknown."""
        mhz = self.columns.sm_max_mhz(self.rows)
        return ClockBounds(mhz, mhz, mhz, self.step_mhz) if mhz is not None and mhz > 0 else None


class Drive(Protocol):
    """What the control loop needs of whatever chooses the clock of one engine or job."""

    @property
    def drift(self) -> str | None:
        """Why it just stopped predicting, said once; None otherwise."""
        ...

    def decide(self, now_s: float, now: Situation) -> Decision: ...

    def report(self) -> records.EngineControl: ...


class _Mean:
    """Mean of what came since it was last taken; None for nothing."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self._sum, self._count = self._sum + value, self._count + 1

    def take(self) -> float | None:
        found = round(self._sum / self._count, 5) if self._count else None
        self._sum, self._count = 0.0, 0
        return found


class ServingDrive:
    """A serving engine under the local controller.

    Args:
        controller: a new one, for this engine alone.
        now_s: when its hour of misses begins.
        slo: what no request should exceed.
    """

    def __init__(self, controller: ControllerPort, *, now_s: float, slo: Slo) -> None:
        self._controller, self._window, self._misses = controller, Window(), Misses(slo, now_s)
        self._health, self._state = Health(), "watched"
        self._time, self._power = _Mean(), _Mean()
        self._chunk: int | None = None
        self._told_failure = ""
        self.drift: str | None = None

    def decide(self, now_s: float, now: Situation) -> Decision:
        """The lock that all GPUs of the engine should have; None = default clocks."""
        self.drift = None
        try:
            decision = self._decide(now_s, now)
        except (ArithmeticError, ValueError) as error:
            self._state = "watched"
            if str(error) != self._told_failure:
                self._told_failure = str(error)
                log.error("engine %s: its controller fails (%s); default clocks", now.engine.engine, error)
            return Decision(None, f"the controller cannot use what this engine says ({error}): default clocks")
        self._chunk = decision.chunk_tokens
        return decision

    def _decide(self, now_s: float, now: Situation) -> Decision:
        held = self._misses.take(now.engine, now_s)
        observed = self._window.observe(now.engine, now.columns, now.rows, now.targets)
        state = state_of(now.engine, now.age_s)
        if now.bounds is None or held:
            if now.default is not None and observed.tbt_mean_ms is not None:
                self._controller.watch(now_s, state, bounds=now.default, observed=observed)
            self._note(now.engine.engine, "watched" if now.bounds is None else "rolled_back", fresh=observed)
            return Decision(None, UNGRANTED if now.bounds is None else self._rolled_back(now_s))
        decision = self._controller.step(
            now_s,
            state,
            targets=now.targets,
            bounds=now.bounds,
            throttle=now.columns.throttle(now.rows),
            observed=observed,
        )
        self._note(now.engine.engine, "controlled", fresh=observed)
        return decision

    def _rolled_back(self, now_s: float) -> str:
        share, left_s = self._misses.missed_ratio or 0.0, self._misses.left_s(now_s)
        if share <= GUARD_SHARE and left_s > 0.0:
            return (
                f"more than {GUARD_SHARE:.0%} of an hour's requests missed the SLO twice within a day: default clocks "
                f"for another {left_s / 60:.0f} min"
            )
        return f"{share:.1%} of the last hour's requests missed the SLO, bound 1 %: default clocks"

    def _note(self, engine: str, state: str, *, fresh: Observed) -> None:
        before, self._health = self._health, self._controller.health()
        now = self._health
        if fresh.tbt_mean_ms is not None:
            self._time.add(now.time_error)
            self._power.add(now.power_error)
        if now.recalibrating and not before.recalibrating and state == "controlled":
            error = "" if now.time_error is None else f" (last error {now.time_error:+.0%})"
            self.drift = (
                f"model drift: the model does not predict {engine} any more{error}: default clocks while it is "
                "calibrated anew"
            )
        unknown = now.decode_ratio is None and state == "controlled"
        self._state = "recalibrating" if now.recalibrating else "unknown_stack" if unknown else state

    def report(self) -> records.EngineControl:
        """For the record and the metrics; errors are means since the report before."""
        health = self._health
        return records.EngineControl(
            state=self._state,
            decode_ratio=_rounded(health.decode_ratio),
            prefill_ratio=_rounded(health.prefill_ratio),
            power_ratio=_rounded(health.power_ratio),
            time_error_ratio=self._time.take(),
            power_error_ratio=self._power.take(),
            missed_ratio=_rounded(self._misses.missed_ratio),
            chunk_tokens=self._chunk,
            slack_ratio=_rounded(health.slack) if self._state == "controlled" else None,
            wait_price_w=_rounded(health.wait_price_w) if self._state == "controlled" else None,
            meet_ratio=_rounded(health.meet) if self._state == "controlled" else None,
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
