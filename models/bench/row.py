"""A row with 30 % more replicas than its breaker was sized for: a week, one-second windows, brake, who was touched.

The budget is what the first N replicas draw at their limit; the replicas beyond them serve low-priority requests and
are braked first. Every replica is always on (the hardest case for the row). Simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

from models.bench import state as st
from models.bench.compare import Comparison, hours_outside, truth_of
from models.bench.load import DAY_S, draw
from models.bench.local import LIMIT, Local
from models.bench.plantparts import Node
from models.bench.protocol import SLO_TBT_S, SLO_TTFT_S, b0, static, strategy
from models.bench.run import METRICS, Case, Outcome, Policy, run
from models.control.equations import Plant
from models.control.memory import Tuning

MORE: Final = 0.30
TICK_S: Final = 0.1


def row_budget_w(replicas: int, plant: Plant, node: Node) -> float:
    """Watts at the wall of N replicas at their limit, hosts and power supplies included."""
    each = node.host_w / node.replicas + plant.gpus * plant.limit_w * (1.0 + node.host_per_gpu_w)
    return replicas * each / node.supply_ratio


def even_limit_w(replicas: int, budget_w: float, plant: Plant, node: Node) -> float:
    """The power limit at which so many replicas together cannot exceed the budget: the sum of ceilings."""
    host = replicas * node.host_w / node.replicas
    return (budget_w * node.supply_ratio - host) / (replicas * plant.gpus * (1.0 + node.host_per_gpu_w))


@dataclass(frozen=True, slots=True)
class Row:
    """The fleet, and the fleet that shares its breaker."""

    base: Case
    more: Case
    budget_w: float


def row_of(compare: Comparison, days: float) -> Row:
    """A week's load for N replicas, and 1.3 times that load for 1.3 N of them on the same budget."""
    curve = compare.setup.curve
    assert curve is not None
    scaled, replicas, node = curve.scaled(compare.scale()), compare.replicas(), Node()
    total = ceil(replicas * (1.0 + MORE))
    share = (total - replicas) / total
    budget = row_budget_w(replicas, compare.belief, node)
    truth = truth_of("mid")
    first = draw(scaled, from_s=0.0, to_s=days * DAY_S, seed=2000)
    second = draw(scaled.scaled(total / replicas), from_s=0.0, to_s=days * DAY_S, seed=2000)
    base = Case(first, replicas, truth, compare.belief, history=scaled, budget_w=budget)
    more = replace(base, stream=second, replicas=total, low_replicas=total - replicas, low_share=share)
    return Row(base, more, budget)


def policies(compare: Comparison, row: Row) -> list[tuple[str, Case, Policy]]:
    """What is compared on the row: without any protection, by ceilings, by the brake, and with our clocks."""
    clock = replace(b0(), local=static()._replace(tick_s=TICK_S))
    bare = replace(row.more, low_replicas=0, low_share=0.0)
    limit_w = even_limit_w(row.more.replicas, row.budget_w, compare.belief, Node())
    ceilings = Local(LIMIT, TICK_S, 0.0, SLO_TBT_S, 0.0, 1.0, SLO_TBT_S, SLO_TTFT_S, 1e9, Tuning(), a=limit_w)
    base = compare.base("mid")
    found = [
        ("the fleet that the row was built for", row.base, clock),
        ("30 % more, default clocks, no protection", bare, clock),
        (f"30 % more, ceilings of {limit_w:.0f} W", bare, replace(clock, local=ceilings)),
        ("30 % more, default clocks, brake", row.more, clock),
    ]
    for name in ("balanced", "aggressive"):
        ours = replace(strategy(name, base), mode="fixed")
        found.append((f"30 % more, {name}, brake", row.more, ours))
        if name == "balanced":
            under = replace(
                row.more,
                truth=row.more.truth._replace(limit_w=limit_w),
                belief=row.more.belief._replace(limit_w=limit_w),
            )
            found.append((f"30 % more, {name} under ceilings of {limit_w:.0f} W, brake", under, ours))
    return found


def week(compare: Comparison, days: float) -> dict[str, dict[str, Any]]:
    """Every variant's windows over the budget, highest second, brake, touched requests and latency."""
    row = row_of(compare, days)
    found = {}
    for name, case, policy in policies(compare, row):
        compare.say(name)
        found[name] = result(run(case, policy), row.budget_w, days)
    return found


def result(outcome: Outcome, budget_w: float, days: float) -> dict[str, Any]:
    """One variant as numbers; ratios of low-priority requests are None where there are no classes."""
    requests, low = outcome.total(st.H_REQUESTS), outcome.low_requests
    return {
        "budget_w": budget_w,
        "days": days,
        "windows_over": outcome.windows_over,
        "peak_wall_w": outcome.peak_w,
        "braked_replica_s": outcome.braked_s,
        "low_touched_ratio": outcome.low_touched / low if low else None,
        "p99_ms": {m: 1e3 * outcome.quantile_s(m, 0.99) for m in METRICS},
        "hours_outside_slo": hours_outside(outcome),
        "missed_ratio": outcome.total(st.H_MISSED) / requests if requests else None,
        "wall_kwh": float(outcome.wall_j.sum()) / 3.6e6,
    }
