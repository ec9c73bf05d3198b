"""`GET /v1/plan` and `POST /v1/pareto`: what the slow controller says, and what energy costs in latency right now."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from agents.gateway.access import guarded
from agents.gateway.advise import trades
from agents.gateway.answers import answer
from agents.gateway.context import ContextDep
from agents.gateway.namespaces import gpus_of
from agents.gateway.problems import Problem, declared
from agents.gateway.shapes import Group, MadeFrom, Name, Number, Shape

router = APIRouter(route_class=guarded("read"), tags=["plan"])
NO_PLAN = "No plan was written lately; the actuation job writes one every OPTIMIZATION_INTERVAL: `eo status`."


class Plans(Shape):
    cluster: str
    ts_ns: int
    items: list[dict[str, Any]] = Field(description="one per worker of the actuation job; docs/policy.md")
    notes: list[str]


class ParetoRequest(Shape):
    namespace: Name | None = Field(None, description="the cluster, or a Kubernetes namespace; null = the cluster")
    price_per_kwh: Annotated[float, Field(ge=-10, le=100)] | None = None
    g_per_kwh: Annotated[float, Field(ge=0, le=5000)] | None = None


class ParetoPoint(Shape):
    name: str
    kind: str
    sm_mhz: Number
    gpu_w: float
    wall_w: float
    p99_ttft_ms: Number
    p99_tbt_ms: Number
    p99_e2e_ms: Number
    cost_per_h: Number
    carbon_g_per_h: Number
    dominated_by: str | None


class ParetoGroup(Shape):
    group: Group
    gpus: int
    reason: str
    quality: str
    made_from: MadeFrom
    points: list[ParetoPoint]


class Pareto(Shape):
    cluster: str
    namespace: str
    ts_ns: int
    groups: list[ParetoGroup]


@router.get("/v1/plan", response_model=Plans, responses=declared(401, 403, 429, 503))
async def plan(context: ContextDep) -> Response:
    """Replicas, rows, learned set points and their gate, the PID, price and carbon, as the slow step wrote them."""
    now_ns = context.wall_ns()
    found = await asyncio.to_thread(context.plans.latest, now_ns)
    told = {"cluster": context.settings.cluster, "ts_ns": now_ns, "items": found, "notes": [] if found else [NO_PLAN]}
    return answer(told)


@router.post("/v1/pareto", response_model=Pareto, responses=declared(400, 401, 403, 404, 409, 413, 422, 429, 503))
async def pareto(context: ContextDep, asked: ParetoRequest) -> Response:
    """Watts against latency of each group at its present load: estimates all, dominated points marked."""
    namespace, only = await gpus_of(context, asked.namespace)
    now_ns = context.wall_ns()
    found = await asyncio.to_thread(
        trades,
        context.state,
        now_ns=now_ns,
        stale_s=context.settings.stale_s,
        only=only,
        price_per_kwh=asked.price_per_kwh,
        g_per_kwh=asked.g_per_kwh,
    )
    if not found:
        raise Problem(
            409,
            f"no GPU of {namespace} that is outside the hold-out has reported for {context.settings.stale_s:g} s.",
            fix="`GET /health` says what is missing; try again when nodes is ok",
        )
    return answer({"cluster": context.settings.cluster, "namespace": namespace, "ts_ns": now_ns, "groups": found})
