"""One run: a stream, a fleet, a local policy and a replica policy; out come energy and latency by hour.

The slow controller is the product's own (models.policy.replicas) or a rival's; it is called every SLOW_S of virtual
time. Everything here is simulated.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil, nan
from time import process_time
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.bench import state as st
from models.bench.compiled import compiled
from models.bench.fleet import OUTPUT_WEIGHT, SHARE, replica_rate
from models.bench.follow import Follow, LoadMemory
from models.bench.load import DAY_S, Curve, Stream
from models.bench.local import LEVELS, LOADS, OURS, STATIC, Local
from models.bench.plantparts import Node
from models.bench.state import DRAINING, LOADING, OFF, ON, Sim
from models.control.equations import Plant
from models.control.guard import MissGuard
from models.control.learn import spare
from models.control.memory import S_DECODE, S_MEET, S_PREFILL, S_PRICE, S_SIZE, begin
from models.policy.bandit import ShieldedBandit
from models.policy.forecast import Forecast, RateForecast
from models.policy.replicas import NodeCost, Packing, ReplicaPlanner, Seen, Wishes

F8 = NDArray[np.float64]
Mode = Literal["fixed", "reactive", "planned", "perfect", "template"]
SLOW_S: Final = 60.0
REACTIVE_MARGIN: Final = 1.15
REACTIVE_DOWN_S: Final = 900.0
MINUTE_COLUMNS: Final = (st.H_GPU_J, st.H_REQUESTS, st.H_MISSED)  # GPU joules are of one GPU of each replica
METRICS: Final = ("ttft", "tbt", "e2e")


@dataclass(frozen=True, slots=True)
class Policy:
    """A local policy with a replica policy. `source` names where a rival comes from."""

    name: str
    local: Local
    mode: Mode
    packing: Packing = field(default_factory=Packing)
    source: str = ""
    learns: bool = False  # a shielded bandit chooses among feasible numbers of replicas
    share: float = SHARE  # reactive and template: load of a replica that they aim at
    follow: Follow | None = None  # how its bounds move with the load
    nodes_off: bool = True  # False: replicas stop, and their nodes stay live


@dataclass(frozen=True, slots=True)
class Case:
    """What all policies of a comparison share. `history`: rate curve that was seen before the stream begins."""

    stream: Stream
    replicas: int
    truth: Plant
    belief: Plant
    history: Curve | None = None
    start_s: float = 0.0  # of the stream, on the curve's time
    node: Node = field(default_factory=Node)
    long_prompt: float = 4000.0
    budget_w: float = 0.0
    low_replicas: int = 0  # the last ones: they serve requests of low priority and are braked near the budget
    low_share: float = 0.0  # of requests that are of low priority
    later: tuple[float, Plant] | None = None  # from this second on another model serves
    told: tuple[float, Plant] | None = None  # from this second on the controller believes this one


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counters of a run; rows are hours."""

    name: str
    hours: F8
    hist: F8
    case_gpus: float
    node: Node
    starts: int
    peak_w: float
    windows_over: int
    seconds: float
    sentences: tuple[str, ...] = ()
    ratios: tuple[float, float] = (nan, nan)
    low_requests: float = 0.0  # finished requests of low priority, and those of them that a brake touched
    low_touched: float = 0.0
    braked_s: float = 0.0
    minutes: F8 = field(default_factory=lambda: np.zeros((0, 3)))  # MINUTE_COLUMNS, counted from the start
    span_s: float = nan  # simulated time: the last of the hours is rarely a whole one

    @property
    def gpu_j(self) -> F8:
        """GPU energy of each hour, joules."""
        found: F8 = self.hours[:, st.H_GPU_J] * self.case_gpus
        return found

    @property
    def wall_j(self) -> F8:
        """Energy at the wall of each hour."""
        gpu = self.gpu_j
        found: F8 = (gpu * (1.0 + self.node.host_per_gpu_w) + self.hours[:, st.H_HOST_J]) / self.node.supply_ratio
        return found

    def total(self, column: int) -> float:
        return float(self.hours[:, column].sum())

    def quantile_s(self, metric: str, share: float, hour: int | None = None) -> float:
        """Seconds; NaN when nothing was counted."""
        counts = self.hist[METRICS.index(metric)]
        return quantile(counts.sum(axis=0) if hour is None else counts[hour], share)


def quantile(counts: F8, share: float) -> float:
    """Quantile of a histogram of 0.5 % bins, interpolated inside the bin."""
    total = counts.sum()
    if total <= 0.0:
        return nan
    reached = np.cumsum(counts)
    at = int(np.searchsorted(reached, share * total))
    before = reached[at - 1] if at else 0.0
    inside = (share * total - before) / counts[at] if counts[at] > 0 else 0.5
    return float(np.exp((at + inside) * st.BIN_WIDTH) * 1e-3)


def mean_s(counts: F8) -> float:
    """Mean of a histogram of 0.5 % bins; NaN when nothing was counted."""
    middle = np.exp((np.arange(len(counts)) + 0.5) * st.BIN_WIDTH) * 1e-3
    return float((counts * middle).sum() / counts.sum()) if counts.sum() > 0.0 else nan


def never_off(node: Node) -> Node:
    """The same node, live where it would be off: what switching nodes off is worth."""
    return node._replace(off_w=node.host_w, off_gpu_w=node.bare_w)


def cost_of(node: Node, gpus: float) -> NodeCost:
    """What a planner knows of a node whose replicas have so many GPUs each: its boot, and what it takes when off."""
    dark_gpu_w = node.replicas * gpus * node.off_gpu_w * (1.0 + node.host_per_gpu_w)
    return NodeCost(boot_s=node.boot_s, off_w=node.off_w + dark_gpu_w)


class _Perfect(RateForecast):
    """Knows the rate curve, not the arrivals: the reference that pays no boot time."""

    curve: Curve
    start_s: float
    margin: float

    def ahead(self, now_s: float, horizon_s: float) -> Forecast:
        grid = np.linspace(now_s, now_s + horizon_s, 9) + self.start_s
        best = float(self.curve.at(grid).max())
        now = float(self.curve.at(np.array([now_s + self.start_s]))[0])
        return Forecast(now, best, best * (1.0 + self.margin), self.margin, "perfect knowledge of the rate")


def run(case: Case, policy: Policy, *, say: Callable[[str], None] | None = None) -> Outcome:
    """Runs the whole stream, and a minute more for what is still on its way."""
    began = process_time()
    machine = compiled()
    if not policy.nodes_off:
        case = replace(case, node=never_off(case.node))
    whole = case.stream.seconds
    sim = st.new_sim(
        case.stream.columns(),
        replicas=case.replicas,
        active=case.replicas,
        hours=max(1, ceil(whole / 3600.0)),
        ctl=S_SIZE,
        arms=2 * LEVELS * LOADS,
        plant=case.truth,
    )
    if policy.local.kind == OURS:
        for row in sim.ctl:
            begin(row, case.belief, case.long_prompt)
    first_x = policy.local.min_x if policy.local.kind == STATIC else 1.0
    sim.x[:] = first_x
    sim.clock[st.C_NEXT_TICK] = policy.local.tick_s
    sim.clock[st.C_BUDGET_W] = case.budget_w
    sim.low[case.replicas - case.low_replicas :] = 1
    sim.clock[st.C_LOW_SHARE] = case.low_share
    sim.clock[st.C_LATE_S], sim.clock[st.C_LONG_S] = policy.local.late_s, policy.local.long_s
    slow = _Slow(case, policy, machine)
    now, starts = 0.0, 0
    guard, local, belief = MissGuard(), policy.local, case.belief
    minutes: list[F8] = []
    while now < whole + 60.0:
        now = min(now + SLOW_S, whole + 60.0)
        truth = case.truth if case.later is None or now <= case.later[0] else case.later[1]
        if case.told is not None and now > case.told[0] and belief is not case.told[1]:
            belief = case.told[1]
            slow.believe(belief)
        machine.advance(sim, truth, belief, case.node, local, now)
        minutes.append(sim.hours[:, MINUTE_COLUMNS].sum(axis=0))
        if policy.mode != "fixed" and now < whole:
            want = slow.want(now, sim)
            bounds = slow.followed(policy.local, sim)
            if policy.local.kind == OURS and policy.mode in ("planned", "perfect"):
                total = sim.hours.sum(axis=0)
                held = guard.holds(now, float(total[st.H_REQUESTS]), float(total[st.H_MISSED]))
                local = _default_clocks(bounds, belief) if held else bounds
                if held:
                    want = slow.rolled_back(now)
            starts += apply(sim, want, now, case.node.boot_s, first_x)
    return Outcome(
        name=policy.name,
        hours=sim.hours,
        hist=sim.hist,
        case_gpus=case.truth.gpus,
        node=case.node,
        starts=starts,
        peak_w=float(sim.clock[st.C_PEAK_W]),
        windows_over=int(sim.clock[st.C_OVER]),
        seconds=process_time() - began,
        sentences=tuple(slow.sentences),
        ratios=_ratios(sim) if policy.local.kind == OURS else (nan, nan),
        low_requests=float(sim.clock[st.C_LOW]),
        low_touched=float(sim.clock[st.C_TOUCHED]),
        braked_s=float(sim.clock[st.C_BRAKED_S]),
        minutes=np.array(minutes),
        span_s=whole + 60.0,
    )


def _ratios(sim: Sim) -> tuple[float, float]:
    live = sim.state != OFF
    if not live.any():
        return nan, nan
    return float(sim.ctl[live, S_DECODE].mean()), float(sim.ctl[live, S_PREFILL].mean())


def apply(sim: Sim, want: int, now_s: float, boot_s: float, first_x: float = 1.0) -> int:
    """Brings the number of serving replicas to `want`: drained ones first, then a boot. Nodes fill from the left."""
    serving = np.flatnonzero((sim.state == ON) | (sim.state == LOADING))
    if want < len(serving):
        for r in serving[::-1][: len(serving) - want]:
            sim.state[r] = OFF if sim.state[r] == LOADING else DRAINING
        return 0
    missing = want - len(serving)
    for r in np.flatnonzero(sim.state == DRAINING)[:missing]:
        sim.state[r] = ON
        missing -= 1
    booted = np.flatnonzero(sim.state == OFF)[: max(missing, 0)]
    for r in booted:
        sim.state[r] = LOADING
        sim.ready_s[r] = now_s + boot_s
        sim.t[r] = now_s
        sim.x[r] = first_x
        sim.next_x[r] = -1.0
    return len(booted)


def _default_clocks(local: Local, plant: Plant) -> Local:
    tune = local.tune._replace(chunk_min=plant.chunk_tokens, chunk_max=plant.chunk_tokens)
    return local._replace(min_x=1.0, tune=tune)


class _Slow:
    """The replica policy of a run."""

    def __init__(self, case: Case, policy: Policy, machine: Any) -> None:
        self._case, self._policy = case, policy
        self._machine = machine
        self._planner = self._planner_of(case.belief)
        self._wall_j = 0.0
        self._load = LoadMemory()
        if policy.mode == "perfect":
            assert case.history is not None
            perfect = _Perfect(z=0.0)
            perfect.curve, perfect.start_s, perfect.margin = case.history, case.start_s, policy.packing.z * 0.06
            self._planner.forecast = perfect
        elif policy.mode in ("planned", "template") and case.history is not None and case.start_s > 0.0:
            self._remember(case.history, case.start_s)
        if case.history is not None and case.start_s > 0.0:
            for t in np.arange(max(0.0, case.start_s - DAY_S), case.start_s, SLOW_S):
                self._load.add(float(t - case.start_s), float(case.history.at(np.array([t]))[0]))
        self._lower_since: float | None = None
        self._ewma = 0.0
        self._in, self._out = nan, nan
        self.sentences: list[str] = []

    def _planner_of(self, belief: Plant) -> ReplicaPlanner:
        policy, local = self._policy, self._policy.local
        return ReplicaPlanner(
            belief,
            policy.packing,
            Wishes(
                local.tbt_s or 1e9, local.gap_s or 1e9, local.min_x or 1.0, local.tune.chunk_min, local.tune.chunk_max
            ),
            cost_of(self._case.node, belief.gpus),
            cheapest=self._machine.cheapest,
            top_rate=self._machine.top_rate,
            bandit=ShieldedBandit(epsilon=0.05, switching=0.01, rng=random.Random(1)) if policy.learns else None,
        )

    def believe(self, belief: Plant) -> None:
        """Plans with another model from now on; what was seen of the load stays known."""
        forecast = self._planner.forecast
        self._planner = self._planner_of(belief)
        self._planner.forecast = forecast

    def _remember(self, curve: Curve, until_s: float) -> None:
        """The days before the stream, as the pool's own counters would have shown them."""
        rng = np.random.default_rng(7)
        times = np.arange(max(0.0, until_s - 7 * DAY_S), until_s, SLOW_S) + SLOW_S
        counts = rng.poisson(curve.at(times) * SLOW_S) / SLOW_S
        for t, rate in zip(times, counts, strict=True):
            self._planner.forecast.observe(float(t - until_s), float(rate), SLOW_S)

    def want(self, now_s: float, sim: Sim) -> int:
        clock = sim.clock
        arrived, tokens = float(clock[st.C_ARRIVED]), float(clock[st.C_ARRIVED_IN])
        finished, generated = float(clock[st.C_FINISHED]), float(clock[st.C_ARRIVED_OUT])
        for column in (st.C_ARRIVED, st.C_ARRIVED_IN, st.C_FINISHED, st.C_ARRIVED_OUT):
            clock[column] = 0.0
        self._load.add(now_s, arrived / SLOW_S)
        serving = int(((sim.state == ON) | (sim.state == LOADING)).sum())
        on = sim.state == ON
        running = float(sim.running[on].sum())
        seen = Seen(
            rate=arrived / SLOW_S,
            prompt_tokens=tokens / arrived if arrived else nan,
            output_tokens=generated / finished if finished else nan,
            kv_each=float(sim.kv[on].sum()) / running if running >= 1.0 else nan,
            serving=serving,
            total=self._case.replicas,
            wall_w=self._spent_w(sim),
        )
        if self._policy.mode in ("reactive", "template"):
            return self._reactive(now_s, seen)
        if self._policy.local.kind == OURS and on.any():
            decode, prefill = (float(sim.ctl[on, c].mean()) for c in (S_DECODE, S_PREFILL))
            price, met = (float(sim.ctl[on, c].mean()) for c in (S_PRICE, S_MEET))
            slack = float(np.mean([spare(row) for row in sim.ctl[on].tolist()]))
            seen = replace(seen, prefill_ratio=prefill, decode_ratio=decode, slack=slack, price_w=price, meet=met)
        decision = self._planner.step(now_s, SLOW_S, seen)
        if decision.replicas != serving and len(self.sentences) < 50:
            self.sentences.append(f"{now_s:.0f} s: {decision.reason}")
        return decision.replicas

    def rolled_back(self, now_s: float) -> int:
        """Every replica serves while default clocks must be kept."""
        self._planner.rolled_back(now_s)
        return self._case.replicas

    def followed(self, local: Local, sim: Sim) -> Local:
        """The policy's bounds at the load of the last day."""
        follow = self._policy.follow
        if follow is None:
            return local
        rates = self._load.rates()
        first, whole = follow.ttft.of(rates), follow.e2e.of(rates)
        sim.clock[st.C_LATE_S], sim.clock[st.C_LONG_S] = local.late_s * first, local.long_s * whole
        return local._replace(gap_s=local.gap_s * whole)

    def _spent_w(self, sim: Sim) -> float:
        """Watts at the wall since the last step."""
        node, hours = self._case.node, sim.hours.sum(axis=0)
        gpu = hours[st.H_GPU_J] * self._case.truth.gpus * (1.0 + node.host_per_gpu_w)
        wall_j = float(gpu + hours[st.H_HOST_J]) / node.supply_ratio
        found = (wall_j - self._wall_j) / SLOW_S
        self._wall_j = wall_j
        return found

    def _reactive(self, now_s: float, seen: Seen) -> int:
        """An operator's autoscaler: the sizing rule on the present load (reactive) or on the past's (template)."""
        share = min(1.0, SLOW_S / 600.0)
        self._in = _moved(self._in, seen.prompt_tokens, share)
        self._out = _moved(self._out, seen.output_tokens, share)
        self._ewma = seen.rate if self._ewma == 0.0 else self._ewma + 0.35 * (seen.rate - self._ewma)
        rate = max(self._ewma, seen.rate)
        if self._policy.mode == "template":
            forecast = self._planner.forecast
            forecast.observe(now_s, seen.rate, SLOW_S)
            rate = max(forecast.ahead(now_s, max(1800.0, self._case.node.boot_s)).expected, self._ewma)
        work = rate * ((self._in if self._in > 0 else 0.0) + OUTPUT_WEIGHT * (self._out if self._out > 0 else 0.0))
        want = ceil(REACTIVE_MARGIN * work / (self._policy.share * replica_rate(self._case.belief)))
        want = min(self._case.replicas, max(2, want))
        if want >= seen.serving:
            self._lower_since = None
            return want
        if self._lower_since is None:
            self._lower_since = now_s
        return want if now_s - self._lower_since >= REACTIVE_DOWN_S else seen.serving


def _moved(old: float, new: float, share: float) -> float:
    """An exponential mean that an unknown value leaves alone."""
    if not new > 0.0:
        return old
    return new if np.isnan(old) else old + share * (new - old)
