"""The capper's socket protocol: one JSON object per line, both ways. Names and shapes only, no sockets."""

from __future__ import annotations

import os
import time
from typing import Literal

import msgspec

from agents.capper.core import Capper
from streams.contract.records import PowerApplied
from streams.observe import notes
from streams.observe.proc import rss_bytes

SOCKET_NAME = "capper.sock"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `envelope` is the raw JSON text of a PowerDesired, passed on as it was signed."""

    op: Literal["grant", "clocks", "limits", "row", "events", "status", "restore"]
    envelope: str = ""
    received_ns: int = 0
    wanted: dict[str, int | None] = {}
    limits: dict[str, float | None] = {}
    watts: float | None = None  # what the row's meter says; null = nothing
    age_s: float = 0.0
    reason: str = ""
    traceparent: str = ""  # of a traced command; its spans are in the answer


class BadRequest(Exception):
    """The request makes no sense; the text is one sentence for the caller."""


_decoder = msgspec.json.Decoder(Request)


def parse(line: bytes) -> Request:
    """A request from one line. Raises BadRequest."""
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"the request is not one of the capper's: {error}") from error


def answer(capper: Capper, request: Request, events: list[PowerApplied]) -> bytes:
    """Does one request and returns its answer as a line; `events` are those not delivered yet."""
    body: dict[str, object] = {"ok": True}
    match request.op:
        case "grant":
            with notes.taking(request.traceparent) as spans:
                body["ack"] = capper.grant(request.envelope.encode(), received_ns=request.received_ns)
            body |= {"spans": spans, "pid": os.getpid()} if spans else {}
        case "clocks":
            body["effective"] = capper.set_clocks(request.wanted)
        case "row":
            body["used"] = capper.row_load(request.watts, request.age_s)
        case "limits":
            body["effective"] = capper.set_limits(request.limits)
        case "events":
            body["events"] = events
        case "status":
            body["status"] = {**capper.status(), "cpu_s": time.process_time(), "rss_bytes": rss_bytes()}
        case "restore":
            body["ack"] = capper.restore_all(request.reason or "asked for")
    return msgspec.json.encode(body) + b"\n"


def error(text: str) -> bytes:
    """The answer to what cannot be done."""
    return msgspec.json.encode({"ok": False, "error": text}) + b"\n"
