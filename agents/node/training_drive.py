"""A training job under the chooser: clocks or limits are tried inside the live envelope, and one is kept.

It turns what the job and the GPUs say into units of some whole steps, and hands what the session wants to the control
loop, which goes through the capper like any other. Without a grant, with heat, with a job that stands still or falls
silent: the default, and what was being measured is measured again. So is what the capper did not set as asked.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import Final

from agents.node.engine_drive import STALE_S, UNGRANTED, InForce, Situation
from agents.node.training_rules import TrainingRules
from models.control.ranks import Option
from models.control.release import heat_or_brake
from models.control.training_group import RankGroup
from models.control.training_session import Session, Unit, clocks, limits
from models.control.types import ClockBounds, Decision
from streams.contract import records
from streams.contract.records import EngineReading

log = logging.getLogger(__name__)
UNIT_S: Final = 1.0  # least length of a unit: GPUs are read once a second
STILL_S: Final = 30.0  # without a finished step, or ten times a step's length: evaluation, a checkpoint, a hang
STILL_STEPS: Final = 10.0
CLOCK, POWER = "clock", "power"
RELEASED: Final[tuple[int | None, float | None]] = (None, None)
SAME_W: Final = 1.0  # drivers round limits to their own steps
LEAST_SHARE: Final = 0.45  # of the ceiling: below it lie clock floors, and no recorded job keeps a bound of 5 % there
MOST_ROUNDS: Final = 8  # without any move towards what was asked for: it cannot be had
SEEN: Final = 8
PACE_OFF: Final = 0.03  # of a step: noise
LEAST_WORD_S: Final = 5.0  # how long what a rank said counts,
WORD_UNITS: Final = 3.0  # or so many of its units


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


@dataclass(frozen=True, slots=True)
class _Knob:
    """What is turned, and within what."""

    name: str
    settings: tuple[float, ...]
    reference: float

    @property
    def home(self) -> str:
        return "default clocks" if self.name == CLOCK else "the granted limit"


class TrainingDrive:
    """One training job, or one rank of it.

    Args:
        bound: how much longer a step may take than at its own default.
        run_steps: length of the run; None = unknown.
        knob: "clock", or "power" for limits below the envelope's ceiling where it grants one.
        rank: its name in `group`.
        group: the ranks of the same data-parallel job on this node; None = it stands alone.
    """

    drift: str | None = None

    def __init__(
        self,
        *,
        bound: float,
        run_steps: int | None = None,
        knob: str = CLOCK,
        rank: str = "",
        group: RankGroup | None = None,
    ) -> None:
        self._bound, self._run_steps, self._wanted = bound, run_steps, knob
        self._rank = rank
        self._group = group or RankGroup(bound=bound)
        self._alone = group is None
        self._lately: deque[float] = deque(maxlen=SEEN)  # seconds of a step
        self._seen: deque[float] = deque(maxlen=SEEN)  # busy seconds of a step while nothing is granted
        self._session: Session | None = None
        self._knob: _Knob | None = None
        self._within: object = None  # bounds that the session belongs to
        self._steps, self._watts = _Steps(), _Watts()
        self._stepped_s: float | None = None
        self._step_s: float | None = None
        self._state = "watched"
        self._asked, self._before, self._rounds = RELEASED, InForce(), 0

    def decide(self, now_s: float, now: Situation) -> Decision:
        """Lock or limit that the job's GPUs should have; None = their default."""
        decision = self._decide(now_s, now)
        self._asked = (decision.sm_mhz, decision.limit_w)
        return decision

    def _decide(self, now_s: float, now: Situation) -> Decision:
        self._watts.take(now)
        moved = self._steps.take(now.engine)
        self._stepped_s = now_s if moved or self._stepped_s is None else self._stepped_s
        why = self._obstacle(now_s, now)
        if why is not None or now.bounds is None:
            self._at_default(now_s, known=why == UNGRANTED)
            self._set_aside()
            self._state = "watched"
            return Decision(None, why or UNGRANTED)
        self._seen.clear()
        knob, session = self._in_bounds(now, now.bounds)
        if self._obeyed(now):
            self._feed(session, now_s, _pace_s(now))
        else:
            self._set_aside()  # what ran was not what was asked for: nothing is learned of it
            if self._rounds >= MOST_ROUNDS:
                knob, session = self._without(knob)
        self._state = "chosen" if session.state == "chosen" else "searching"
        reason = f"training: {session.reason}"
        if session.setting >= knob.reference:
            return Decision(None, reason)
        if knob.name == POWER:
            return Decision(None, reason, limit_w=session.setting)
        return Decision(round(session.setting), reason)

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

    # --- the knob ---

    def _in_bounds(self, now: Situation, bounds: ClockBounds) -> tuple[_Knob, Session]:
        """The session of these bounds; other ones are another search."""
        ceiling_w = now.ceiling_w if self._wanted == POWER else None
        least_w = now.columns.limit_min_w(now.rows)
        within = (CLOCK, bounds) if ceiling_w is None else (POWER, ceiling_w, least_w)
        if self._session is None or self._knob is None or within != self._within:
            self._within = within
            self._knob = _clock_knob(bounds) if ceiling_w is None else _limit_knob(ceiling_w, least_w)
            self._session = self._new(self._knob)
        return self._knob, self._session

    def _new(self, knob: _Knob) -> Session:
        return Session(
            knob.settings,
            reference=knob.reference,
            bound=self._bound,
            run_steps=self._run_steps,
            home=knob.home,
            unit="MHz" if knob.name == CLOCK else "W",
        )

    def _obeyed(self, now: Situation) -> bool:
        """Whether the capper holds what was asked for in the round before. Released, a GPU may be at any own value."""
        mhz, watts = self._asked
        held = now.in_force
        if mhz is not None:
            obeyed = all(one is not None and abs(one - mhz) <= now.step_mhz for one in held.locks_mhz)
        else:
            obeyed = watts is None or all(one is not None and abs(one - watts) <= SAME_W for one in held.limits_w)
        self._rounds = 0 if obeyed or held != self._before else self._rounds + 1
        self._before = held
        return obeyed

    def _without(self, knob: _Knob) -> tuple[_Knob, Session]:
        """A setting that cannot be had, and what lies beyond it, is not searched: everything anew without them."""
        asked = next(one for one in self._asked if one is not None)
        left = tuple(one for one in knob.settings if one > asked)
        log.warning("%s: a %s of %g is not taken here; %d settings are left", self._rank, knob.name, asked, len(left))
        self._knob, self._rounds = replace(knob, settings=left), 0
        self._session = self._new(self._knob)
        return self._knob, self._session

    # --- what ran ---

    def _feed(self, session: Session, now_s: float, pace_s: float | None) -> None:
        steps = self._steps
        if steps.count < 1.0 or steps.seconds < UNIT_S:
            return
        self._step_s = steps.seconds / steps.count
        self._lately.append(self._step_s)
        watts = self._watts.mean()
        if watts is not None:
            session.feed(Unit(self._step_s, steps.count, watts, steps.wait_s / steps.count))
            self._plan(session, now_s, steps.seconds, pace_s)
        steps.clear()

    def _plan(self, session: Session, now_s: float, unit_s: float, pace_s: float | None) -> None:
        """As one of a group: the slowest sets the pace, and this one runs as the plan has it."""
        self._group.say(self._rank, session.options(), until_s=now_s + max(LEAST_WORD_S, WORD_UNITS * unit_s))
        pace_s = self._believed(pace_s)
        order = self._group.order(self._rank, now_s, pace_s=pace_s)
        alone = self._alone and pace_s is None
        session.allow(None if order is None or alone else order.room)
        choice = session.choice
        if order is not None and not (alone and (choice is None or choice.slowdown_interval[1] <= self._bound)):
            session.follow(order.setting, most=order.most)

    def _believed(self, pace_s: float | None) -> float | None:
        """A pace told from elsewhere, unless steps are shorter than it: then it is another job's of the same name."""
        return pace_s if pace_s is not None and pace_s <= median(self._lately) * (1.0 + PACE_OFF) else None

    def _at_default(self, now_s: float, *, known: bool) -> None:
        """A rank that nothing is granted to (held out, paused) may be the slowest: its group hears how long it is busy.

        Where its step times are not known it is in no plan.
        """
        steps = self._steps
        if not known:
            self._group.forget(self._rank)
            self._seen.clear()
        elif steps.count >= 1.0:
            self._seen.append((steps.seconds - steps.wait_s) / steps.count)
            if len(self._seen) == SEEN:
                only = Option(0.0, median(self._seen), 1.0)
                self._group.say(self._rank, (only,), until_s=now_s + max(LEAST_WORD_S, WORD_UNITS * steps.seconds))

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


def _pace_s(now: Situation) -> float | None:
    """Busy seconds of the slowest rank of its job on any node, where the envelope tells them; else None."""
    told_ms = now.targets.e2e_ms
    return told_ms / 1e3 if told_ms is not None and 0.0 < told_ms < inf else None


def _clock_knob(bounds: ClockBounds) -> _Knob:
    grid = clocks(bounds.min_mhz, min(bounds.default_mhz, bounds.max_mhz), bounds.step_mhz)
    reference = float(bounds.default_mhz)
    return _Knob(CLOCK, grid if reference in grid else (*grid, reference), reference)


def _limit_knob(ceiling_w: float, least_w: float | None) -> _Knob:
    return _Knob(POWER, limits(max(least_w or 0.0, LEAST_SHARE * ceiling_w), ceiling_w), ceiling_w)


def new_drive(job: str, rules: TrainingRules, groups: dict[str, RankGroup]) -> TrainingDrive:
    """The drive of a job as its owner wants it; ranks of one group share what they know."""
    group = rules.groups.get(job)
    return TrainingDrive(
        bound=rules.slowdown,
        run_steps=rules.steps.get(job),
        knob=rules.knob,
        rank=job,
        group=None if group is None else groups.setdefault(group, RankGroup(bound=rules.slowdown)),
    )
