"""One training job over its life: when to measure, which setting to run at, and when the choice is no longer good.

It feeds the chooser (`training.search`) with measured units and paces it: what is spent measuring stays below a share
of the run, or of what has run so far where nobody knows the length. A job that changes (batch size, data, a restart)
goes back to the reference and is measured anew. Pure: it neither reads a clock nor sets anything.

A rank of a data-parallel group that tells how long it waits for the others is judged by its own busy time. Where the
others are known (`training_group`), the group says how much of the wait may be filled up by a slower setting without
any step getting longer, and which known setting is to be run at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from statistics import median
from typing import Final, Literal

from models.control.ranks import Option
from models.control.training import Block, Choice, Known, Rules, Trial, recheck, search

State = Literal["learning", "waiting", "measuring", "chosen", "kept"]
BASE_UNITS: Final = 16  # at the reference, before anything is tried
WATCHED: Final = 32  # newest units that say whether the job is still the same
CHANGED: Final = 0.12  # of the time of a unit: more than drift, less than another batch size
MOST_SLOWER: Final = 1.0  # a rank that waits all the time is not slowed beyond twice its time
MOST_PAIRS: Final = 60  # of a search in a run of unknown length
RECHECK_PAIRS: Final = 6
LEVELS: Final = 40
FEW_UNITS: Final = 8  # newest units that say how fast a rank is now
SUDDEN: Final = 0.04  # of a step's time: more than the noise of few units
DWELL: Final = 8  # units for which a group must have asked for a slower setting; a faster one is taken at once
MORE_ROOM: Final = 0.03  # of slowdown: more than that beside what was searched is another search
LEAST_WATTS: Final = 5.0  # grid of limits
SEARCH_SHARE: Final = 0.8  # of what is left of the budget: a job that changes is searched again


@dataclass(frozen=True, slots=True)
class Unit:
    """Some whole steps in a row: seconds of one step, how much of it the rank waited for others, watts of all GPUs."""

    step_s: float
    steps: float
    watts: float
    wait_s: float = 0.0

    @property
    def busy_s(self) -> float:
        return self.step_s - self.wait_s

    @property
    def sound(self) -> bool:
        """A unit of which nothing can be learned is left out: it took no time, waited longer than it took, ..."""
        numbers = (self.step_s, self.steps, self.watts, self.busy_s)
        return all(0.0 < one < inf for one in numbers) and isfinite(self.wait_s) and self.wait_s >= 0.0


def clocks(low_mhz: int, reference_mhz: int, step_mhz: int) -> tuple[float, ...]:
    """Clocks to try, on the device's grid: dense near the reference, where a clock-bound job meets its bound."""
    low = -(-low_mhz // step_mhz) * step_mhz
    span = reference_mhz - low
    below = {reference_mhz - round(span * (k / LEVELS) ** 2 / step_mhz) * step_mhz for k in range(1, LEVELS + 1)}
    return tuple(sorted({float(reference_mhz), *(float(mhz) for mhz in below if low <= mhz < reference_mhz)}))


def limits(floor_w: float, ceiling_w: float) -> tuple[float, ...]:
    """Power limits to try: about as far apart as in the recorded sweeps on which the search was judged."""
    step = max(LEAST_WATTS, round(ceiling_w / 14.0 / LEAST_WATTS) * LEAST_WATTS)
    count = max(0, int((ceiling_w - floor_w) / step + 1e-9))
    return tuple(ceiling_w - step * k for k in range(count, -1, -1))


class Session:
    """The state of one job.

    Args:
        settings: clocks (or limits) that may be tried, the reference among them.
        reference: where the job runs by default.
        bound: how much longer a step may take.
        run_steps: length of the run; None = unknown.
        home: the reference in words.
        unit: of the settings.
    """

    def __init__(
        self,
        settings: Sequence[float],
        *,
        reference: float,
        bound: float,
        run_steps: int | None = None,
        rules: Rules | None = None,
        home: str = "default clocks",
        unit: str = "MHz",
    ) -> None:
        self._settings, self._reference, self._bound = tuple(settings), reference, bound
        self._run_steps, self._rules = run_steps, rules or Rules()
        self._run_s = self._spent_s = 0.0
        self._home, self._unit = home, unit
        self._room: float | None = None  # what a group says that this rank may be slowed; None = the bound
        self.state: State = "learning"
        self.choice: Choice | None = None
        self.reason = f"step times at {home} are measured first"
        self._begin_again()

    def _begin_again(self) -> None:
        self._base: list[Unit] = []
        self._hunt: Generator[Trial, Block, Choice | bool] | None = None
        self._trial: Trial | None = None
        self._block: list[Unit] = []
        self._skipped = self._half = 0
        self._recent: deque[float] = deque(maxlen=WATCHED)
        self._expected_s: float | None = None
        self._known: tuple[Known, ...] = ()
        self._searched: float | None = None  # bound of the last search
        self._scale = 1.0  # how long a step takes now, of what was measured
        self._asked = self._roomy = 0  # units in a row for which the group asked for a slower setting, for a search

    @property
    def settings(self) -> tuple[float, ...]:
        return self._settings

    @property
    def setting(self) -> float:
        """What the job should run at now."""
        if self._trial is not None and self.state == "measuring":
            return self._trial.setting
        return self.choice.setting if self.choice is not None else self._reference

    @property
    def spent_ratio(self) -> float:
        """Share of the time so far that was spent in blocks; of a run of unknown length, away from the reference."""
        return self._spent_s / self._run_s if self._run_s else 0.0

    def spoil(self) -> None:
        """Something else shaped the last units (no grant, heat, a silent job): the block begins anew."""
        self._block, self._skipped = [], 0

    def restart(self, why: str) -> None:
        """Back to the reference, everything measured anew."""
        self.state, self.choice, self.reason = "learning", None, f"{why}: {self._home} while it is measured anew"
        self._begin_again()

    def feed(self, unit: Unit) -> None:
        """One unit that ran at `setting`."""
        if not unit.sound:
            return
        seconds = unit.step_s * unit.steps
        self._run_s += seconds
        if self.state == "learning":
            self._learn(unit)
        elif self.state == "measuring":
            # Where nobody knows the length of the run, only what runs away from the reference counts as spent.
            away = self._trial is not None and self._trial.setting != self._reference
            self._spent_s += seconds if away or self._run_steps is not None else 0.0
            self._measure(unit)
        else:
            self._watch(unit)

    # --- as one rank of a group ---

    def options(self) -> tuple[Option, ...]:
        """What this rank can run at, the reference first: busy seconds and joules of a step as the job is now.

        Times of other settings are the upper ends of their intervals. Empty while nothing is known.
        """
        if len(self._base) < FEW_UNITS:
            return ()
        self._weigh()
        busy_s = self._scale * median(unit.busy_s for unit in self._base)
        energy_j = self._scale * median(unit.watts * unit.step_s for unit in self._base)
        others = (
            Option(one.setting, busy_s * (1.0 + max(one.at_most, 0.0)), energy_j * (1.0 - one.saving))
            for one in self._known
            if one.saving > 0.0
        )
        return (Option(self._reference, busy_s, energy_j), *others)

    def _weigh(self) -> None:
        """How long steps take now: from many units, or from few where they are far off."""
        if self._expected_s is None or len(self._recent) < FEW_UNITS:
            return
        newest = median(list(self._recent)[-FEW_UNITS:]) / self._expected_s
        if abs(newest / self._scale - 1.0) > SUDDEN:
            self._scale = newest
        elif len(self._recent) == WATCHED:
            self._scale = median(self._recent) / self._expected_s

    def allow(self, room: float | None) -> None:
        """How much longer than at the reference this rank may be busy, as its group has it; None = the job's bound."""
        self._room = room
        searched = self._searched
        if searched is None or self.state not in ("chosen", "kept") or self._own_bound() <= searched + MORE_ROOM:
            self._roomy = 0
            return
        self._roomy += 1
        if self._roomy >= WATCHED:
            self.restart(f"the others leave room for {self._own_bound():+.1%}, and {searched:+.1%} was searched")

    def follow(self, setting: float, *, most: float = 0.0) -> None:
        """Runs at a known setting, as the group's plan has it: a slower one when it is asked for long enough, a faster
        one at once when the present one is beyond `most`, the room without the plan's guard: no swinging between two.
        """
        checked = self.state == "measuring" and self.choice is not None
        now = self.choice.setting if self.choice is not None else self._reference
        if not (checked or self.state in ("chosen", "kept")) or setting == now:
            self._asked = 0
            return
        if setting < now:
            self._asked += 1
            if checked or self._asked < DWELL:
                return
        elif self.choice is not None and self.choice.slowdown_interval[1] <= most:
            return
        self._asked, self._hunt, self._trial = 0, None, None
        known = next((one for one in self._known if one.setting == setting), None)
        why = f"the plan of its group: {setting:.0f} {self._unit}, because the slowest rank sets the pace"
        if known is None:
            self._settle(None, why)
            return
        interval = (2.0 * known.slowdown - known.at_most, known.at_most)
        self._settle(Choice(setting, known.slowdown, interval, known.saving, 0, (), why, self._known), why)

    # --- at the reference ---

    def _learn(self, unit: Unit) -> None:
        self._base.append(unit)
        if len(self._base) < BASE_UNITS:
            return
        self.state, self._searched = "waiting", self._own_bound()
        self._hunt = search(
            self._settings,
            reference=self._reference,
            bound=self._searched,
            run_steps=self._units_left(),
            rules=self._rules,
        )
        self._step_hunt(None)

    def _own_bound(self) -> float:
        """The bound on this rank's busy time: the job's, or the room that its group has found for it.

        Its own waits are no room: the others may wait for it in turn, each slowed for a straggler that has left.
        """
        return self._bound if self._room is None else min(MOST_SLOWER, max(0.0, self._room))

    def _units_left(self) -> int:
        """Length of the run, in units, of which the rest of the budget is the share that may be spent."""
        unit_s = median(unit.step_s * unit.steps for unit in self._base)
        if self._run_steps is None:
            return int(2 * MOST_PAIRS * self._rules.block_steps / self._rules.spent_ratio)
        whole_s = self._run_steps * median(unit.step_s for unit in self._base)
        left_s = whole_s - self._spent_s / self._rules.spent_ratio
        return max(1, int(SEARCH_SHARE * left_s / unit_s))

    def _affordable(self) -> bool:
        """Whether a block may be measured now. Of a run of known length the search itself keeps its budget."""
        if self._run_steps is not None or self._half:
            return True
        unit_s = median(unit.step_s * unit.steps for unit in self._base)
        pair_s = 2 * self._rules.block_steps * unit_s  # a pair that is begun is finished
        return self._spent_s + pair_s <= self._rules.spent_ratio * self._run_s

    # --- measuring ---

    def _step_hunt(self, block: Block | None) -> None:
        assert self._hunt is not None
        try:
            self._trial = next(self._hunt) if block is None else self._hunt.send(block)
        except StopIteration as end:
            self._ended(end.value)
            return
        self._half = 0 if block is None else 1 - self._half
        self.spoil()
        self._maybe_measure()

    def _maybe_measure(self) -> None:
        if self._trial is not None and self._affordable():
            self.state = "measuring"
            self.reason = (
                f"measuring at {self._trial.setting:.0f} {self._unit}, then beside {self._reference:.0f} {self._unit}"
            )
        elif self.state == "measuring":
            self.state = "chosen" if self.choice is not None else "waiting"

    def _measure(self, unit: Unit) -> None:
        assert self._trial is not None
        if self._skipped < self._trial.settle:
            self._skipped += 1
            return
        self._block.append(unit)
        if len(self._block) < self._trial.steps - self._trial.settle:
            return
        times = [unit.busy_s for unit in self._block]
        energies = [unit.watts * unit.step_s for unit in self._block]
        self._step_hunt(Block(times, energies))

    def _ended(self, found: Choice | bool) -> None:
        self._hunt = self._trial = None
        if isinstance(found, bool):
            if found:
                self.state = "chosen"
            else:
                self.restart("the chosen setting is now slower than the bound")
            return
        self._known = found.known
        self._settle(None if found.setting == self._reference else found, found.reason)

    def _settle(self, choice: Choice | None, why: str) -> None:
        """Runs at a choice, or at the reference, from now on."""
        base_s = median(unit.busy_s for unit in self._base)
        self._recent.clear()
        self.choice, self.reason = choice, why
        self.state = "kept" if choice is None else "chosen"
        self._expected_s = base_s * (1.0 + (0.0 if choice is None else choice.slowdown))

    # --- running ---

    def _watch(self, unit: Unit) -> None:
        if self.state == "waiting":
            self._maybe_measure()
            return
        self._recent.append(unit.busy_s)
        if len(self._recent) == WATCHED and self._expected_s is not None:
            off = median(self._recent) / self._expected_s - 1.0
            if abs(off) > CHANGED:
                self.restart(f"steps take {off:+.0%} of what was measured, so the job has changed")
                return
        if self._trial is not None:
            self._maybe_measure()
        elif self.choice is not None and self._due():
            self._hunt = recheck(
                self.choice.setting,
                reference=self._reference,
                bound=self._own_bound(),
                pairs=RECHECK_PAIRS,
                rules=self._rules,
            )
            self._step_hunt(None)

    def _due(self) -> bool:
        """A recheck, as soon as the budget has room for all of it."""
        unit_s = median(unit.step_s * unit.steps for unit in self._base)
        whole_s = 2 * RECHECK_PAIRS * self._rules.block_steps * unit_s
        return self._spent_s + whole_s <= self._rules.spent_ratio * self._run_s
