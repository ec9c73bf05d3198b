"""The socket: its mode, its peers, its bounds, and what it passes on."""

from __future__ import annotations

import json
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.capper import server as server_module
from agents.capper.errors import CapperError
from agents.capper.protocol import SOCKET_NAME
from agents.capper.server import CapperServer
from tests.fakes.capper_rig import ALLOWED, Rig


@contextmanager
def serving(rig: Rig) -> Iterator[Path]:
    path = rig.folder / SOCKET_NAME
    server, stop = CapperServer(rig.capper, path), threading.Event()
    server.open()
    thread = threading.Thread(target=server.run, args=(stop.is_set,))
    thread.start()
    try:
        yield path
    finally:
        stop.set()
        thread.join(timeout=10)
        server.close()
    assert not thread.is_alive() and not path.exists()


class Peer:
    """A client that speaks lines."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self._file = self.socket.makefile("rb")

    def ask(self, request: object) -> dict[str, Any]:
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.socket.sendall(line + b"\n")
        return self.hear()

    def hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._file.readline())
        return answer

    def silent(self) -> bool:
        """True when the other side has hung up."""
        return self._file.readline() == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def talking(path: Path) -> Iterator[Peer]:
    peer = Peer(path)
    try:
        yield peer
    finally:
        peer.close()


def test_every_request_is_answered(rig: Rig) -> None:
    with serving(rig) as path, talking(path) as peer:
        ack = peer.ask({"op": "grant", "envelope": rig.raw(1).decode(), "received_ns": rig.wall_ns})["ack"]
        assert ack["gpu"]["status"] == ["applied", "applied"]
        assert peer.ask({"op": "clocks", "wanted": {"GPU-a": 1200, "GPU-b": None}}) == {
            "ok": True,
            "effective": {"GPU-a": 1200, "GPU-b": None},
        }
        assert peer.ask({"op": "status"})["status"]["mark"] == [1, 1]
        assert peer.ask({"op": "row", "watts": 5000.0, "age_s": 0.2}) == {"ok": True, "used": False}
        assert peer.ask({"op": "row", "watts": None}) == {"ok": True, "used": False}
        assert peer.ask({"op": "restore", "reason": "test"})["ack"]["gpu"]["status"] == ["restored", "restored"]
        assert peer.ask({"op": "events"}) == {"ok": True, "events": []}
    assert rig.untouched()


def test_the_socket_is_for_its_owner_only(rig: Rig) -> None:
    with serving(rig) as path:
        mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_an_unlisted_user_is_told_and_hung_up_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "peer_uid", lambda connection: 4242)
    with serving(rig) as path, talking(path) as peer:
        assert peer.hear() == {"ok": False, "error": "user 4242 may not talk to this capper; add it to allow_uids"}
        assert peer.silent()


def test_a_listed_user_may_talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "peer_uid", lambda connection: 4242)
    monkeypatch.setattr("os.chown", lambda path, uid, gid: None)
    rig = Rig(tmp_path, settings=replace(ALLOWED, allow_uids=(4242,)))
    with serving(rig) as path, talking(path) as peer:
        assert peer.ask({"op": "status"})["ok"]


def test_the_kernels_word_is_asked() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        import os

        assert server_module.peer_uid(ours) == os.getuid()


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b'{"op": "set"}', b'{"op": "clocks", "wanted": {"GPU-a": 1.5}}', b"\xff", b"[" * 50_000],
)
def test_what_is_no_request_is_answered_and_forgotten(rig: Rig, line: bytes) -> None:
    with serving(rig) as path, talking(path) as peer:
        answer = peer.ask(line)
        assert not answer["ok"] and answer["error"].startswith("the request is not one of the capper's: ")
        assert peer.ask({"op": "status"})["ok"]
    assert rig.set_calls == 0


def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=replace(ALLOWED, max_request_bytes=1024))
    with serving(rig) as path, talking(path) as peer:
        peer.socket.sendall(b"x" * 5000)
        assert peer.hear() == {"ok": False, "error": "a request is longer than 4096 bytes"}
        assert peer.silent()


def test_one_client_too_many_is_told(rig: Rig) -> None:
    with serving(rig) as path:
        peers = [Peer(path) for _ in range(server_module.MAX_CLIENTS)]
        try:
            assert all(peer.ask({"op": "status"})["ok"] for peer in peers)
            with talking(path) as late:
                assert late.hear()["error"] == "16 clients are connected already; close one"
        finally:
            for peer in peers:
                peer.close()


def test_leases_end_while_clients_are_silent(rig: Rig) -> None:
    with serving(rig) as path, talking(path) as peer:
        peer.ask({"op": "grant", "envelope": rig.raw(1).decode(), "received_ns": rig.wall_ns})
        rig.advance(11)
        events: list[Any] = []
        for _ in range(100):
            events += peer.ask({"op": "events"})["events"]
            if events:
                break
            threading.Event().wait(0.05)
        assert [event["event"] for event in events] == ["expiry"]
    assert rig.untouched()


def test_events_that_could_not_be_delivered_come_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.grant(1)
    rig.run(11)
    plain, failing = CapperServer._say, [True]

    def once_broken(connection: socket.socket, text: bytes) -> bool:
        if failing:
            failing.pop()
            return False
        return plain(connection, text)

    monkeypatch.setattr(CapperServer, "_say", staticmethod(once_broken))
    with serving(rig) as path:
        with talking(path) as peer:
            peer.socket.sendall(b'{"op": "events"}\n')
            assert peer.silent()
        with talking(path) as peer:
            assert [event["event"] for event in peer.ask({"op": "events"})["events"]] == ["expiry"]
            assert peer.ask({"op": "events"})["events"] == []


def test_a_path_too_long_for_a_socket_is_one_sentence(rig: Rig) -> None:
    with pytest.raises(CapperError, match="is longer than 107 bytes; set EO_DATA_DIR to a shorter path"):
        CapperServer(rig.capper, rig.folder / ("x" * 120)).open()


def test_a_folder_that_takes_no_socket_is_one_sentence(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(CapperError, match=r"cannot be opened \(No such file or directory\)"):
        CapperServer(rig.capper, tmp_path / "none" / "s").open()
