"""The local controller on the twin, in process and in virtual time: what it saves and what it does to latency.

Half of the replicas are controlled, half are their hold-out and receive the very same requests, so that both groups
differ by the control alone. Targets come from the hold-out's 99th percentiles times a margin, as in production.
Everything that comes from here is simulated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.control.controller import ClockBounds, EngineState, LocalController, Observed, Targets
from models.control.profiles import StackProfile, profile_for
from models.twin.cluster import TwinCluster
from models.twin.histograms import SparseHist
from models.twin.params import TwinParams
from models.twin.workload import Workload
from streams.contract.histogram import quantile

Counts = dict[int, int]


@dataclass(frozen=True, slots=True)
class Margins:
    """Factors on the hold-out's 99th percentiles that become the targets; an absolute bound in ms overrides."""

    ttft: float = 1.05
    tbt: float = 1.05
    e2e: float | None = 1.10
    ttft_ms: float | None = None
    tbt_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One run. `floor_ratio`: lowest clock that the envelope grants; `ceiling_ratio`: its power limit; of default."""

    pairs: int = 20
    seconds: float = 120.0
    warmup_s: float = 60.0
    period_s: float = 0.5
    floor_ratio: float = 0.5
    ceiling_ratio: float = 1.0
    tells_limit: bool = True  # whether telemetry carries the power limit in force
    target_every_s: float = 5.0
    target_window_s: float = 60.0
    margins: Margins = field(default_factory=Margins)
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Controlled against hold-out, after the warm-up."""

    saving_ratio: float
    saving_interval: tuple[float, float]  # 95 %, over pairs
    p99_ratio: dict[str, float]
    p99_ms_holdout: dict[str, float]
    mean_clock_ratio: float
    released_share: float
    drift_share: float  # of steps in which the controller held its model to be wrong
    step_us: float


def paired(workload: Workload, pairs: int) -> Workload:
    """The same streams twice: for replicas 0..pairs-1 and again for pairs..2*pairs-1."""
    return Workload(
        arrival_s=np.tile(workload.arrival_s, 2),
        prompt_tokens=np.tile(workload.prompt_tokens, 2),
        output_tokens=np.tile(workload.output_tokens, 2),
        replica=np.concatenate([workload.replica, workload.replica + pairs]),
        period_s=workload.period_s,
    )


class ClosedLoop:
    """One run: `workload` gives the streams of `setting.pairs` replicas."""

    def __init__(
        self, workload: Workload, setting: Setting, *, params: TwinParams, profile: StackProfile | None = None
    ) -> None:
        self._setting = setting
        self._gpus = params.stack.gpus
        self._device = params.stack.device
        self._twin = TwinCluster(
            replicas=2 * setting.pairs, gpus_per_replica=self._gpus, workload=paired(workload, setting.pairs),
            params=params, seed=setting.seed,
        )  # fmt: skip
        known = profile if profile is not None else profile_for(params.stack.name)
        self._controllers = [LocalController(known) for _ in range(setting.pairs)]
        default = int(self._device.fmax_mhz)
        floor = int(setting.floor_ratio * default)
        self._bounds = ClockBounds(floor, default, default, int(self._device.step_mhz))
        self._locks = np.zeros(self._twin.gpus)
        self._limits = np.full(self._twin.gpus, self._device.limit_default_w)
        self._limits[: setting.pairs * self._gpus] *= setting.ceiling_ratio
        self._prompt_before = np.zeros(2 * setting.pairs)
        self._recent: list[tuple[float, tuple[Counts, Counts, Counts]]] = []
        self._targets = Targets(None, None, None)
        self._pools: dict[str, tuple[Counter[int], Counter[int], Counter[int]]] = {}
        self._spent_s, self._steps, self._released, self._drifted, self._clock_sum = 0.0, 0, 0, 0, 0.0

    def run(self) -> Outcome:
        """Warm-up, then the measured time."""
        self._go(self._setting.warmup_s)
        self._reset()
        before = self._energy()
        self._go(self._setting.seconds)
        return self._outcome(self._energy() - before)

    def _go(self, seconds: float) -> None:
        for _ in range(round(seconds / self._setting.period_s)):
            self._twin.advance(self._setting.period_s, sm_lock_mhz=self._locks, limit_w=self._limits)
            self._pool_holdout()
            self._control()

    def _control(self) -> None:
        twin, period = self._twin, self._setting.period_s
        prompt = twin.prompt_tokens_total
        rate = (prompt - self._prompt_before) / period
        self._prompt_before = prompt.astype(np.float64)
        running, waiting, tokens, kv = twin.running, twin.waiting, twin.waiting_tokens, twin.kv_tokens
        throttle, sm_mhz = twin.throttle, twin.sm_mhz
        for row, controller in enumerate(self._controllers):
            observed = self._observe(row, float(rate[row]), int(sm_mhz[row * self._gpus]))
            state = EngineState(0.0, int(running[row]), int(waiting[row]), int(tokens[row]), int(kv[row]))
            started = perf_counter()
            decision = controller.step(
                twin.now_s, state, targets=self._targets, bounds=self._bounds,
                throttle=int(throttle[row * self._gpus]), observed=observed,
            )  # fmt: skip
            self._spent_s += perf_counter() - started
            self._steps += 1
            self._released += decision.sm_mhz is None
            self._drifted += controller.recalibrating
            self._clock_sum += (decision.sm_mhz or self._bounds.default_mhz) / self._bounds.default_mhz
            self._locks[row * self._gpus : (row + 1) * self._gpus] = decision.sm_mhz or 0

    def _observe(self, row: int, rate: float, sm_mhz: int) -> Observed:
        histograms = self._twin.take_histograms(row)
        self._add("controlled", histograms)
        tbt = histograms[1]
        total = sum(tbt.count)
        mean = tbt.sum_ms / total if total else None
        p99 = quantile(dict(zip(tbt.index, tbt.count, strict=True)), 0.99)
        limit_w = float(self._limits[row * self._gpus]) if self._setting.tells_limit else None
        return Observed(mean, sm_mhz, None, prompt_tokens_per_s=rate, tbt_p99_ms=p99, limit_w=limit_w)

    def _pool_holdout(self) -> None:
        pools: tuple[Counter[int], Counter[int], Counter[int]] = (Counter(), Counter(), Counter())
        for row in range(self._setting.pairs, 2 * self._setting.pairs):
            histograms = self._twin.take_histograms(row)
            self._add("holdout", histograms)
            for pool, histogram in zip(pools, histograms, strict=True):
                pool.update(dict(zip(histogram.index, histogram.count, strict=True)))
        now = self._twin.now_s
        self._recent.append((now, pools))
        self._recent = [entry for entry in self._recent if entry[0] > now - self._setting.target_window_s]
        if now % self._setting.target_every_s < self._setting.period_s:
            self._targets = self._target()

    def _target(self) -> Targets:
        margins = self._setting.margins
        ttft, tbt, e2e = (self._recent_p99(kind) for kind in range(3))
        return Targets(
            tbt_ms=margins.tbt_ms or (tbt and tbt * margins.tbt),
            ttft_ms=margins.ttft_ms or (ttft and ttft * margins.ttft),
            e2e_ms=e2e * margins.e2e if e2e and margins.e2e else None,
        )

    def _recent_p99(self, kind: int) -> float | None:
        counts: Counter[int] = Counter()
        for _, pools in self._recent:
            counts.update(pools[kind])
        return quantile(counts, 0.99)

    def _add(self, group: str, histograms: tuple[SparseHist, SparseHist, SparseHist]) -> None:
        pools = self._pools.setdefault(group, (Counter(), Counter(), Counter()))
        for pool, histogram in zip(pools, histograms, strict=True):
            pool.update(dict(zip(histogram.index, histogram.count, strict=True)))

    def _reset(self) -> None:
        self._pools = {}
        self._spent_s, self._steps, self._released, self._drifted, self._clock_sum = 0.0, 0, 0, 0, 0.0

    def _energy(self) -> NDArray[np.float64]:
        return self._twin.energy_mj.reshape(-1, self._gpus).sum(axis=1)

    def _outcome(self, energy: NDArray[np.float64]) -> Outcome:
        pairs = self._setting.pairs
        controlled, holdout = energy[:pairs], energy[pairs:]
        each = 1.0 - controlled / holdout
        half = 1.96 * float(each.std(ddof=1)) / np.sqrt(pairs)
        saving = 1.0 - float(controlled.sum() / holdout.sum())
        p99 = {
            group: dict(zip(("ttft", "tbt", "e2e"), (quantile(pool, 0.99) or 0.0 for pool in pools), strict=True))
            for group, pools in self._pools.items()
        }
        return Outcome(
            saving_ratio=saving,
            saving_interval=(saving - half, saving + half),
            p99_ratio={kind: p99["controlled"][kind] / p99["holdout"][kind] for kind in p99["holdout"]},
            p99_ms_holdout=p99["holdout"],
            mean_clock_ratio=self._clock_sum / self._steps,
            released_share=self._released / self._steps,
            drift_share=self._drifted / self._steps,
            step_us=1e6 * self._spent_s / self._steps,
        )
