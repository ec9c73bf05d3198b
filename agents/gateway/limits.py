"""ASGI layers around the application: the longest body, the count and the time of each request."""

from __future__ import annotations

import time
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agents.gateway.metrics import GatewayMetrics
from agents.gateway.problems import Problem

# Two lengths of one body: whoever stands before us may have taken the other one, and the rest for a second request.
TWO_LENGTHS: Final = Problem(
    400,
    "the request has both Content-Length and Transfer-Encoding.",
    fix="send one of them",
    headers={"Connection": "close"},
)


class BodyLimit:
    """Refuses a body above the bound, by its stated length or, without one, while it comes in."""

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if {name for name, _ in scope["headers"]} >= {b"content-length", b"transfer-encoding"}:
            await TWO_LENGTHS.response()(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self.most_bytes:
            said = f"{int(stated)} bytes" if stated.isdigit() else "a length that is no number"
            await self._too_large(said)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most_bytes:
                # As an HTTPException: of other errors while a body is read FastAPI makes a 400.
                raise HTTPException(413, self._problem(f"more than {self.most_bytes} bytes"))  # type: ignore[arg-type]
            return message

        await self.app(scope, counted, send)

    def _problem(self, said: str) -> Problem:
        return Problem(
            413,
            f"the body has {said}, and {self.most_bytes} bytes are the most.",
            fix="send a smaller body; EO_GATEWAY_BODY_MAX_BYTES raises the bound",
            headers={"Connection": "close"},
        )

    def _too_large(self, said: str) -> Any:
        return self._problem(said).response()


class Measured:
    """Counts each request by its route's template; a path that fits no route counts as "none"."""

    def __init__(self, app: ASGIApp, *, metrics: GatewayMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.seen(route, status, time.perf_counter() - began)
