"""Energy against latency for one live group: default clocks, static locks and each strategy, as points to be compared.

Every number is the hold-out's measured value times the ratio that the controller's own equations predict at the present
load, so everything is an estimate. Without a hold-out, a profile or a load there is no point, and the reason says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.control.forecast import LoadNow
from models.control.profiles import StackProfile, profile_for
from models.policy.outlook import Outlook, outlook
from models.policy.pareto import marked
from models.policy.recommend import GroupFacts, Wish, recommend
from models.policy.replicas import NodeCost
from models.policy.strategies import METRICS, STRATEGIES, Metric

LOCKS: Final = (0.9, 0.8, 0.7, 0.6)
AXES: Final = ("gpu_w", "wall_w", "p99_ttft_ms", "p99_tbt_ms", "p99_e2e_ms")
B0: Final = "b0"


@dataclass(frozen=True, slots=True)
class Trade:
    """The points of one group, dominated ones marked; empty with a reason where nothing can be expected."""

    points: list[dict[str, Any]]
    reason: str


def trade(
    facts: GroupFacts,
    *,
    price_per_kwh: float | None = None,
    g_per_kwh: float | None = None,
    node: NodeCost | None = None,
) -> Trade:
    """Watts are of one GPU, with its share of the host at the wall; cost and carbon are per GPU and hour."""
    profile, loads = profile_for(facts.stack), [load for load in facts.loads if load is not None]
    base_w = facts.holdout_w if facts.holdout_w is not None else _own_w(facts)
    why = _missing(facts, profile, loads, base_w)
    if why or profile is None or base_w is None:
        return Trade([], why)
    known = node or NodeCost()
    made = [_point(B0, "baseline", facts, base_w, 1.0, dict.fromkeys(METRICS, 1.0), None)]
    for x in LOCKS:
        power, ratios = _at(profile, loads, x)
        made.append(_point(f"lock {x:.2f}", "lock", facts, base_w, power, ratios, _mhz(facts, profile, x)))
    for name, one in STRATEGIES.items():
        advice = recommend(facts, one, Wish())
        if advice.expected_w is not None:
            point = _point(name, "strategy", facts, advice.expected_w, 1.0, {}, advice.expected_sm_mhz)
            made.append(point | {f"p99_{m}_ms": advice.expected_p99_ms[m] for m in METRICS})
    priced = [_priced(point, known, profile.gpus, price_per_kwh, g_per_kwh) for point in made]
    return Trade(marked(priced, AXES), "The hold-out's measured values times predicted ratios at the present load.")


def _own_w(facts: GroupFacts) -> float | None:
    return facts.power_w if facts.strategy_in_force is None else None


def _missing(facts: GroupFacts, profile: StackProfile | None, loads: Sequence[LoadNow], base_w: float | None) -> str:
    if profile is None:
        return f"Nothing is known of stack {facts.stack or '(none)'} (no profile), so nothing can be predicted."
    if not loads:
        return f"None of the {len(facts.loads)} engines reports its load, so nothing can be predicted."
    if base_w is None:
        return "Neither a hold-out nor an uncontrolled group has known watts, so there is no baseline."
    if all(facts.holdout_p99_ms.get(metric) is None for metric in METRICS):
        return "The hold-out has too few samples of any latency, so there is nothing to hold watts against."
    return ""


def _at(profile: StackProfile, loads: Sequence[LoadNow], x: float) -> tuple[float, dict[Metric, float]]:
    """Watts over those at default in the mean over engines, and the worst engine's latency ratios."""
    limit_w = profile.device.limit_default_w
    pairs = [(outlook(profile, x, load, limit_w), outlook(profile, 1.0, load, limit_w)) for load in loads]
    power = sum(now.power_w for now, _ in pairs) / sum(base.power_w for _, base in pairs)
    return power, {metric: max(_ms(now, metric) / _ms(base, metric) for now, base in pairs) for metric in METRICS}


def _ms(seen: Outlook, metric: Metric) -> float:
    return {"tbt": seen.tbt_ms, "ttft": seen.ttft_ms, "e2e": seen.e2e_ms}[metric]


def _mhz(facts: GroupFacts, profile: StackProfile, x: float) -> float:
    return x * (facts.device.sm_max_mhz or profile.device.fmax_mhz)


def _point(
    name: str, kind: str, facts: GroupFacts, base_w: float, power: float, ratios: dict[Metric, float], mhz: float | None
) -> dict[str, Any]:
    point: dict[str, Any] = {"name": name, "kind": kind, "sm_mhz": mhz, "gpu_w": base_w * power}
    for metric in METRICS:
        p99, ratio = facts.holdout_p99_ms.get(metric), ratios.get(metric)
        point[f"p99_{metric}_ms"] = None if p99 is None or ratio is None else p99 * ratio
    return point


def _priced(
    point: dict[str, Any], node: NodeCost, gpus: int, price_per_kwh: float | None, g_per_kwh: float | None
) -> dict[str, Any]:
    host_w = node.host_w / (node.replicas * gpus)
    wall_w = (point["gpu_w"] * (1.0 + node.host_per_gpu_w) + host_w) / node.supply_ratio
    kwh = wall_w / 1e3
    return point | {
        "wall_w": wall_w,
        "cost_per_h": None if price_per_kwh is None else kwh * price_per_kwh,
        "carbon_g_per_h": None if g_per_kwh is None else kwh * g_per_kwh,
    }
