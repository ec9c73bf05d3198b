"""One POST and its limits, against servers that misbehave in named ways."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streams.sinks import http_post
from streams.sinks.address_guard import Allowed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SHORT_S = 0.4


@contextmanager
def served(answer: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server on a free loopback port that reads a request and then does what the test says."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)

        def run() -> None:
            while True:
                try:
                    plain, _ = listening.accept()
                except OSError:
                    return
                with suppress(OSError), plain:
                    plain.settimeout(5)
                    if tls is None:
                        answer(plain)
                    else:
                        with tls.wrap_socket(plain, server_side=True) as wrapped:
                            answer(wrapped)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def send(port: int, *, timeout_s: float = 5.0, url: str = "http://127.0.0.1:{port}/hook") -> http_post.Answer:
    allowed = Allowed(frozenset({"127.0.0.1", "hook.example"}), frozenset({port}))
    return http_post.post(
        url.format(port=port),
        b'{"a":1}',
        {"webhook-id": "msg_1"},
        allowed=allowed,
        timeout_s=timeout_s,
        resolve=lambda host, at: ["127.0.0.1"],
    )


def reply(data: bytes, seen: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        got = connection.recv(65536)
        while b"\r\n\r\n" not in got or not got.endswith(b'{"a":1}'):
            got += connection.recv(65536)
        if seen is not None:
            seen.append(got)
        connection.sendall(data)

    return answer


def test_a_request_carries_what_it_should() -> None:
    seen: list[bytes] = []
    with served(reply(OK, seen)) as port:
        answer = send(port)
    assert answer.ok and answer.detail == "ok" and answer.took_ms > 0
    head = seen[0].decode().lower()
    assert head.startswith("post /hook http/1.1\r\n") and f"host: 127.0.0.1:{port}" in head
    assert "webhook-id: msg_1" in head and "content-length: 7" in head and head.endswith('{"a":1}')


def drip(head: bytes, pause: threading.Event) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in head:
            connection.sendall(bytes([byte]))
            if pause.wait(0.05):
                return

    return answer


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"b" * 100],
)
def test_an_answer_that_drips_has_no_more_time_than_one_that_says_nothing(head: bytes) -> None:
    over = threading.Event()
    with served(drip(head, over)) as port:
        answer = send(port, timeout_s=SHORT_S)
        over.set()
    assert answer.status is None and answer.detail == "no complete answer within 0.4 s"


def test_a_server_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    with served(lambda connection: over.wait(5) and None) as port:
        answer = send(port, timeout_s=SHORT_S)
        over.set()
    assert answer.detail == "no complete answer within 0.4 s"
    assert http_post.TIMEOUT_S == 5.0, "an answer of 200 after 30 s is no answer"


def test_a_name_server_that_hangs_is_left() -> None:
    over = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        over.wait(5)
        return ["127.0.0.1"]

    answer = http_post.post("https://hook.example/", b"", {}, allowed=Allowed(), resolve=hang, timeout_s=0.2)
    over.set()
    assert answer.detail == "no complete answer within 0.2 s"


def test_an_endless_answer_is_cut_off() -> None:
    sent = [0]

    def endless(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
        while True:
            sent[0] += connection.send(b"x" * 65536)

    with served(endless) as port:
        answer = send(port)
    assert answer.ok and len(answer.detail) == http_post.EXCERPT
    assert sent[0] < 20_000_000, "it stopped reading: the server filled only the sockets' own buffers"


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nsick", 500, "sick"),
        (b"nonsense\r\n\r\n", None, "RemoteProtocolError"),
        (b"", None, "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", None, "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000 + b"\r\n\r\n", None, "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd", 200, "\ufffd\ufffd\ufffd"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
    ],
)
def test_every_answer_is_told_as_it_is(data: bytes, status: int | None, detail: str) -> None:
    with served(reply(data)) as port:
        answer = send(port)
    assert answer.status == status and detail in answer.detail


@pytest.mark.parametrize(
    ("text", "seconds"), [("120", 120.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("99999999", None), ("-1", None)]
)
def test_retry_after_counts_when_it_is_seconds(text: str, seconds: float | None) -> None:
    data = f"HTTP/1.1 429 Slow\r\nRetry-After: {text}\r\nContent-Length: 0\r\n\r\n".encode()
    with served(reply(data)) as port:
        assert send(port).retry_after_s == seconds


def test_nobody_there_is_an_answer_too() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        answer = send(taken.getsockname()[1])
    assert answer.status is None and "ConnectError" in answer.detail


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, secret


@pytest.mark.parametrize(("name", "good"), [("hook.example", True), ("other.example", False)])
def test_the_certificate_must_name_the_host_although_the_address_is_pinned(
    tmp_path: Path, name: str, good: bool
) -> None:
    cert, secret = _certificate(tmp_path, name)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, secret)
    trusting = ssl.create_default_context(cafile=str(cert))
    with served(reply(OK), tls=server) as port:
        allowed = Allowed(frozenset({"hook.example"}), frozenset({port}))
        answer = http_post.post(
            f"https://hook.example:{port}/hook",
            b'{"a":1}',
            {},
            allowed=allowed,
            resolve=lambda host, at: ["127.0.0.1"],
            tls=lambda: trusting,
        )
    assert answer.ok is good
    if not good:
        assert "CERTIFICATE_VERIFY_FAILED" in answer.detail


def test_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    cert, secret = _certificate(tmp_path, "hook.example")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, secret)
    with served(reply(OK), tls=server) as port:
        answer = send(port, url="https://hook.example:{port}/")
    assert "CERTIFICATE_VERIFY_FAILED" in answer.detail


def test_a_handshake_that_stalls_is_left() -> None:
    over = threading.Event()
    with served(lambda connection: over.wait(5) and None) as port:
        begun = time.monotonic()
        answer = send(port, url="https://hook.example:{port}/", timeout_s=SHORT_S)
        assert time.monotonic() - begun < 5, "the server would have waited longer"
        over.set()
    assert answer.status is None
