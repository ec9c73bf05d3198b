"""The HTTP connection with bounds that uvicorn lacks: who sends no whole request, or reads no answer, is let go.

uvicorn counts silent connections against its limit and never ends one that has not asked: a thousand of them would shut
everybody else out. Here a request must be whole within some seconds, and of the connections that wait for one the
oldest make room for new ones. What an answer is, is none of its business.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S: Final = 15.0  # from the first byte, or the connection, to the end of the request
WRITE_S: Final = 30.0  # an answer that is not read for so long
MOST_WAITING: Final = 500
LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/problem+json\r\nConnection: close\r\n\r\n"
    b'{"type":"/docs#408","title":"Request Timeout","status":408,"detail":"the request was not whole within %d s.",'
    b'"fix":"send it in one piece"}'
)


class Bounded(H11Protocol):
    """One connection. The bounds are class attributes, so that tests may make their own."""

    request_s: float = REQUEST_S
    write_s: float = WRITE_S
    most_waiting: int = MOST_WAITING

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request: asyncio.TimerHandle | None = None
        self._write: asyncio.TimerHandle | None = None
        state = self.server_state
        if not hasattr(state, "waiting"):
            state.waiting = OrderedDict()  # type: ignore[attr-defined]  # shared by the connections of one server
        self._waiting: OrderedDict[Bounded, None] = state.waiting  # type: ignore[attr-defined]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._wait()

    def _wait(self) -> None:
        """A request is awaited from now on; the connection that has waited longest makes room."""
        self._stop_waiting()
        self._request = self.loop.call_later(self.request_s, self._late)
        self._waiting[self] = None
        while len(self._waiting) > self.most_waiting:
            oldest, _ = self._waiting.popitem(last=False)
            oldest.transport.abort()

    def _stop_waiting(self) -> None:
        if self._request is not None:
            self._request.cancel()
            self._request = None
        self._waiting.pop(self, None)

    def _late(self) -> None:
        self._waiting.pop(self, None)
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(LATE % int(self.request_s))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_waiting()
        elif self._request is None:  # a further request on a connection that is kept; its bytes extend no time
            self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write is None:
            self._write = self.loop.call_later(self.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write is not None:
            self._write.cancel()
            self._write = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._write is not None:
            self._write.cancel()
            self._write = None
        super().connection_lost(exc)
