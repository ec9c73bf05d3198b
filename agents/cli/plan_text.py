"""The slow controller's plan in words, for `eo status` and `eo explain`. Plain dictionaries in, lines out; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Plan = Mapping[str, Any]


def status_lines(plans: Sequence[Plan]) -> list[str]:
    """A line per pool, row and learner, and one for the PID and for price and carbon."""
    lines: list[str] = []
    for plan in plans:
        lines += [f"replicas   {_pool_name(pool)}: {_replicas(pool)}" for pool in _list(plan, "pools")]
        lines += [f"row        {row.get('reason', '')}" for row in _list(plan, "rows")]
        lines += [f"learning   {_pool_name(one)}: {_gate(one)}" for one in _list(plan, "learning")]
        lines += [f"pid        {_pid(plan['pid'])}"] if isinstance(plan.get("pid"), Mapping) else []
        lines += _tariff(plan.get("tariff"))
    return lines


def explain_lines(plans: Sequence[Plan], *, engine_pools: Sequence[tuple[str, str]]) -> list[str]:
    """What the plan says of some pools, by stack and workload, and of rows and the PID, which bear on every GPU."""
    lines: list[str] = []
    for plan in plans:
        for pool in _list(plan, "pools"):
            if (pool.get("stack"), pool.get("workload")) in engine_pools:
                lines.append(f"Replicas of {_pool_name(pool)}: {_replicas(pool)} {pool.get('note', '')}".rstrip())
        for one in _list(plan, "learning"):
            if (one.get("stack"), one.get("workload")) in engine_pools:
                lines.append(f"Learned set points: {_gate(one)}")
        lines += [str(row.get("reason", "")) for row in _list(plan, "rows")]
        if isinstance(plan.get("pid"), Mapping):
            lines.append(f"PID: {_pid(plan['pid'])}.")
    return list(dict.fromkeys(lines))


def _list(plan: Plan, name: str) -> list[Mapping[str, Any]]:
    found = plan.get(name)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _pool_name(pool: Mapping[str, Any]) -> str:
    simulated = ", simulated" if pool.get("quality") == "simulated" else ""
    return f"{pool.get('stack')} ({pool.get('workload')}{simulated})"


def _replicas(pool: Mapping[str, Any]) -> str:
    want = pool.get("recommended")
    asked = "no number can be recommended" if want is None else f"{want} recommended"
    return f"{pool.get('serving')} serve, {asked}. {pool.get('reason', '')}{_intent(pool.get('intent'))}"


def _intent(intent: object) -> str:
    """Which engines may leave, a few of them by name."""
    if not isinstance(intent, Mapping):
        return ""
    words = {"drain": "to drain", "off": "may be off", "start": "to start"}
    told = []
    for do, word in words.items():
        names = [str(one.get("engine")) for one in _list(intent, "engines") if one.get("do") == do]
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            told.append(f"{word}: {', '.join(names[:4])}{more}")
    return f" Intent: {'; '.join(told)}." if told else ""


def _gate(one: Mapping[str, Any]) -> str:
    gate = one.get("gate")
    told = gate if isinstance(gate, Mapping) else {}
    acting = "acts" if one.get("acting") else "only recommends"
    return f"gate {'open' if told.get('open') else 'closed'}, {acting}. {told.get('reason', '')}"


def _pid(pid: Mapping[str, Any]) -> str:
    mean = pid.get("limit_w_mean")
    limit = "no GPU yet" if mean is None else f"{pid.get('gpus')} GPUs at {mean:.0f} W in the mean"
    return f"target {pid.get('target_w')} W, {limit} ({pid.get('kind')})"


def _tariff(tariff: object) -> list[str]:
    """Silent without a series."""
    if not isinstance(tariff, Mapping):
        return []
    price, grams = tariff.get("price_per_kwh"), tariff.get("g_per_kwh")
    parts = [] if price is None else [f"{price:g} {tariff.get('currency')}/kWh"]
    parts += [] if grams is None else [f"{grams:g} g CO2e/kWh"]
    return [f"tariff     {', '.join(parts)}: a watt weighs {tariff.get('weight', 1.0):.2f}"] if parts else []
