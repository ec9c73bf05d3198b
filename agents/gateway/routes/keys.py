"""`GET /v1/keys`, `DELETE /v1/keys/{id}`: an administrator sees and ends keys; `eo keys add` makes them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from agents.cli.base import EoError
from agents.gateway.access import guarded
from agents.gateway.answers import answer
from agents.gateway.context import ContextDep
from agents.gateway.keys import StoredKey
from agents.gateway.problems import Problem, declared, nearest
from agents.gateway.shapes import KeyRow, Keys

router = APIRouter(route_class=guarded("admin"), tags=["keys"])


@router.get("/v1/keys", response_model=Keys, responses=declared(401, 403, 429, 503))
async def keys(context: ContextDep) -> Response:
    """All keys with role, end and state. Never their text: it is not kept."""
    now = context.wall_ns()
    return answer({"items": [row(key, now) for key in context.keys.all()]})


@router.delete("/v1/keys/{key_id}", response_model=KeyRow, responses=declared(401, 403, 404, 422, 429, 503))
async def revoke(context: ContextDep, key_id: Annotated[str, Path(min_length=1, max_length=64)]) -> Response:
    """Ends a key at once."""
    known = {key.id for key in context.keys.all()}
    if key_id not in known:
        raise Problem(404, f"there is no key {key_id!r}.", fix=nearest(key_id, known))
    try:
        ended = context.keys.revoke(key_id, now_ns=context.wall_ns())
    except EoError as error:
        raise Problem(503, str(error), fix="see the gateway's log") from error
    return answer(row(ended, context.wall_ns()))


def row(key: StoredKey, now_ns: int) -> dict[str, object]:
    """A key as it is shown: without its hash."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "created_ns": key.created_ns,
        "expires_ns": key.expires_ns,
        "state": key.state(now_ns),
    }
