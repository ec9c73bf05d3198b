"""A training run replayed from a recorded sweep: what the search would have measured, chosen and spent.

The means of each setting are the recorded ones; the noise, the outliers and the drift of single steps are simulated,
because sweeps hold one mean a setting. Pure: seeds are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, pi, sin
from random import Random
from typing import Final

from models.control.training import Block, Choice, Rules, Trial, search

STEP_SIGMA: Final = 0.03  # of a step's time
OUTLIERS: Final = 0.01  # of the steps: data loading, checkpoints
OUTLIER_SCALE: Final = 3.0
POWER_SIGMA: Final = 0.01
DRIFT: Final = 0.03  # amplitude of a slow change of the whole job over the run


@dataclass(frozen=True, slots=True)
class SweepTable:
    """One recorded workload: setting, seconds and joules of a step; the reference is where it runs today."""

    settings: Sequence[float]
    times_s: Sequence[float]
    energies_j: Sequence[float]
    reference: float

    def slowdown(self, setting: float) -> float:
        return self._at(self.times_s, setting) / self._at(self.times_s, self.reference) - 1.0

    def saving(self, setting: float) -> float:
        return 1.0 - self._at(self.energies_j, setting) / self._at(self.energies_j, self.reference)

    def oracle(self, bound: float) -> float:
        """The setting of least recorded energy whose recorded slowdown keeps the bound."""
        kept = [one for one in self.settings if self.slowdown(one) <= bound]
        return max(kept, key=self.saving)

    def _at(self, values: Sequence[float], setting: float) -> float:
        return values[list(self.settings).index(setting)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The search's choice and what the sweep says of it."""

    choice: Choice
    slowdown: float
    saving: float
    steps: int
    run_steps: int

    @property
    def measuring_ratio(self) -> float:
        return self.steps / self.run_steps


def replay(table: SweepTable, *, bound: float, run_steps: int, seed: int, rules: Rules | None = None) -> Outcome:
    """Runs the search on simulated steps around the recorded means."""
    steps = _Steps(table, run_steps=run_steps, seed=seed)
    hunt = search(table.settings, reference=table.reference, bound=bound, run_steps=run_steps, rules=rules)
    try:
        trial = next(hunt)
        while True:
            trial = hunt.send(steps.run(trial))
    except StopIteration as end:
        choice: Choice = end.value
    return Outcome(choice, table.slowdown(choice.setting), table.saving(choice.setting), choice.steps, run_steps)


class _Steps:
    """Single steps of the job, with noise."""

    def __init__(self, table: SweepTable, *, run_steps: int, seed: int) -> None:
        self._rng, self._done, self._run = Random(seed), 0, run_steps
        self._rows = {
            setting: (time_s, energy_j / time_s)
            for setting, time_s, energy_j in zip(table.settings, table.times_s, table.energies_j, strict=True)
        }
        self._phase = self._rng.random() * 2.0 * pi

    def run(self, trial: Trial) -> Block:
        time_s, watts = self._rows[trial.setting]
        times, energies = [], []
        for step in range(trial.steps):
            self._done += 1
            drift = 1.0 + DRIFT * sin(self._phase + 6.0 * pi * self._done / self._run)
            noise = exp(self._rng.gauss(0.0, STEP_SIGMA))
            if self._rng.random() < OUTLIERS:
                noise *= 1.0 + (OUTLIER_SCALE - 1.0) * self._rng.random()
            seconds = time_s * drift * noise
            if step >= trial.settle:
                times.append(seconds)
                energies.append(seconds * watts * exp(self._rng.gauss(0.0, POWER_SIGMA)))
        return Block(times, energies)
