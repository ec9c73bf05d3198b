"""One training job over its life: when to measure, which setting to run at, and when the choice is no longer good.

It feeds the chooser (`training.search`) with measured units and paces it: what is spent measuring stays below a share
of the run, or of what has run so far where nobody knows the length. A job that changes (batch size, data, a restart)
goes back to the reference and is measured anew. Pure: it neither reads a clock nor sets anything.

A rank of a data-parallel group or a stage of a pipeline that tells how long it waits for the others is judged by its
own busy time: what it waits may be filled up by a lower clock without any step getting longer (Perseus).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from statistics import median
from typing import Final, Literal

from models.control.training import Block, Choice, Rules, Trial, recheck, search

State = Literal["learning", "waiting", "measuring", "chosen", "kept"]
BASE_UNITS: Final = 16  # at the reference, before anything is tried
WATCHED: Final = 32  # newest units that say whether the job is still the same
CHANGED: Final = 0.12  # of the time of a unit: more than drift, less than another batch size
SLACK_USED: Final = 0.9  # of what a rank waits
MOST_SLOWER: Final = 1.0  # a rank that waits all the time is not slowed beyond twice its time
MOST_PAIRS: Final = 60  # of a search in a run of unknown length
RECHECK_PAIRS: Final = 6
LEVELS: Final = 40
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


class Session:
    """The state of one job.

    Args:
        settings: clocks (or limits) that may be tried, the reference among them.
        reference: where the job runs by default.
        bound: how much longer a step may take.
        run_steps: length of the run; None = unknown.
    """

    def __init__(
        self,
        settings: Sequence[float],
        *,
        reference: float,
        bound: float,
        run_steps: int | None = None,
        rules: Rules | None = None,
    ) -> None:
        self._settings, self._reference, self._bound = tuple(settings), reference, bound
        self._run_steps, self._rules = run_steps, rules or Rules()
        self._run_s = self._spent_s = 0.0
        self.state: State = "learning"
        self.choice: Choice | None = None
        self.reason = "step times at default clocks are measured first"
        self._begin_again()

    def _begin_again(self) -> None:
        self._base: list[Unit] = []
        self._hunt: Generator[Trial, Block, Choice | bool] | None = None
        self._trial: Trial | None = None
        self._block: list[Unit] = []
        self._skipped = self._half = 0
        self._recent: deque[float] = deque(maxlen=WATCHED)
        self._expected_s: float | None = None

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
        self.state, self.choice, self.reason = "learning", None, f"{why}: default clocks while it is measured anew"
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

    # --- at the reference ---

    def _learn(self, unit: Unit) -> None:
        self._base.append(unit)
        if len(self._base) < BASE_UNITS:
            return
        self.state = "waiting"
        self._hunt = search(
            self._settings,
            reference=self._reference,
            bound=self._own_bound(),
            run_steps=self._units_left(),
            rules=self._rules,
        )
        self._step_hunt(None)

    def _own_bound(self) -> float:
        """The bound on this rank's busy time: the job's, plus what the rank waits anyway."""
        step = median(unit.step_s for unit in self._base)
        busy = median(unit.busy_s for unit in self._base)
        waits = sorted(unit.wait_s for unit in self._base)
        slack = SLACK_USED * waits[len(waits) // 5]  # others may be measuring: what it surely waits
        return min(MOST_SLOWER, (self._bound * step + slack) / busy)

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
            self.reason = f"measuring at {self._trial.setting:.0f}, then beside {self._reference:.0f}"
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
        base_s = median(unit.busy_s for unit in self._base)
        self._recent.clear()
        self.reason = found.reason
        if found.setting == self._reference:
            self.choice, self.state, self._expected_s = None, "kept", base_s
        else:
            self.choice, self.state, self._expected_s = found, "chosen", base_s * (1.0 + found.slowdown)

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
