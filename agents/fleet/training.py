"""Simulated training jobs of a fleet: one a node, over all of its GPUs, in the same registers as the serving twin.

Steps have noise and outliers; time and watts follow the twin's law of jobs under the lock and the limit that stand in
the registers. Everything that comes from here is simulated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agents.fleet.registers import Registers
from agents.node.training_rules import TrainingRules
from models.twin.job import JobLaw, Jobs, one_job, run
from streams.contract.records import EngineReading, Histogram
from streams.contract.training import TRAINING

STACK: Final = "fine-tuning/twin/h100x8"
# Between the fitted laws of Zeus' V100 and A40 sweeps (models/twin/data/calibration.json), scaled to 700 W.
LAW: Final = JobLaw(static_w=110.0, v_min=0.70, x_knee=0.60, x_floor=0.17)


def job_of(step_s: float) -> Jobs:
    """A job whose step takes so long at its default."""
    return one_job(
        time_s=step_s, light_share=0.3, dynamic_w=520.0, light_ratio=0.6, clock_share=0.6, static_w=120.0
    )  # fmt: skip


JOB: Final = job_of(0.8)
STEP_SIGMA: Final = 0.03
OUTLIERS: Final = 0.01  # data loading, checkpoints
OUTLIER_SCALE: Final = 3.0
TEMP_C: Final = 62.0


@dataclass(slots=True)
class _Job:
    """One job's progress. `told`: per reader, steps and seconds that it has been given."""

    steps: int = 0
    seconds: float = 0.0
    left: float = 1.0  # of the step that runs, in shares of a nominal one
    whole: float = 1.0
    began_s: float = 0.0
    told: dict[int, tuple[int, float]] = field(default_factory=dict)


class TrainingJobs:
    """The jobs of some nodes.

    Args:
        registers: of the whole fleet.
        nodes: indices of the nodes that train.
        seed: of the steps' noise.
        job: seconds and watts of a step.
    """

    def __init__(self, registers: Registers, nodes: Sequence[int], *, seed: int, job: Jobs = JOB) -> None:
        self._registers, self._job = registers, job
        self.nodes = {node: _Job() for node in nodes}
        self._rng = np.random.default_rng(seed)
        self._now_s = 0.0
        self._known: dict[tuple[float, float], tuple[float, float]] = {}
        self._energy_mj = {node: registers.energy_mj[self._rows(node)].copy() for node in nodes}
        self._watts = dict.fromkeys(nodes, 0.0)
        self._mhz = dict.fromkeys(nodes, float(registers.sm_max_mhz[0]) if len(registers.sm_max_mhz) else 0.0)

    def rules(self, knob: str, steps: int | None) -> TrainingRules:
        """How their nodes run them."""
        names = [self._name(node) for node in self.nodes]
        return TrainingRules(knob=knob, steps={} if steps is None else dict.fromkeys(names, steps))

    def _name(self, node: int) -> str:
        return f"{self._registers.nodes[node]}/train"

    def _rows(self, node: int) -> slice:
        per_node = self._registers.gpus_per_node
        return slice(node * per_node, (node + 1) * per_node)

    def advance(self, dt_s: float) -> None:
        """Moves every job dt_s seconds forward under what stands in the registers."""
        begin = self._now_s
        self._now_s += dt_s
        for node, job in self.nodes.items():
            step_s, watts = self._law(node)
            self._watts[node] = watts
            self._energy_mj[node] += watts * dt_s * 1e3
            at, end = begin, self._now_s
            while at + job.left * step_s <= end:
                at += job.left * step_s
                job.steps, job.seconds = job.steps + 1, job.seconds + at - job.began_s
                job.began_s, job.left = at, self._share()
            job.left -= (end - at) / step_s

    def _share(self) -> float:
        """How long the next step is, of a nominal one."""
        noise = math.exp(self._rng.normal(0.0, STEP_SIGMA))
        if self._rng.random() < OUTLIERS:
            noise *= 1.0 + (OUTLIER_SCALE - 1.0) * self._rng.random()
        return noise

    def _law(self, node: int) -> tuple[float, float]:
        registers, rows = self._registers, self._rows(node)
        top = float(registers.sm_max_mhz[rows].min())
        locks = registers.sm_lock_mhz[rows]
        lock = float(np.where(locks > 0.0, locks, top).min())
        limit = float(registers.limit_w[rows].min())
        self._mhz[node] = lock
        if (lock, limit) not in self._known:
            time_s, watts = run(LAW, self._job, lock_x=np.array([[lock / top]]), limit_w=np.array([[limit]]))
            self._known[lock, limit] = float(time_s[0, 0]), float(watts[0, 0])
        return self._known[lock, limit]

    def overlay(self) -> None:
        """Writes the jobs' readings over those of the idle serving twin."""
        registers = self._registers
        for node in self.nodes:
            rows = self._rows(node)
            registers.power_w[rows], registers.sm_mhz[rows] = self._watts[node], self._mhz[node]
            registers.energy_mj[rows] = self._energy_mj[node]
            registers.util_ratio[rows], registers.temp_c[rows], registers.throttle[rows] = 1.0, TEMP_C, 0.0

    def engine(self, node: int, now_ns: int, reader: int) -> EngineReading:
        """The job as the contract has it; durations of steps count since this reader's last call."""
        job, registers = self.nodes[node], self._registers
        steps, seconds = job.told.get(reader, (0, 0.0))
        job.told[reader] = (job.steps, job.seconds)
        return EngineReading(
            engine=self._name(node),
            kind="training",
            stack=STACK,
            workload=TRAINING,
            gpu_uuid=registers.node_uuids(node),
            ts_ns=now_ns,
            requests_total=job.steps,
            e2e=_durations(job.steps - steps, job.seconds - seconds),
        )


def _durations(steps: int, seconds: float) -> Histogram:
    if steps <= 0:
        return Histogram()
    mean_ms = seconds / steps * 1e3
    return Histogram(index=(math.ceil(math.log2(mean_ms) * 32) - 1,), count=(steps,), sum_ms=round(seconds * 1e3, 3))
