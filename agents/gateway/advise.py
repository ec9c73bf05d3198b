"""From the cluster's state to recommendations: gathers each group's facts and lets models.policy.recommend decide.

The same function answers `POST /optimize` and `eo optimize`. It reads and returns; applying is another module's matter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agents.gateway.cluster import ClusterState, PoolKey, shares
from models.control.forecast import LoadNow
from models.policy.devices import device
from models.policy.recommend import Advice, GroupFacts, Wish, recommend
from models.policy.strategies import METRICS, Strategy
from models.policy.trade import trade
from streams.contract.records import EngineReading, NodeFeatures

POWER: tuple[str, ...] = ("power_w_mean_60s", "power_w_last")
BOUNDS = ("sm_max_mhz", "limit_default_w", "limit_min_w", "limit_max_w")


class GroupKey(NamedTuple):
    """What belongs together: engines of one stack and workload on one device model; or GPUs without an engine."""

    stack: str | None
    workload: str | None
    device: str | None


@dataclass(slots=True)
class Members:
    """GPUs of one group, the hold-out beside it."""

    gpus: list[str] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    holdout: list[str] = field(default_factory=list)
    holdout_watts: list[float] = field(default_factory=list)
    engines: dict[str, LoadNow | None] = field(default_factory=dict)
    reported: dict[str, float | None] = field(default_factory=dict)
    strategies: Counter[str] = field(default_factory=Counter)
    quality: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One group's advice with the GPUs that it is for."""

    key: GroupKey
    gpus: tuple[str, ...]
    holdout_gpus: int
    power_w: float | None
    made_from: dict[str, Any]
    advice: Advice

    def as_dict(self) -> dict[str, Any]:
        """The wire form; every expected number is an estimate, whatever it was made from."""
        advice = self.advice
        return {
            "group": {"stack": self.key.stack, "workload": self.key.workload, "device": self.key.device},
            "gpus": len(self.gpus),
            "holdout_gpus": self.holdout_gpus,
            "replicas": advice.replicas,
            "feasible": advice.feasible,
            "min_sm_mhz": advice.min_sm_mhz,
            "max_sm_mhz": advice.max_sm_mhz,
            "power_cap_w": advice.power_cap_w,
            "current_w_per_gpu": _rounded(self.power_w),
            "baseline_w_per_gpu": _rounded(advice.baseline_w),
            "expected_w_per_gpu": _rounded(advice.expected_w),
            "expected_change_ratio": _rounded(advice.expected_change_ratio, 4),
            "expected_sm_mhz": _rounded(advice.expected_sm_mhz, 0),
            "expected_p99_ms": {metric: _rounded(advice.expected_p99_ms[metric]) for metric in METRICS},
            "bound_ms": {metric: _rounded(advice.bound_ms[metric]) for metric in METRICS},
            "confidence": advice.confidence,
            "confidence_reason": advice.confidence_reason,
            "reason": advice.reason,
            "quality": "estimated",
            "made_from": self.made_from,
        }


def advise(
    state: ClusterState,
    strategy: Strategy,
    wish: Wish,
    *,
    now_ns: int,
    stale_s: float,
    only: Collection[str] | None = None,
) -> list[Recommendation]:
    """Recommendations for every group with GPUs that report now; `only` narrows it to some GPUs."""
    with state.lock:
        groups = gather(state, now_ns=now_ns, stale_s=stale_s, only=only)
        facts = {key: _facts(state, key, members, now_ns) for key, members in groups.items() if members.gpus}
    return [
        Recommendation(
            key,
            tuple(groups[key].gpus),
            len(groups[key].holdout),
            one.power_w,
            shares(groups[key].quality),
            recommend(one, strategy, wish),
        )
        for key, one in sorted(facts.items(), key=lambda item: tuple(part or "" for part in item[0]))
    ]


def trades(
    state: ClusterState,
    *,
    now_ns: int,
    stale_s: float,
    only: Collection[str] | None,
    price_per_kwh: float | None,
    g_per_kwh: float | None,
) -> list[dict[str, Any]]:
    """Each group's points of energy against latency, in the wire form."""
    with state.lock:
        groups = gather(state, now_ns=now_ns, stale_s=stale_s, only=only)
        facts = {key: _facts(state, key, members, now_ns) for key, members in groups.items() if members.gpus}
    told = []
    for key, one in sorted(facts.items(), key=lambda item: tuple(part or "" for part in item[0])):
        found = trade(one, price_per_kwh=price_per_kwh, g_per_kwh=g_per_kwh)
        told.append(
            {
                "group": {"stack": key.stack, "workload": key.workload, "device": key.device},
                "gpus": one.gpus,
                "reason": found.reason,
                "quality": "estimated",
                "made_from": shares(groups[key].quality),
                "points": found.points,
            }
        )
    return told


def gather(
    state: ClusterState, *, now_ns: int, stale_s: float, only: Collection[str] | None
) -> Mapping[GroupKey, Members]:
    """Members by group, from nodes that are not stale; the caller holds the lock."""
    wanted = None if only is None else frozenset(only)
    groups: dict[GroupKey, Members] = defaultdict(Members)
    for record in state.fresh(now_ns, stale_s):
        serving = {uuid: engine for engine in record.engines for uuid in engine.gpu_uuid}
        for index, uuid in enumerate(record.uuid):
            if wanted is None or uuid in wanted:
                _place(state, groups, record, index, serving.get(uuid))
    return groups


def _place(
    state: ClusterState, groups: dict[GroupKey, Members], record: NodeFeatures, index: int, engine: EngineReading | None
) -> None:
    uuid, name = record.uuid[index], record.name[index] if record.name else None
    key = GroupKey(engine.stack if engine else None, engine.workload if engine else None, name)
    members, view = groups[key], state.live.view(record.node)
    watts = _first(record, index)
    if view.group.get(uuid) == "hold-out":
        members.holdout.append(uuid)
        members.holdout_watts += [] if watts is None else [watts]
        return
    members.gpus.append(uuid)
    members.watts += [] if watts is None else [watts]
    members.quality[record.quality] += 1
    if record.device is not None and not members.reported:
        columns = {name: getattr(record.device, name) for name in BOUNDS}
        members.reported = {name: None if column is None else column[index] for name, column in columns.items()}
    if view.group.get(uuid) == "controlled":
        members.strategies[view.strategy] += 1
    if engine is not None:
        known = state.engines.get(engine.engine)
        members.engines[engine.engine] = None if known is None else known.load


def _first(record: NodeFeatures, index: int) -> float | None:
    for name in POWER:
        column = record.features.get(name)
        if column is not None and column[index] is not None:
            return column[index]
    return None


def _facts(state: ClusterState, key: GroupKey, members: Members, now_ns: int) -> GroupFacts:
    second = now_ns // 1_000_000_000
    base = state.pools.get(PoolKey(key.stack or "", key.workload or "", "hold-out"))
    own = state.pools.get(PoolKey(key.stack or "", key.workload or "", "controlled"))
    return GroupFacts(
        stack=key.stack or "",
        workload=key.workload or "",
        device=device(key.device, members.reported),
        loads=list(members.engines.values()),
        gpus=len(members.gpus),
        power_w=_mean(members.watts),
        holdout_w=_mean(members.holdout_watts),
        holdout_p99_ms={m: None if base is None else base.p99_ms(m, second) for m in METRICS},
        holdout_samples={m: 0 if base is None else base.samples(m, second) for m in METRICS},
        p99_ms={m: None if own is None else own.p99_ms(m, second) for m in METRICS},
        strategy_in_force=members.strategies.most_common(1)[0][0] if members.strategies else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def totals(found: Sequence[Recommendation]) -> dict[str, Any]:
    """The cluster's sum over groups whose expectation is known, and how many GPUs are left out of it."""
    known = [one for one in found if one.advice.expected_w is not None and one.advice.baseline_w is not None]
    baseline = sum((one.advice.baseline_w or 0.0) * len(one.gpus) for one in known)
    expected = sum((one.advice.expected_w or 0.0) * len(one.gpus) for one in known)
    return {
        "baseline_w": round(baseline, 1) if known else None,
        "expected_w": round(expected, 1) if known else None,
        "gpus_counted": sum(len(one.gpus) for one in known),
        "gpus_unknown": sum(len(one.gpus) for one in found if one not in known),
        "quality": "estimated",
    }
