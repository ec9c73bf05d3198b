"""One GET of a metrics text with a deadline for the whole of it, a bound for its size, and no redirects.

A socket's timeout counts each packet; a server that drips a byte a second would hold a reader for ever. Here the clock
runs for the whole answer.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agents.node.errors import SettingsError, SourceError

MAX_BYTES: Final = 4 * 2**20  # an engine's text has some 100 kB
DEADLINE_S: Final = 0.8  # below the sample interval
CHUNK: Final = 64 * 1024
ACCEPT: Final = "text/plain;version=0.0.4, application/openmetrics-text;q=0.5, application/json;q=0.4, */*;q=0.1"


def checked(url: str) -> str:
    """The URL, if it can be asked; raises SettingsError."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{url!r} is no address of metrics; give one like http://127.0.0.1:8000/metrics")
    return url


def get(
    url: str,
    *,
    deadline_s: float = DEADLINE_S,
    max_bytes: int = MAX_BYTES,
    monotonic: Callable[[], float] = time.monotonic,
) -> bytes:
    """The text at a URL. Raises SourceError with the address, the bound and the next step."""
    parts = urlsplit(url)
    until = monotonic() + deadline_s
    connection = _connection(parts.scheme, parts.hostname or "", parts.port, deadline_s)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": ACCEPT, "Connection": "close"})
        sock: socket.socket | None = connection.sock  # the connection lets go of it with the answer's head
        _hurry(sock, until - monotonic())
        with connection.getresponse() as answer:
            if answer.status != 200:
                raise SourceError(f"{url} answers {answer.status} {answer.reason}{_hint(answer.status)}")
            return _body(sock, answer, url, until, max_bytes=max_bytes, monotonic=monotonic)
    except TimeoutError as error:
        raise SourceError(f"{url} gave no whole answer within {deadline_s:g} s; is the engine stuck?") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = str(error) or type(error).__name__
        raise SourceError(f"{url} cannot be read ({said}); is the engine up, and its metrics on?") from error
    finally:
        connection.close()


def _connection(scheme: str, host: str, port: int | None, timeout_s: float) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=timeout_s)


def _hint(status: int) -> str:
    if 300 <= status < 400:
        return "; redirects are not followed, give the final address"
    if status in (401, 403):
        return "; the agent sends no credentials, open the metrics to this host"
    return "; check the address (vLLM: /metrics, trtllm-serve: /prometheus/metrics, Triton: port 8002)"


def _body(
    sock: socket.socket | None,
    answer: http.client.HTTPResponse,
    url: str,
    until: float,
    *,
    max_bytes: int,
    monotonic: Callable[[], float],
) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        _hurry(sock, until - monotonic())
        part = answer.read1(CHUNK)
        if not part:
            break
        size += len(part)
        if size > max_bytes:
            raise SourceError(f"{url} sends more than {max_bytes} bytes; that is no engine's metrics text")
        parts.append(part)
    length = answer.getheader("Content-Length")
    if length is not None and length.isdigit() and size < int(length):
        raise SourceError(f"{url} broke off after {size} of {length} bytes; the next reading tries again")
    return b"".join(parts)


def _hurry(sock: socket.socket | None, left_s: float) -> None:
    if left_s <= 0:
        raise TimeoutError
    if sock is not None:
        sock.settimeout(left_s)


def from_file(path: str | Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """A recorded text, up to a bound. Raises SourceError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(max_bytes + 1)
    except OSError as error:
        raise SourceError(f"recording {path} cannot be read ({error.strerror}); check the path") from error
    if len(text) > max_bytes:
        raise SourceError(f"recording {path} has more than {max_bytes} bytes; that is no engine's metrics text")
    return text
