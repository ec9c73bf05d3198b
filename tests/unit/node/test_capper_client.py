"""The capper's socket from the agent's side, against a scripted server on a real Unix socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.node.capper_client import SocketCapper
from agents.node.errors import CapperUnavailable
from tests.fakes.sources import applied

Answer = Callable[[dict[str, Any]], bytes]


class Server:
    """Answers each line with `answer(request)`; `close_after` answers it hangs up."""

    def __init__(self, path: Path) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: Answer = lambda request: b'{"ok":true}'
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as lines:
                for line in lines:
                    self.requests.append(json.loads(line))
                    out = self.answer(self.requests[-1])
                    if not out:
                        break
                    client.sendall(out)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "capper.sock")
    yield made
    made.close()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[SocketCapper]:
    made = SocketCapper(tmp_path / "capper.sock", timeout_s=5)
    yield made
    made.close()


def test_raw_bytes_travel_unchanged(server: Server, client: SocketCapper) -> None:
    ack = applied("command", "applied")
    server.answer = lambda _: json.dumps({"ok": True, "ack": msgspec.to_builtins(ack)}).encode() + b"\n"
    raw = '{"node": "n1",  "reason": "grün"}'.encode()
    assert client.grant(raw, received_ns=42) == ack
    assert server.requests == [{"op": "grant", "envelope": raw.decode(), "received_ns": 42}]


def test_clocks_events_and_status(server: Server, client: SocketCapper) -> None:
    event = applied("expiry", "expired")
    answers = {
        "clocks": {"effective": {"GPU-1": 1500, "GPU-2": None}},
        "limits": {"effective": {"GPU-1": 500.0, "GPU-2": 700.0}},
        "events": {"events": [msgspec.to_builtins(event)]},
        "status": {"status": {"mode": "on"}},
    }
    server.answer = lambda request: json.dumps({"ok": True, **answers[request["op"]]}).encode() + b"\n"
    assert client.set_clocks({"GPU-1": 1500, "GPU-2": None}) == {"GPU-1": 1500, "GPU-2": None}
    assert client.set_limits({"GPU-1": 500.0, "GPU-2": None}) == {"GPU-1": 500.0, "GPU-2": 700.0}
    assert server.requests[-1] == {"op": "limits", "limits": {"GPU-1": 500.0, "GPU-2": None}}
    assert client.events() == [event]
    assert client.status() == {"mode": "on"}


def test_a_refusal_to_talk_is_said(server: Server, client: SocketCapper) -> None:
    server.answer = lambda _: b'{"ok":false,"error":"uid 7 is not allowed"}\n'
    with pytest.raises(CapperUnavailable, match="uid 7 is not allowed"):
        client.events()


def test_an_older_capper_that_knows_no_limits_costs_nothing_else(
    server: Server, client: SocketCapper, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda r: b'{"ok":false,"error":"what is limits?"}\n' if r["op"] == "limits" else b'{"ok":true}\n'
    assert client.set_limits({"GPU-1": 500.0}) == {}
    assert "what is limits?; no power limit is chosen on this node" in caplog.text


@pytest.mark.parametrize("answer", [b"", b"junk\n", b"[1]\n"])
def test_a_broken_answer_is_unavailable_and_the_next_call_connects_again(
    server: Server, client: SocketCapper, answer: bytes
) -> None:
    server.answer = lambda _: answer
    with pytest.raises(CapperUnavailable, match=r"does not answer .*start it with `eo capper`"):
        client.events()
    server.answer = lambda _: b'{"ok":true,"events":[]}\n'
    assert client.events() == []


def test_no_socket_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(CapperUnavailable, match=r"nothing\.sock does not answer"):
        SocketCapper(tmp_path / "nothing.sock").status()
