"""Rows of nodes and GPUs as the API shows them, made from the cluster's state at most twice a second.

A node that is silent for too long keeps its row and its age, but loses its numbers: an old number is no number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agents.cli.live import NodeView
from agents.cli.placement import Place
from agents.gateway.cluster import METRICS, ClusterState, PoolKey, shares
from agents.gateway.placements import NOBODY
from streams.contract.records import NodeFeatures

EVERY_S: Final = 0.5
GROUPS: Final = ("controlled", "hold-out", "default")
SHOWN: Final = ("power_w_mean_60s", "util_ratio_mean_60s", "sm_mhz_mean_60s", "throttle_ratio_60s", "waste_w")


@dataclass(frozen=True, slots=True)
class Picture:
    """One moment: rows of nodes by name, of GPUs by UUID, and the cluster's totals."""

    ts_ns: int
    nodes: list[dict[str, Any]]
    gpus: list[dict[str, Any]]
    totals: dict[str, Any]


class Views:
    """Keeps the newest picture for half a second."""

    def __init__(
        self,
        state: ClusterState,
        places: Callable[[], Mapping[str, Place]],
        *,
        stale_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._places, self._stale_s, self._monotonic = state, places, stale_s, monotonic
        self._kept: tuple[float, Picture] | None = None

    def picture(self) -> Picture:
        now = self._monotonic()
        if self._kept is not None and now - self._kept[0] < EVERY_S:
            return self._kept[1]
        with self._state.lock:
            made = draw(self._state, self._places(), self._state.wall_ns(), self._stale_s)
        self._kept = (now, made)
        return made

    def forget(self) -> None:
        """The next question draws anew; for tests and after a change that must show."""
        self._kept = None


def draw(state: ClusterState, places: Mapping[str, Place], now_ns: int, stale_s: float) -> Picture:
    """The picture of this moment; the caller holds the lock."""
    nodes, gpus = [], []
    for name in sorted(state.latest):
        record, view = state.latest[name], state.live.view(name)
        stale = now_ns - record.window_end_ns > stale_s * 1e9
        rows = _gpu_rows(record, view, places, now_ns, stale=stale)
        gpus += rows
        nodes.append(_node_row(record, view, rows, now_ns, stale=stale))
    gpus.sort(key=lambda row: str(row["uuid"]))
    return Picture(now_ns, nodes, gpus, _totals(state, gpus, now_ns))


def _gpu_rows(
    record: NodeFeatures, view: NodeView, places: Mapping[str, Place], now_ns: int, *, stale: bool
) -> list[dict[str, Any]]:
    engine_of = {uuid: engine for engine in record.engines for uuid in engine.gpu_uuid}
    columns = {name: record.features.get(name) for name in SHOWN}
    power = record.features.get("power_w_last")
    rows = []
    for index, uuid in enumerate(record.uuid):
        engine = engine_of.get(uuid)
        row = {
            "uuid": uuid,
            "node": record.node,
            "name": record.name[index] if record.name else None,
            "group": view.group.get(uuid, "default"),
            "namespace": places.get(uuid, NOBODY).namespace,
            "pod": places.get(uuid, NOBODY).pod,
            "engine": engine.engine if engine else None,
            "stack": engine.stack if engine else None,
            "workload": engine.workload if engine else None,
            "power_w": None if stale or power is None else power[index],
            "limit_w": view.limit_w.get(uuid),
            "lock_mhz": view.lock_mhz.get(uuid),
            "previous_limit_w": view.previous_limit_w.get(uuid),
            "capped": view.capped(uuid),
            "age_s": _age_s(record, now_ns),
            "stale": stale,
            "quality": record.quality,
        }
        row.update((name, None if stale or column is None else column[index]) for name, column in columns.items())
        rows.append(row)
    return rows


def _node_row(
    record: NodeFeatures, view: NodeView, gpus: list[dict[str, Any]], now_ns: int, *, stale: bool
) -> dict[str, Any]:
    known = [row["power_w"] for row in gpus if row["power_w"] is not None]
    groups = Counter(row["group"] for row in gpus)
    return {
        "node": record.node,
        "gpus": len(gpus),
        "power_w": round(sum(known), 3) if known else None,
        "gpus_power_unknown": len(gpus) - len(known),
        "mode": view.mode,
        "strategy": view.strategy,
        "reason": view.reason,
        "lease_left_s": round((view.lease_end_ns - now_ns) / 1e9, 1) if view.lease_end_ns else None,
        "last_event": view.last_event,
        "last_status": view.last_status,
        "capped": sum(row["capped"] for row in gpus),
        **{f"gpus_{group.replace('-', '')}": groups.get(group, 0) for group in GROUPS},
        "age_s": _age_s(record, now_ns),
        "stale": stale,
        "quality": record.quality,
    }


def _age_s(record: NodeFeatures, now_ns: int) -> float:
    return round(max(0.0, (now_ns - record.window_end_ns) / 1e9), 3)


def _totals(state: ClusterState, gpus: list[dict[str, Any]], now_ns: int) -> dict[str, Any]:
    second = now_ns // 1_000_000_000
    return {
        **_power(gpus),
        "groups": {group: _group(state, group, gpus, second) for group in GROUPS},
        "capped": sum(row["capped"] for row in gpus),
        "loop_ms_p50": _rounded(state.live.loop_quantile_ms(0.5)),
        "loop_ms_p99": _rounded(state.live.loop_quantile_ms(0.99)),
    }


def _power(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    every = list(rows)
    known = [row for row in every if row["power_w"] is not None]
    return {
        "gpus": len(every),
        "gpus_power_unknown": len(every) - len(known),
        "power_w": round(sum(row["power_w"] for row in known), 3) if known else None,
        "power_w_per_gpu": round(sum(row["power_w"] for row in known) / len(known), 3) if known else None,
        **shares(Counter(row["quality"] for row in known)),
    }


def _group(state: ClusterState, group: str, gpus: list[dict[str, Any]], second: int) -> dict[str, Any]:
    pools = [pool for key, pool in state.pools.items() if key.group == group]
    figures: dict[str, Any] = _power(row for row in gpus if row["group"] == group)
    for metric in METRICS:
        # A p99 over different stacks compares nothing: with several pools it stands with each of them only.
        figures[f"{metric}_p99_ms"] = _rounded(pools[0].p99_ms(metric, second)) if len(pools) == 1 else None
    return figures


def pools(state: ClusterState, now_ns: int) -> list[dict[str, Any]]:
    """Latency of each pool and group over the last minute; the caller holds the lock."""
    second = now_ns // 1_000_000_000
    return [_pool(key, state, second) for key in sorted(state.pools)]


def _pool(key: PoolKey, state: ClusterState, second: int) -> dict[str, Any]:
    pool = state.pools[key]
    row: dict[str, Any] = {"stack": key.stack, "workload": key.workload, "group": key.group}
    for metric in METRICS:
        row[f"{metric}_p99_ms"] = _rounded(pool.p99_ms(metric, second))
        row[f"{metric}_samples"] = pool.samples(metric, second)
    engines = [view for view in state.engines.values() if (view.reading.stack, view.reading.workload) == key[:2]]
    return row | shares(Counter(view.quality for view in engines))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
