"""Texts over HTTP: each way of answering badly has its sentence, and none takes longer or more than allowed."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.node.errors import SettingsError, SourceError
from agents.node.sources import fetch
from tests.unit.node.text_server import Answer, TextServer, drip, ok, serving


@pytest.fixture
def server() -> Iterator[TextServer]:
    with serving() as made:
        yield made


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + end


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"m 1\n"), b"HTTP/1.0 200 OK\r\n\r\nm 1\n", chunked(b"m ", b"1\n"),
        ok(b"m 1\nsurplus").replace(b"Length: 11", b"Length: 4"),
    ],
    ids=["length", "until it closes", "chunked", "surplus"],
)  # fmt: skip
def test_whole_answers(server: TextServer, answer: bytes) -> None:
    server.answers["/metrics?a=b"] = answer
    assert fetch.get(f"{server.url}/metrics?a=b").body == b"m 1\n"
    assert b"Accept-Encoding: identity\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\nlater", "answers 503; is this the path of its metrics?"),
        (ok(b"m 123\n")[:-3], "gives no usable answer (IncompleteRead"),
        (chunked(b"m 123\n", end=b""), "gives no usable answer (IncompleteRead"),
        (b"", "gives no usable answer"),
        (b"hello\r\n\r\n", "gives no usable answer"),
        (ok(b"m" * 5000), "more than 4000 bytes"),
        (ok(b"m" * 200_000), "more than 4000 bytes"),
        (ok(b"\x1f\x8b", head=b"Content-Encoding: gzip\r\n"), "it is gzip, which was not asked for"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n", "gives no usable answer"),
        (
            b"HTTP/1.1 302 F\r\nLocation: http://169.254.169.254/x\r\n\r\n",
            "sends on to http://169.254.169.254/x, another",
        ),
        (b"HTTP/1.1 302 F\r\nLocation: //elsewhere/x\r\n\r\n", "sends on to http://elsewhere/x, another host"),
        (b"HTTP/1.1 302 F\r\nLocation: /metrics\r\n\r\n", "answers 302"),
    ],
)
def test_bad_answers_are_one_sentence(server: TextServer, answer: Answer, words: str) -> None:
    server.answers["/metrics"] = answer
    with pytest.raises(SourceError) as told:
        fetch.get(f"{server.url}/metrics", max_bytes=4000)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_redirect_on_the_same_host_is_followed(server: TextServer) -> None:
    server.answers["/metrics"] = b"HTTP/1.1 307 T\r\nLocation: /metrics/\r\nContent-Length: 0\r\n\r\n"
    server.answers["/metrics/"] = ok(b"m 1\n")
    assert fetch.get(f"{server.url}/metrics").body == b"m 1\n"


def test_an_answer_that_drips_ends_at_the_deadline(server: TextServer) -> None:
    server.answers["/metrics"] = lambda link: drip(link, server.stop)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"did not answer in full within 0.2 s"):
        fetch.get(f"{server.url}/metrics", deadline_s=0.2)
    assert time.monotonic() - began < 30  # it ends at all; how late is the machine's business


def test_nothing_listens() -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(SourceError, match=r"nothing listens at .* \(connection refused\)"):
        fetch.get(f"{url}/metrics")


@pytest.mark.parametrize(
    "url",
    ["", "metrics", "file:///etc/passwd", "http://", "http://h:0/", "http://h:99999/", "http://h:x/", "http://[::1"],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"give http://HOST:PORT/metrics"):
        fetch.checked_url(url)


def test_no_secret_and_no_line_break_in_a_url() -> None:
    with pytest.raises(SettingsError, match="carries a user or password"):
        fetch.checked_url("http://me:secret@host/metrics")
    with pytest.raises(SettingsError, match="no URL may"):
        fetch.checked_url("http://host/a b")
    with pytest.raises(SourceError, match="a header holds a line break"), serving() as server:
        fetch.get(server.url, headers={"X": "a\r\nHost: b"})


def test_a_file_and_its_age(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"m 1\n" * 100)
    found = fetch.file(path, max_bytes=10)
    assert (len(found.body), found.origin) == (
        11,
        str(path),
    )  # one more than allowed, so that the reader sees it is cut
    with pytest.raises(SourceError, match=r"no.txt cannot be read \(No such file"):
        fetch.file(tmp_path / "no.txt")


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="pipe is a pipe or terminal and no file; write the text to a file"):
        fetch.file(tmp_path / "pipe")


def test_tls_is_verified_and_an_authority_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*make, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    fetch._tls.cache_clear()
    with serving(context) as server:
        server.answers["/metrics"] = ok(b"m 1\n")
        url = server.url.replace("http:", "https:") + "/metrics"
        with pytest.raises(SourceError, match=r"is not trusted .*; set SSL_CERT_FILE to its authority"):
            fetch.get(url)
        fetch._tls.cache_clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch.get(url, deadline_s=20).body == b"m 1\n"
        fetch._tls.cache_clear()
