"""A real server and raw sockets: keys sent twice, two lengths, half requests, silent crowds, certificates."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from agents.cli.base import EoError
from agents.gateway.protocol import Bounded
from agents.gateway.run import check, config_of, listen, raise_open_files
from agents.gateway.settings import GatewaySettings
from tests.fakes.gateway_rig import Rig

CLOSE = "Connection: close\r\n"


class Hasty(Bounded):
    """The same with bounds that a test can wait for."""

    request_s = 1.0
    most_waiting = 20


@contextmanager
def served(rig: Rig, protocol: type[Bounded] = Bounded) -> Iterator[int]:
    config = config_of(rig.app, rig.context.settings)
    config.http_protocol_class = protocol
    opened, server = listen("127.0.0.1", 0), uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    try:
        yield int(opened.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
        opened.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def rest(sock: socket.socket) -> bytes:
    """All until the other side closes."""
    out = b""
    with closing(sock):
        try:
            while piece := sock.recv(65536):
                out += piece
        except ConnectionResetError:
            pass
    return out


def ask(port: int, head: str, body: bytes = b"") -> tuple[int, bytes]:
    sock = connect(port)
    sock.sendall(f"{head}\r\n".encode("latin-1") + body)
    told = rest(sock)
    return int(told.split(b" ", 2)[1]), told


def get(path: str, headers: str = "") -> str:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{CLOSE}{headers}"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(tmp_path_factory.mktemp("hostile")).live()


@pytest.fixture(scope="module")
def port(rig: Rig) -> Iterator[int]:
    with served(rig) as found:
        yield found


def test_a_request_with_several_keys_is_refused_whichever_is_right(rig: Rig, port: int) -> None:
    right = f"Authorization: {rig.key('read')['Authorization']}\r\n"
    as_key = right.replace("Authorization: Bearer", "X-API-Key:")
    wrong = "Authorization: Bearer eo_0_0\r\n"
    assert ask(port, get("/v1/nodes", right))[0] == ask(port, get("/v1/nodes", as_key))[0] == 200
    for headers in (right + wrong, wrong + right, right + right, right + as_key, as_key + wrong, as_key + as_key):
        code, told = ask(port, get("/v1/nodes", headers))
        assert code == 400 and b"several keys" in told


@pytest.mark.parametrize(
    "key",
    [
        "Authorization: Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJyb2xlIjoiYWRtaW4ifQ.",
        "Authorization: Bearer none",
        "Authorization: Basic YWRtaW46YWRtaW4=",
        "Authorization: Bearer eo_\xff_\xfe",
        "Authorization: Bearer " + "a" * 30_000,
        "X-API-Key: eo__",
        "X-API-Key: {id}",
        "X-API-Key: eo_{id}_",
        "X-API-Key: {short}",
    ],
)
def test_no_made_up_key_opens(rig: Rig, port: int, key: str) -> None:
    text = rig.key("admin")["Authorization"].removeprefix("Bearer ")
    filled = key.replace("{id}", text.split("_")[1]).replace("{short}", text[:-1])
    code, told = ask(port, get("/v1/keys", filled + "\r\n"))
    assert code == 401 and b"problem+json" in told and text.encode() not in told


def test_two_lengths_of_one_body_are_refused_and_nothing_is_smuggled(rig: Rig, port: int) -> None:
    key = f"Authorization: {rig.key('admin')['Authorization']}\r\n"
    head = f"POST /optimize HTTP/1.1\r\nHost: x\r\n{key}Content-Type: application/json\r\n"
    second = b"GET /v1/keys HTTP/1.1\r\nHost: x\r\n" + key.encode() + b"\r\n"
    code, told = ask(port, head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + second)
    assert code == 400 and b"both Content-Length and Transfer-Encoding" in told
    assert told.count(b"HTTP/1.1 ") == 1 and b'"items"' not in told
    for lengths in ("Content-Length: 2\r\nContent-Length: 50\r\n", "Content-Length: -1\r\n", "Content-Length: +2\r\n"):
        assert ask(port, head + lengths + CLOSE, b"{}")[0] == 400
    huge = b"".join(b"8000\r\n" + b"a" * 0x8000 + b"\r\n" for _ in range(4)) + b"0\r\n\r\n"
    assert ask(port, head + CLOSE + "Transfer-Encoding: chunked\r\n", huge)[0] == 413
    assert ask(port, head + CLOSE + "Content-Length: 99999999999999999999\r\n", b"{}")[0] == 413


@pytest.mark.parametrize(
    "path",
    [
        "/static/../main.py",
        "/static/..%2f..%2fkeys%2fapi_keys.json",
        "/static/%2e%2e/%2e%2e/run.py",
        "/static//etc/passwd",
        "/static/style.css%00.html",
        "//etc/passwd",
        "http://evil.example/v1/keys",
        "/" + "a" * 30_000,
    ],
)
def test_no_path_leads_out(port: int, path: str) -> None:
    code, told = ask(port, get(path))
    assert code == 404 and b"problem+json" in told and len(told) < 2000


def test_a_trailing_slash_is_no_redirect_to_the_callers_own_host(port: int) -> None:
    code, told = ask(port, f"GET /health/ HTTP/1.1\r\nHost: evil.example\r\n{CLOSE}")
    assert code == 404 and b"evil.example" not in told and b"did you mean '/health'?" in told


def test_half_a_request_is_ended_and_a_slow_body_too(rig: Rig) -> None:
    with served(rig, Hasty) as port:
        for half in (b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-slow: ", b"\x00\xff\x00"):
            sock = connect(port)
            sock.sendall(half)
            told = rest(sock)  # ends: that is the test
            assert told[:12] in (b"HTTP/1.1 408", b"HTTP/1.1 400"), told
        sock = connect(port)
        head = f"POST /optimize HTTP/1.1\r\nHost: x\r\nAuthorization: {rig.key('read')['Authorization']}\r\n"
        sock.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
        rest(sock)
        kept = connect(port)  # a connection that is kept, and then sends half of its second request
        kept.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        told = b""
        while b'{"live":true}' not in told:
            piece = kept.recv(65536)
            assert piece, "closed before it was answered"
            told += piece
        kept.sendall(b"GET /hea")
        rest(kept)


def test_a_crowd_of_silent_connections_shuts_nobody_out(rig: Rig) -> None:
    class Crowded(Hasty):
        request_s = 60.0

    with served(rig, Crowded) as port:
        crowd = [connect(port) for _ in range(80)]
        try:
            assert ask(port, get("/health/live"))[0] == 200
            crowd[0].settimeout(20)
            with pytest.raises(ConnectionResetError):
                if crowd[0].recv(1) == b"":
                    raise ConnectionResetError
            crowd[-1].sendall(get("/health/live").encode() + b"\r\n")  # the newest still wait, and may ask
            assert b'{"live":true}' in rest(crowd[-1])
        finally:
            for sock in crowd:
                sock.close()


def test_who_reads_no_answer_is_cut_off_and_who_reads_again_is_not() -> None:
    calls: list[tuple[float, Any]] = []

    class Loop:
        def call_later(self, seconds: float, what: Any) -> Any:
            calls.append((seconds, what))
            return SimpleNamespace(cancel=lambda: calls.remove((seconds, what)))

    one = object.__new__(Bounded)
    one.loop = Loop()  # type: ignore[assignment]
    one.flow = SimpleNamespace(pause_writing=lambda: None, resume_writing=lambda: None)  # type: ignore[assignment]
    one.transport = SimpleNamespace(abort=lambda: None)  # type: ignore[assignment]
    one._write = None
    one.pause_writing()
    one.pause_writing()
    assert [seconds for seconds, _ in calls] == [one.write_s] and calls[0][1] is one.transport.abort
    one.resume_writing()
    assert calls == []


def certificate(folder: Path) -> tuple[Path, Path]:
    import subprocess

    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return cert, key


def test_https_with_a_certificate_and_a_sentence_without(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    rig = Rig(tmp_path / "data", settings={"tls_cert": cert, "tls_key": key}).live()
    with served(rig) as port:
        trusted = ssl.create_default_context(cafile=str(cert))
        with connect(port) as plain, trusted.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(get("/health/live").encode() + b"\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
        with connect(port) as plain:
            plain.sendall(get("/health/live").encode() + b"\r\n")
            assert b"200" not in plain.recv(100)
    with pytest.raises(EoError, match="needs both --tls-cert and --tls-key"):
        check(GatewaySettings(data_dir=tmp_path, tls_cert=cert))
    for wrong in (tmp_path / "nowhere.pem", cert):
        with pytest.raises(EoError, match="cannot be used"):
            config_of(rig.app, GatewaySettings(data_dir=tmp_path, tls_cert=cert, tls_key=wrong))


def test_open_files_are_raised_as_far_as_allowed() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        raise_open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft >= before[0] and hard == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
