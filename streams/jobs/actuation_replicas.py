"""One replica plan per pool from live counters. It recommends: no command of the contract starts or stops an engine.

What it cannot know (no profile, no rate, no hold-out) it says; capacity is never given away blindly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, isfinite, nan, sqrt
from typing import Any, Final

from models.control.equations import Plant
from models.control.predict import plant_of
from models.control.profiles import profile_for
from models.control.steady import Flow, steady, top_rate
from models.policy.packings import PACKINGS
from models.policy.parking import Parking
from models.policy.pid import BatchBounds
from models.policy.replicas import Decision, NodeCost, Packing, ReplicaPlanner, Seen, Wishes
from models.policy.strategies import DEEPEST_SM_RATIO, Strategy
from models.policy.tariff import Now
from streams.jobs.actuation_latency import LatencyPools, Pool
from streams.jobs.actuation_load import PoolLoad

UNBOUNDED_S: Final = 1e9
CROWD: Final = 16.0  # sequences beside which a dense replica prefills
LEARN_SHARE: Final = 0.05  # of a step's evidence on how fast the stack really is
RATIO: Final = (0.5, 2.0)
NOBODY_ACTS: Final = (
    "No command of this release starts or stops a replica: it is for your autoscaler or for a human, "
    "`eo status` and GET /v1/plan show it, and `intent` names the engines."
)
LEASE_STEPS: Final = 3.0  # an intent that was not renewed for so many slow steps binds nobody any more
LEAST_LEASE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What the operator says about replicas."""

    min_warm: int
    replicas_max: int | None
    batch: BatchBounds


@dataclass(slots=True)
class _Planned:
    planner: ReplicaPlanner
    parking: Parking
    target: int | None = None  # what was decided last: replicas leave one by one, so it takes a while to come true
    decode_ratio: float = 1.0  # from the hold-out's gaps: used while no node tells its own


class ReplicaPlans:
    """All pools of this worker."""

    def __init__(self, strategy: Strategy, options: ReplicaOptions, latency: LatencyPools) -> None:
        self._strategy, self._options, self._latency = strategy, options, latency
        self._plans: dict[Pool, _Planned] = {}
        self._memory: dict[str, Mapping[str, object]] = {}
        self._parked: dict[str, list[list[Any]]] = {}

    def recall(self, memory: Mapping[str, Mapping[str, object]], parked: Mapping[str, list[list[Any]]]) -> None:
        """What an earlier process had seen of each pool's rate, and which engines it had asked to leave."""
        self._memory, self._parked = dict(memory), dict(parked)

    def parked(self) -> dict[str, list[list[Any]]]:
        return {_key(pool): rows for pool, one in self._plans.items() if (rows := one.parking.remember())}

    def gpus_off(self, loads: Mapping[Pool, PoolLoad]) -> set[str]:
        """GPUs of engines that may be off, over all pools."""
        pairs = ((self._plans[pool].parking, load) for pool, load in loads.items() if pool in self._plans)
        return {uuid for parking, load in pairs for uuid in parking.gpus_off(load.replicas)}

    def remember(self) -> dict[str, dict[str, object]]:
        return {_key(pool): one.planner.forecast.remember() for pool, one in self._plans.items()}

    def step(
        self, now_s: float, span_s: float, pool: Pool, load: PoolLoad, tariff: Now, *, lease_s: float = LEAST_LEASE_S
    ) -> dict[str, Any]:
        """The pool's plan as it is published: one sentence, its fields, and whether anybody acts on it."""
        base: dict[str, Any] = {
            "stack": pool.stack,
            "workload": pool.workload,
            "serving": load.serving,
            "known_engines": load.known,
            "quality": load.quality,
            "executed": False,
            "note": NOBODY_ACTS,
        }
        if profile_for(pool.stack) is None:
            why = f"Nothing is known of stack {pool.stack} (no profile), so no number of replicas can be recommended."
            return base | {"recommended": None, "reason": why, "fields": {}, "batch": None, "intent": None}
        planned = self._plan(now_s, pool, load)
        seen = self._seen(planned, pool, load, tariff)
        if load.learned.rolled_back:
            planned.planner.rolled_back(now_s)
        decision = planned.planner.step(now_s, span_s, seen)
        told = self._told(planned.planner, decision, seen, tariff, load)
        return base | told | {"intent": self._intent(now_s, planned, decision, load, lease_s)}

    def _intent(
        self, now_s: float, planned: _Planned, decision: Decision, load: PoolLoad, lease_s: float
    ) -> dict[str, Any]:
        """Which engines may drain or go off, and until when that holds: to be followed, never executed here."""
        parking, floor = planned.parking, decision.fields.get("least")
        least = max(self._options.min_warm, ceil(floor)) if floor is not None and isfinite(floor) else None
        planned.target = None if least is None else max(least, decision.replicas)
        parking.step(now_s, load.replicas, None if least is None else decision.replicas, least or 0)
        held = parking.held_until_s if parking.held_until_s > now_s else None
        return {
            "serve": planned.target,
            "lease_until_ns": int((now_s + max(lease_s, LEAST_LEASE_S)) * 1e9),
            "hold_off_until_ns": None if held is None else int(held * 1e9),
            "changed_ns": None if parking.changed_s is None else int(parking.changed_s * 1e9),
            "engines": [
                {"engine": engine, "node": mark.node, "do": mark.do, "since_ns": int(mark.since_s * 1e9)}
                for engine, mark in sorted(parking.marks.items())
            ],
            "reason": parking.reason,
        }

    def _plan(self, now_s: float, pool: Pool, load: PoolLoad) -> _Planned:
        if pool not in self._plans:
            profile = profile_for(pool.stack)
            assert profile is not None
            plant = plant_of(profile)
            per_node = max(1, round(load.serving / max(load.nodes, 1)))
            wishes = self._wishes(pool, plant, load, 1.0)
            planner = ReplicaPlanner(plant, self._packing(), wishes, NodeCost(replicas=per_node))
            planner.forecast.recall(self._memory.get(_key(pool), {}))
            self._plans[pool] = _Planned(planner, Parking())
            if rows := self._parked.get(_key(pool)):
                self._plans[pool].parking.recall(rows, now_s)
        return self._plans[pool]

    def _wishes(self, pool: Pool, plant: Plant, load: PoolLoad, decode_ratio: float) -> Wishes:
        """The bounds in the model's own seconds: what it expects of default clocks, as densely packed as the strategy
        allows, times how far the hold-out's p99 may be passed. Nothing may be passed where that is unknown."""
        prompt, output, kv = load.prompt_tokens or 1.0, load.output_tokens or 0.0, load.kv_each or 0.0
        prefill_ratio = 1.0 if load.learned.prefill_ratio is None else load.learned.prefill_ratio
        # With what is learned of the stack, or a slow one would miss its own bounds at default clocks.
        idle = Flow(0.0, 0.0, kv or prompt * 1.2, decode_ratio, prefill_ratio)
        prompts = self._packing().busy_upper * top_rate(plant, idle, plant.chunk_tokens, CROWD)
        flow = idle._replace(prompt_rate=prompts, output_rate=prompts / prompt * output)
        dense = steady(plant, flow, 1.0, plant.chunk_tokens)
        base, target = self._latency.p99(pool, "holdout", "tbt"), self._latency.target_ms(pool, "tbt")
        far = 1.0 if base is None or target is None or base <= 0.0 else max(1.0, target / base)
        e2e = self._strategy.e2e
        return Wishes(
            tbt_s=far * max(dense.mixed_s, dense.decode_s),
            gap_s=UNBOUNDED_S if e2e.ratio is None else dense.gap_s * e2e.ratio,
            min_x=max(DEEPEST_SM_RATIO, self._strategy.sm_floor_ratio),
            chunk_min=0.0,
            chunk_max=0.0,
        )

    def _packing(self) -> Packing:
        return replace(PACKINGS[self._strategy.name], min_warm=self._options.min_warm)

    def _seen(self, planned: _Planned, pool: Pool, load: PoolLoad, tariff: Now) -> Seen:
        self._learn(planned, pool, load)
        told = load.learned
        decode_ratio = planned.decode_ratio if told.decode_ratio is None else told.decode_ratio
        planned.planner.aim(self._wishes(pool, planned.planner.plant, load, decode_ratio))
        total = max(self._options.replicas_max or load.ever, load.serving, 1)
        return Seen(
            rate=nan if load.rate is None else load.rate,
            prompt_tokens=nan if load.prompt_tokens is None else load.prompt_tokens,
            output_tokens=nan if load.output_tokens is None else load.output_tokens,
            kv_each=nan if load.kv_each is None else load.kv_each,
            serving=self._intended(planned, load),
            total=total,
            decode_ratio=decode_ratio,
            prefill_ratio=1.0 if told.prefill_ratio is None else told.prefill_ratio,
            slack=nan if told.slack is None else told.slack,
            price_w=nan if told.wait_price_w is None else told.wait_price_w,
            meet=1.0 if told.meet is None else told.meet,
            weight=tariff.weight,
        )

    @staticmethod
    def _intended(planned: _Planned, load: PoolLoad) -> int:
        """Replicas as decided: who was asked to leave counts as gone, or the planner would decide it anew each time."""
        left = load.serving - planned.parking.away(load.replicas)
        return left if planned.target is None else min(planned.target, load.serving)

    def _learn(self, planned: _Planned, pool: Pool, load: PoolLoad) -> None:
        """How long a gap of the hold-out, at default clocks, is over what the profile expects of it."""
        mean, profile = self._latency.mean_ms(pool, "holdout", "tbt"), profile_for(pool.stack)
        parts = (load.rate, load.prompt_tokens, load.output_tokens, load.kv_each, mean)
        if profile is None or load.serving == 0 or any(part is None or not part > 0.0 for part in parts):
            return
        rate, prompt, output, kv, gap_ms = (float(part or 0.0) for part in parts)
        each = rate / load.serving
        plant = plant_of(profile)
        expected = steady(plant, Flow(each * prompt, each * output, kv, 1.0, 1.0), 1.0, plant.chunk_tokens).gap_s
        found = min(RATIO[1], max(RATIO[0], gap_ms / 1e3 / expected)) if expected > 0.0 else 1.0
        planned.decode_ratio += LEARN_SHARE * (found - planned.decode_ratio)

    def _told(
        self, planner: ReplicaPlanner, decision: Decision, seen: Seen, tariff: Now, load: PoolLoad
    ) -> dict[str, Any]:
        fields: dict[str, float | None] = {k: v if isfinite(v) else None for k, v in decision.fields.items()}
        wall_w = fields.get("wall_w")
        fields |= {
            "decode_ratio": seen.decode_ratio,
            "prefill_ratio": load.learned.prefill_ratio,
            "slack": load.learned.slack,
            "wait_price_w": load.learned.wait_price_w,
            "meet": load.learned.meet,
            "learned_engines": float(load.learned.engines),
            "weight": tariff.weight,
            "price_per_kwh": tariff.price_per_kwh,
            "g_per_kwh": tariff.g_per_kwh,
            "cost_per_h": tariff.cost_per_h(wall_w),
            "carbon_g_per_h": tariff.carbon_g_per_h(wall_w),
        }
        return {
            "recommended": decision.replicas,
            "reason": decision.reason,
            "fields": fields,
            "currency": tariff.currency,
            "batch": self._batch(planner, decision, seen),
        }

    def _batch(self, planner: ReplicaPlanner, decision: Decision, seen: Seen) -> int | None:
        """Sequences that a replica should be allowed at once: what the upper rate needs, inside BATCH_MIN and _MAX."""
        upper, plant = decision.fields.get("upper"), planner.plant
        if upper is None or not isfinite(upper) or decision.replicas < 1:
            return None
        flow = planner.flow(upper, decision.replicas, seen)
        running = steady(plant, flow, 1.0, plant.chunk_tokens).running
        return self._options.batch.within(ceil(running + 2.0 * sqrt(max(running, 0.0))))


def _key(pool: Pool) -> str:
    return f"{pool.stack}\n{pool.workload}"
