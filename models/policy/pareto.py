"""Energy, cost and carbon against latency: every policy a point, the dominated ones marked. For bench and API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

AXES: Final = ("gpu_joules", "wall_joules", "p99_ttft_ms", "p99_tbt_ms", "p99_e2e_ms")
NEAR: Final = 0.002  # relative: closer than this is equal, seeds differ by as much


def points(
    found: Mapping[str, Any], *, price_per_kwh: float | None = None, g_per_kwh: float | None = None
) -> list[dict[str, Any]]:
    """One point per policy of a report of `eo bench control`; cost and carbon are null without a price and a factor."""
    rows: dict[str, Any] = {**found["baselines"], **found["results"]}
    rows |= {rival["name"]: rival for rival in found["rivals"]}
    made = []
    for name, row in rows.items():
        wall = row["wall_joules_per_request"]
        kwh = None if wall is None else wall / 3.6e6
        made.append(
            {
                "name": name,
                "gpu_joules": row["joules_per_request"],
                "wall_joules": wall,
                **{f"p99_{m}_ms": row["p99_ms"][m] for m in ("ttft", "tbt", "e2e")},
                "cost": None if kwh is None or price_per_kwh is None else kwh * price_per_kwh,
                "carbon_g": None if kwh is None or g_per_kwh is None else kwh * g_per_kwh,
                "extrapolated_ratio": row["extrapolated_ratio"],
            }
        )
    return made


def front(
    found: Mapping[str, Any], *, price_per_kwh: float | None = None, g_per_kwh: float | None = None
) -> list[dict[str, Any]]:
    """The points with `dominated_by`: the name of a policy that is no worse on every axis and better on one."""
    return marked(points(found, price_per_kwh=price_per_kwh, g_per_kwh=g_per_kwh))


def marked(made: Sequence[dict[str, Any]], axes: Sequence[str] = AXES) -> list[dict[str, Any]]:
    """Any points with `dominated_by`; one that is unknown on an axis neither dominates nor is dominated."""
    return [point | {"dominated_by": _dominator(point, made, axes)} for point in made]


def _dominator(point: Mapping[str, Any], others: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> str | None:
    return next((str(o["name"]) for o in others if o is not point and _dominates(o, point, axes)), None)


def _dominates(a: Mapping[str, Any], b: Mapping[str, Any], axes: Sequence[str]) -> bool:
    pairs = [(a[axis], b[axis]) for axis in axes]
    if any(x is None or y is None for x, y in pairs):
        return False
    no_worse = all(x <= y * (1.0 + NEAR) for x, y in pairs)
    return no_worse and any(x < y * (1.0 - NEAR) for x, y in pairs)
