"""`GET /v1/stream`: server-sent events: a tick a second, commands, anomalies and alerts as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final

from fastapi import APIRouter, Header
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from agents.gateway.access import CallerDep, Gate, guarded
from agents.gateway.context import ContextDep
from agents.gateway.problems import Problem, declared
from agents.gateway.push import Client, Hub

router = APIRouter(route_class=guarded("read"), tags=["stream"])
HEARTBEAT_S: Final = 10
ERRORS = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "events tick, command, anomaly, alert, gap; comments as heartbeats",
    },
    **declared(401, 403, 422, 429),
}


@router.get("/v1/stream", response_class=Response, responses=ERRORS)
async def stream(
    request: Request,
    context: ContextDep,
    caller: CallerDep,
    last_event_id: Annotated[
        str | None, Header(max_length=80, description="id of the last event that was seen")
    ] = None,
) -> Response:
    """Events until the client goes. With Last-Event-ID what is remembered comes first; a `gap` says what is not."""
    client = context.hub.join(asyncio.get_running_loop(), last_event_id)
    if client is None:
        raise Problem(
            429,
            f"{context.hub.clients} clients listen already ({context.settings.stream_clients} may).",
            fix="raise EO_GATEWAY_STREAM_CLIENTS, or close one",
            headers={"Retry-After": "30"},
        )
    gate: Gate = request.app.state.gate
    pieces = _events(context.hub, client, lambda: gate.stands(caller))
    return EventSourceResponse(pieces, ping=HEARTBEAT_S, headers={"Cache-Control": "no-store"})


async def _events(hub: Hub, client: Client, stands: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Until the client goes or its key ends; a tick comes every second, so that is noticed soon."""
    try:
        yield ServerSentEvent(comment="energy orchestrator", retry=2000).encode()
        while stands():
            # In one piece: many small writes to a client that has just gone would each be complained about.
            if piece := chunk(hub, client):
                yield piece
            await client.bell.wait()
    finally:
        hub.leave(client)


def chunk(hub: Hub, client: Client) -> bytes:
    """All that waits for a client, as it goes over the wire; first of all what it missed."""
    dropped, events = hub.take(client)
    pieces = []
    if dropped:
        known = dropped if dropped > 0 else "null"  # null: how many cannot be known
        pieces.append(ServerSentEvent(event="gap", data=f'{{"events_missed":{known}}}').encode())
    pieces += [ServerSentEvent(event=one.kind, id=hub.id_of(one), data=one.data).encode() for one in events]
    return b"".join(pieces)
