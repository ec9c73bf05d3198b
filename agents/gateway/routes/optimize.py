"""`POST /optimize`: what a strategy would do for each group, with expected watts and p99; applied when asked twice.

Applying needs a key of role operate, `apply: true` and an Idempotency-Key. Anything less only reads.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.requests import Request
from starlette.responses import Response

from agents.gateway import apply
from agents.gateway.access import Caller, CallerDep, guarded
from agents.gateway.advise import Recommendation, advise, totals
from agents.gateway.answers import answer, encode
from agents.gateway.context import Context, ContextDep
from agents.gateway.keys import allows
from agents.gateway.namespaces import gpus_of
from agents.gateway.problems import Problem, declared
from agents.gateway.shapes import OptimizeRequest, Recommendations
from models.policy.recommend import Wish
from models.policy.strategies import strategy
from streams.contract.errors import ContractError

router = APIRouter(route_class=guarded("read"), tags=["optimize"])
KeyHeader = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=128,
        pattern=r"^[!-~]+$",
        description="with apply: any fresh text; the same again is answered again",
    ),
]


@router.post(
    "/optimize",
    response_model=Recommendations,
    responses=declared(400, 401, 403, 404, 409, 413, 422, 429, 503),
)
async def optimize(
    request: Request, context: ContextDep, caller: CallerDep, asked: OptimizeRequest, idempotency_key: KeyHeader = None
) -> Response:
    """A recommendation per group, each number with its confidence and reason; everything expected is an estimate."""
    if not asked.apply:
        return answer((await _recommended(context, asked))[1])
    key = _may_apply(caller, idempotency_key)
    before = context.idempotency.begin(caller.id, key, await request.body())
    if before is not None:
        return Response(before, headers={"Idempotent-Replayed": "true"}, media_type="application/json")
    try:
        told = encode(await _applied(context, caller, asked))
    except BaseException:
        context.idempotency.failed(caller.id, key)
        raise
    context.idempotency.done(caller.id, key, told.decode())
    return Response(told, media_type="application/json")


def _may_apply(caller: Caller, key: str | None) -> str:
    if caller.role is None or not allows(caller.role, "operate"):
        raise Problem(
            403,
            f"key {caller.id!r} has role {caller.role!r}, and apply needs 'operate'.",
            fix="leave out apply to see the recommendation, or use a key of role operate",
        )
    if key is None:
        raise Problem(
            400,
            "apply needs the header Idempotency-Key, so that a repeated request does nothing twice.",
            fix="send a fresh UUID as Idempotency-Key",
        )
    return key


async def _recommended(context: Context, asked: OptimizeRequest) -> tuple[list[Recommendation], dict[str, Any]]:
    namespace, only = await gpus_of(context, asked.namespace)
    wish = Wish(asked.constraints.max_power_cap, asked.constraints.min_replicas)
    now_ns, chosen = context.wall_ns(), strategy(asked.strategy)
    found = await asyncio.to_thread(
        advise, context.state, chosen, wish, now_ns=now_ns, stale_s=context.settings.stale_s, only=only
    )
    if not found:
        raise Problem(
            409,
            f"no GPU of {namespace} that is outside the hold-out has reported for {context.settings.stale_s:g} s.",
            fix="`GET /health` says what is missing; try again when nodes is ok",
        )
    return found, {
        "cluster": context.settings.cluster,
        "namespace": namespace,
        "strategy": asked.strategy,
        "ts_ns": now_ns,
        "groups": [one.as_dict() for one in found],
        "total": totals(found),
        "applied": apply.NOT_ASKED,
    }


async def _applied(context: Context, caller: Caller, asked: OptimizeRequest) -> dict[str, Any]:
    found, told = await _recommended(context, asked)
    wanted = apply.plan(context.state, found, context.wall_ns())
    if isinstance(wanted, apply.Refused):
        raise Problem(409, wanted.why, fix=wanted.fix)

    def send() -> dict[str, Any]:
        sent = apply.words(
            wanted,
            layout=context.settings.layout,
            cluster=context.settings.cluster,
            actor=f"api/{caller.id}",
            reason=asked.reason or f"POST /optimize, {asked.strategy}",
            duration_s=asked.duration_s,
            now_ns=context.wall_ns,
            known=context.known_caps() if wanted else {},
        )
        if sent:
            context.publish(sent)
        return apply.outcome(sent, found, asked.strategy)

    try:
        return {**told, "applied": await asyncio.to_thread(send)}
    except ContractError as error:
        raise Problem(503, f"{error}.", fix="`eo config check` on the gateway's machine") from error
