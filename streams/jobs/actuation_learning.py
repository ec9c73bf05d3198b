"""`ml-driven` in the job: one learner per pool, fed with what controlled GPUs drew over the hold-out's.

It changes nothing but the set point inside the strategy's bounds, and that only in canary, or once its gate is open.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite
from typing import Any

from models.control.predict import plant_of
from models.control.profiles import StackProfile, profile_for
from models.control.steady import Flow, steady
from models.policy.setpoints import Chosen, SetPointLearner, offered, price
from models.policy.strategies import METRICS, Metric, Strategy
from streams.contract.records import Mode
from streams.jobs.actuation_latency import LatencyPools, Pool
from streams.jobs.actuation_load import PoolLoad


class Learning:
    """All pools of this worker under one strategy."""

    def __init__(
        self, strategy: Strategy, mode: Mode, latency: LatencyPools, *, seed: Callable[[Pool], int] | None = None
    ) -> None:
        self._strategy, self._mode, self._latency = strategy, mode, latency
        self._seed = seed or (lambda pool: zlib.crc32(repr(pool).encode()))
        self._learners: dict[Pool, SetPointLearner] = {}
        self._memory: dict[str, Sequence[Sequence[Any]]] = {}
        self.chosen: dict[Pool, Chosen] = {}

    @property
    def rows(self) -> int:
        """Rows of all logs; when it changes there is something to remember."""
        return sum(len(one.rows) for one in self._learners.values())

    def recall(self, memory: Mapping[str, Sequence[Sequence[Any]]]) -> None:
        self._memory = dict(memory)

    def remember(self) -> dict[str, list[Any]]:
        return {_key(pool): list(one.rows) for pool, one in self._learners.items()}

    def step(self, now_s: float, pool: Pool, load: PoolLoad) -> bool:
        """One slow step of a pool; true when its set point changed."""
        learner = self._learner(pool)
        acting = self._mode in ("canary", "on")
        prices, busy = self._prices(pool, load)
        cost = _cost(load) if acting else None
        before = self.chosen.get(pool)
        self.chosen[pool] = chosen = learner.step(now_s, prices, busy, cost, explore=self._mode == "canary")
        return before is not None and before.point != chosen.point

    def _learner(self, pool: Pool) -> SetPointLearner:
        if pool not in self._learners:
            learner = SetPointLearner(self._strategy, rng=random.Random(self._seed(pool)))
            learner.recall(self._memory.get(_key(pool), ()))
            self._learners[pool] = learner
        return self._learners[pool]

    def _prices(self, pool: Pool, load: PoolLoad) -> tuple[list[float], float]:
        """The model's price of each point, infinite outside the shield; and the share of time in prefill."""
        points, profile = offered(self._strategy), profile_for(pool.stack)
        allowed = self._allowed(pool)
        if profile is None or load.load is None or allowed is None:
            return [inf] * len(points), 0.0
        return [price(profile, load.load, point, allowed) for point in points], _busy(profile, load)

    def _allowed(self, pool: Pool) -> dict[Metric, float] | None:
        """How far each latency may rise over the hold-out's; None while a bound has no number."""
        allowed: dict[Metric, float] = {}
        for metric in METRICS:
            base, target = self._latency.p99(pool, "holdout", metric), self._latency.target_ms(pool, metric)
            if target is not None and base is not None and base > 0.0:
                allowed[metric] = max(1.0, target / base)
            elif metric in self._strategy.required():
                return None
        return allowed

    def within(self, pool: Pool | None) -> tuple[Strategy, float, str]:
        """The strategy with the pool's set point, its propensity, and a sentence where it is not simply its own row."""
        chosen = None if pool is None else self.chosen.get(pool)
        if chosen is None or not chosen.acting:
            return self._strategy, 1.0, ""
        point = chosen.point
        own = replace(self._strategy, power_ceiling_ratio=point.ceiling_ratio, sm_floor_ratio=point.floor_ratio)
        return own, chosen.propensity, chosen.reason

    def told(self) -> list[dict[str, Any]]:
        """Each pool's set point and gate as they are published."""
        return [
            {
                "stack": pool.stack,
                "workload": pool.workload,
                "acting": self.chosen[pool].acting,
                "point": {
                    "ceiling_ratio": self.chosen[pool].point.ceiling_ratio,
                    "floor_ratio": self.chosen[pool].point.floor_ratio,
                },
                "propensity": self.chosen[pool].propensity,
                "reason": self.chosen[pool].reason,
                "gate": one.gate.as_dict(),
            }
            for pool, one in self._learners.items()
        ]


def _cost(load: PoolLoad) -> float | None:
    ours, theirs = load.power_w.get("controlled"), load.power_w.get("holdout")
    return None if ours is None or theirs is None or theirs <= 0.0 else ours / theirs


def _busy(profile: StackProfile, load: PoolLoad) -> float:
    assert load.load is not None
    plant, now = plant_of(profile), load.load
    kv_each = now.kv_tokens / now.running if now.running > 0.0 else profile.typical_prompt_tokens
    flow = Flow(now.prompt_tokens_per_s, now.running * 30.0, kv_each, 1.0, 1.0)
    busy = steady(plant, flow, 1.0, plant.chunk_tokens).busy
    return busy if isfinite(busy) else 0.0


def _key(pool: Pool) -> str:
    return f"{pool.stack}\n{pool.workload}"
