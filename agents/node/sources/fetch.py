"""One text by HTTP or from a file, for the sources that read exporters: deadline, size cap, no foreign host.

Standard library only. A proxy of the environment is not used: exporters are local. A redirect is followed on the same
host and port and nowhere else, because what answers there is not what was configured.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from agents.node.errors import SettingsError, SourceError
from agents.node.sources.clean import printable
from agents.node.sources.prom_text import MAX_BYTES

DEADLINE_S: Final = 2.0
MAX_REDIRECTS: Final = 3
MAX_HEAD: Final = 65536
_HEADERS: Final = {"Accept": "text/plain;version=0.0.4, */*;q=0.1", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Text:
    """What was read: bytes, where from, and how old it is (0 for a live answer, a file's age since it was written)."""

    body: bytes
    origin: str
    age_s: float


def checked_url(url: str, path: str = "") -> str:
    """The URL when it can be asked, with `path` where it has none; raises SettingsError otherwise."""
    try:
        parts = urlsplit(url)
        port = parts.port  # raises ValueError when it is none
    except ValueError as error:
        raise SettingsError(f"{url!r} is no URL ({error}); give http://HOST:PORT/metrics") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise SettingsError(f"{url!r} is no URL that can be asked; give http://HOST:PORT/metrics")
    if parts.username or parts.password:
        raise SettingsError(
            f"the URL of {parts.hostname} carries a user or password, which logs would show; leave it out"
        )
    if any(ord(letter) <= 32 or ord(letter) > 126 for letter in url):
        raise SettingsError(f"{url!r} holds a character that no URL may; escape it")
    return url if parts.path or not path else parts._replace(path=path).geturl()


def file(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Text:
    """A recorded text. Raises SourceError when it cannot be read.

    A pipe or terminal is refused: one that nobody writes to would hold the reader for ever.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            found = os.fstat(stream.fileno())
            if stat.S_ISFIFO(found.st_mode) or os.isatty(stream.fileno()):
                raise SourceError(f"{path} is a pipe or terminal and no file; write the text to a file and give that")
            body = stream.read(max_bytes + 1)
            age_s = max(0.0, time.time() - found.st_mtime)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); check the path") from error
    return Text(body, str(path), age_s)


def _without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def get(
    url: str,
    *,
    deadline_s: float = DEADLINE_S,
    max_bytes: int = MAX_BYTES,
    headers: Mapping[str, str] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Text:
    """The body of one GET, all within the deadline however slowly it drips.

    Raises:
        SourceError: no answer, not 200, too large, cut off, too slow, or a redirect to another host.
    """
    due, target = monotonic() + deadline_s, checked_url(url)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            status, location, body = _ask(target, {**_HEADERS, **(headers or {})}, due, max_bytes, monotonic)
            if status not in {301, 302, 303, 307, 308} or location is None:
                break
            target = _redirected(url, urljoin(target, location))
    except (TimeoutError, ssl.SSLError) as error:
        raise SourceError(_why(url, error, deadline_s)) from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise SourceError(_why(url, error, deadline_s)) from error
    if status != 200:
        raise SourceError(f"{url} answers {status}; is this the path of its metrics?")
    return Text(body, url, 0.0)


def _why(url: str, error: Exception, deadline_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"{url} did not answer in full within {deadline_s:g} s; is it overloaded or behind a firewall?"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {url} (connection refused); start the exporter or correct the URL"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {url} is not trusted ({error.verify_message}); set SSL_CERT_FILE to its authority"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = printable(" ".join(text.split()), 200)  # what a stranger answered stays on one line
    return f"{url} gives no usable answer ({text}); check that it is an exporter"


def _redirected(url: str, target: str) -> str:
    """The new address when it is on the same host and port; raises SourceError otherwise."""
    here, there = urlsplit(url), urlsplit(target)
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        raise SourceError(
            f"{url} sends on to {printable(target, 200)}, another host: not followed; give that URL if it is right"
        )
    return target


class _Answer(io.BytesIO):
    """Bytes that http.client may read as if they came from a socket."""

    def makefile(self, *_: object) -> io.BytesIO:
        return self


def _ask(
    url: str, headers: Mapping[str, str], due: float, max_bytes: int, monotonic: Callable[[], float]
) -> tuple[int, str | None, bytes]:
    parts = urlsplit(url)
    with _connected(parts, due, monotonic) as link:
        link.sendall(_request(parts, headers))
        raw = _receive(link, due, max_bytes, monotonic)
    answer = http.client.HTTPResponse(_Answer(raw))  # type: ignore[arg-type]
    answer.begin()
    if answer.getheader("Content-Encoding", "identity") not in {"identity", ""}:
        raise http.client.HTTPException(f"it is {answer.getheader('Content-Encoding')}, which was not asked for")
    body = answer.read()  # raises IncompleteRead when it is cut off
    if len(body) > max_bytes:
        raise http.client.HTTPException(f"more than {max_bytes} bytes")
    return answer.status, answer.getheader("Location"), body


def _left(due: float, monotonic: Callable[[], float]) -> float:
    left = due - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@cache
def _tls() -> ssl.SSLContext:
    """Made once: reading all authorities takes ten milliseconds, which once a second would be a share of a core."""
    return ssl.create_default_context()


def _connected(parts: SplitResult, due: float, monotonic: Callable[[], float]) -> socket.socket:
    assert parts.hostname is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    link = socket.create_connection((parts.hostname, port), timeout=_left(due, monotonic))
    if parts.scheme == "http":
        return link
    try:
        link.settimeout(_left(due, monotonic))
        return _tls().wrap_socket(link, server_hostname=parts.hostname)
    except BaseException:
        link.close()
        raise


def _request(parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    """HTTP/1.0: the answer ends with the connection, so that no state is left between two readings."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.0", f"Host: {parts.netloc}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _receive(link: socket.socket, due: float, max_bytes: int, monotonic: Callable[[], float]) -> bytes:
    """Everything until the end of the answer: its length, its last chunk, or the end of the connection."""
    got, size, ends = bytearray(), None, False
    while True:
        link.settimeout(_left(due, monotonic))
        piece = link.recv(65536)
        got += piece
        if not piece:
            return bytes(got)
        if len(got) > max_bytes + 65536:
            raise http.client.HTTPException(f"more than {max_bytes} bytes")
        if not ends and (at := got.find(b"\r\n\r\n")) >= 0:
            ends = True
            size = _length(bytes(got[:at]).lower(), at + 4)
        if not ends and len(got) > MAX_HEAD:
            raise http.client.HTTPException(f"more than {MAX_HEAD} bytes before its first line of text")
        if ends and size is not None and len(got) >= size:
            return bytes(got[:size])
        if ends and size is None and got.endswith(b"\r\n0\r\n\r\n"):
            return bytes(got)


def _length(head: bytes, start: int) -> int | None:
    """Where the answer ends, when its head says so."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length" and value.strip().isdigit():
            return start + int(value)
    return None
