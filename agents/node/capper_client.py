"""The capper as seen from the node agent: a port, and a client of its Unix socket. No privilege lives on this side.

One JSON object per line, both ways. The raw bytes of a command travel unchanged as text: what is verified over there is
what came from Kafka.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

import msgspec

from agents.node.errors import CapperSaidNo, CapperSilent, CapperUnavailable
from streams.contract.records import PowerApplied
from streams.observe.notes import SpanNote

log = logging.getLogger(__name__)
TIMEOUT_S: Final = 2.0  # a set with three read-backs takes well below one second


Traced = tuple[PowerApplied, Sequence[SpanNote], int]  # acknowledgement, spans, the capper's pid


class CapperPort(Protocol):
    """What the control loop needs of a capper, in the same process or behind a socket."""

    def grant(self, raw: bytes, *, received_ns: int) -> PowerApplied:
        """Verifies and applies a command; every refusal is an acknowledgement with its reason, never an exception."""
        ...

    def grant_traced(self, raw: bytes, *, received_ns: int, traceparent: str) -> Traced:
        """The same, with the spans that the capper noted meanwhile and its pid."""
        ...

    def set_clocks(self, wanted: Mapping[str, int | None]) -> dict[str, int | None]:
        """Sets clock locks (MHz; None clears) inside the live lease and returns what is in force, by UUID."""
        ...

    def row_load(self, watts: float | None, age_s: float) -> bool:
        """What the row's meter says (None = nothing sound) and its age; False = this capper does not brake by it."""
        ...

    def set_limits(self, wanted: Mapping[str, float | None]) -> dict[str, float | None]:
        """Sets power limits (watts; None = the lease's ceiling) and returns what is in force, by UUID."""
        ...

    def events(self) -> list[PowerApplied]:
        """What happened unasked since the last call: expiry, restore, foreign change, not actuatable, brake."""
        ...

    def status(self) -> dict[str, object]: ...


class SocketCapper:
    """CapperPort over the capper's Unix socket; connects when first used and again after a failure.

    Raises CapperUnavailable from every call when the capper does not answer within two seconds or says no; a grant
    that was sent and not answered is asked for once more before that (CapperSilent: its outcome is unknown).
    """

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path, self._timeout_s = path, timeout_s
        self._socket: socket.socket | None = None
        self._buffer = b""

    def grant(self, raw: bytes, *, received_ns: int) -> PowerApplied:
        return msgspec.convert(self._grant(raw, received_ns=received_ns)["ack"], PowerApplied)

    def grant_traced(self, raw: bytes, *, received_ns: int, traceparent: str) -> Traced:
        answer = self._grant(raw, received_ns=received_ns, traceparent=traceparent)
        try:
            notes = msgspec.convert(answer.get("spans", []), list[SpanNote])
        except msgspec.ValidationError:
            notes = []  # an older or newer capper's: a trace must never cost a command
        return msgspec.convert(answer["ack"], PowerApplied), notes, int(answer.get("pid", 0))

    def _grant(self, raw: bytes, **more: int | str) -> dict[str, Any]:
        # Bytes that are no UTF-8 cannot carry a valid signature; the capper refuses what is left of them.
        request = {"op": "grant", "envelope": raw.decode(errors="replace"), **more}
        try:
            return self._call(request)
        except CapperSilent:
            return self._ask_again(request)

    def set_clocks(self, wanted: Mapping[str, int | None]) -> dict[str, int | None]:
        return cast("dict[str, int | None]", self._call({"op": "clocks", "wanted": dict(wanted)})["effective"])

    def row_load(self, watts: float | None, age_s: float) -> bool:
        return bool(self._call({"op": "row", "watts": watts, "age_s": age_s})["used"])

    def set_limits(self, wanted: Mapping[str, float | None]) -> dict[str, float | None]:
        try:
            return cast("dict[str, float | None]", self._call({"op": "limits", "limits": dict(wanted)})["effective"])
        except CapperSaidNo as error:
            log.warning("%s; no power limit is chosen on this node", error)  # an older capper: it knows clocks only
            return {}

    def events(self) -> list[PowerApplied]:
        return msgspec.convert(self._call({"op": "events"})["events"], list[PowerApplied])

    def status(self) -> dict[str, object]:
        return cast("dict[str, object]", self._call({"op": "status"})["status"])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def _ask_again(self, request: dict[str, Any]) -> dict[str, Any]:
        """A grant that may have been obeyed, on a fresh connection: a repeat is answered, not set twice."""
        try:
            return self._call(request)
        except CapperUnavailable as error:
            raise CapperSilent(
                f"the capper did not answer; what it did is unknown until its next event ({error})"
            ) from error

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        kind: type[CapperUnavailable] = CapperUnavailable
        try:
            self._send(json.dumps(request).encode() + b"\n")
            kind = CapperSilent
            answer = self._receive()
        except (OSError, ValueError) as error:
            self.close()
            raise kind(
                f"capper at {self._path} does not answer ({error}); start it with `eo capper`; sensing goes on"
            ) from error
        if not answer.get("ok"):
            raise CapperSaidNo(f"capper at {self._path} said: {answer.get('error', 'no reason given')}")
        return answer

    def _send(self, line: bytes) -> None:
        if self._socket is None:
            fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            fresh.settimeout(self._timeout_s)
            self._socket = fresh
            fresh.connect(str(self._path))
        self._socket.sendall(line)

    def _receive(self) -> dict[str, Any]:
        assert self._socket is not None
        while b"\n" not in self._buffer:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionError("it closed the connection")
            self._buffer += chunk
        answer, _, self._buffer = self._buffer.partition(b"\n")
        value = json.loads(answer)
        if not isinstance(value, dict):
            raise ValueError(f"its answer is a {type(value).__name__}, not an object")
        return value
