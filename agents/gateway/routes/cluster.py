"""`GET /v1/nodes`, `/v1/gpus` and `/v1/features/{entity}`: the cluster as it is now."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from agents.cli.base import EoError
from agents.cli.features import one_of
from agents.gateway.access import guarded
from agents.gateway.answers import answer
from agents.gateway.context import Context, ContextDep
from agents.gateway.namespaces import known_names
from agents.gateway.problems import Problem, declared, nearest, shown
from agents.gateway.shapes import Features, Gpus, Name, Nodes
from streams.store.registry import feature_view

router = APIRouter(route_class=guarded("read"), tags=["cluster"])
ERRORS = declared(401, 403, 422, 429)
LimitQuery = Annotated[int, Query(ge=1, le=10_000, description="most rows of this page")]
AfterQuery = Annotated[Name | None, Query(description="`next` of the page before")]


@router.get("/v1/nodes", response_model=Nodes, responses=ERRORS)
async def nodes(context: ContextDep, limit: LimitQuery = 1000, after: AfterQuery = None) -> Response:
    """Every node that has reported since this process started, in the order of their names."""
    picture = context.views.picture()
    return answer(_page(context, picture.ts_ns, picture.nodes, "node", limit=limit, after=after))


@router.get("/v1/gpus", response_model=Gpus, responses={**ERRORS, **declared(404)})
async def gpus(
    context: ContextDep,
    limit: LimitQuery = 1000,
    after: AfterQuery = None,
    node: Annotated[Name | None, Query(description="of this node only")] = None,
    group: Annotated[Literal["controlled", "hold-out", "default"] | None, Query()] = None,
    namespace: Annotated[Name | None, Query(description="of this Kubernetes namespace only")] = None,
) -> Response:
    """GPUs with their power, limits, locks and group, in the order of their UUIDs."""
    picture = context.views.picture()
    if node is not None and node not in context.state.latest:
        raise Problem(404, f"no node {shown(node)} has reported.", fix=nearest(node, context.state.latest))
    if namespace is not None and namespace not in (known := context.placements.namespaces()):
        raise Problem(404, f"no GPU is in a namespace {shown(namespace)}.", fix=known_names(namespace, known))
    wanted = {"node": node, "group": group, "namespace": namespace}
    asked = {name: value for name, value in wanted.items() if value is not None}
    rows = [row for row in picture.gpus if all(row[name] == value for name, value in asked.items())]
    return answer(_page(context, picture.ts_ns, rows, "uuid", limit=limit, after=after))


def _page(
    context: Context, ts_ns: int, rows: list[dict[str, Any]], key: str, *, limit: int, after: str | None
) -> dict[str, Any]:
    begin = 0 if after is None else bisect_right(rows, after, key=lambda row: str(row[key]))
    page = rows[begin : begin + limit]
    following = page[-1][key] if len(rows) > begin + limit else None
    return {"cluster": context.settings.cluster, "ts_ns": ts_ns, "items": page, "next": following}


@router.get("/v1/features/{entity}", response_model=Features, responses={**ERRORS, **declared(404, 409)})
async def features(
    context: ContextDep,
    entity: Annotated[str, Path(min_length=1, max_length=200, description="a GPU's UUID or its unique beginning")],
    feature: Annotated[Name | None, Query(description="one feature only")] = None,
) -> Response:
    """The newest value of every registered feature of a GPU, with its age; an expired value is null."""
    store = context.state.store
    with context.state.lock:
        uuid = entity if store.node_of(entity) is not None else _uuid_of(entity, store.gpus())
        names = _names(feature)
        values = store.row(uuid, now_ns=context.wall_ns(), features=names)
    rows = [{**asdict(value), "unit": feature_view(value.feature).unit} for value in values]
    return answer({"cluster": context.settings.cluster, "entity": uuid, "node": store.node_of(uuid), "values": rows})


def _uuid_of(text: str, known: tuple[str, ...]) -> str:
    """The GPU whose UUID begins so; raises Problem 404 or 409."""
    try:
        uuid = one_of(text, known)
    except EoError as error:
        raise Problem(409, str(error), fix="write more of the UUID") from error
    if uuid is None:
        raise Problem(404, f"no GPU {shown(text)} has reported.", fix=nearest(text, known))
    return uuid


def _names(feature: str | None) -> list[str] | None:
    from streams.store.registry import feature_views

    known = [view.name for view in feature_views()]
    if feature is not None and feature not in known:
        raise Problem(404, f"there is no feature {shown(feature)}.", fix=nearest(feature, known))
    return None if feature is None else [feature]
