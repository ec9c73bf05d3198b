"""One POST with hard limits: to an address that was judged, no redirects, so many seconds in all, so many bytes.

httpcore2 does HTTP and TLS; its network backend is ours, so that it connects to the judged address (never resolves),
checks the certificate against the name, and so that every read and write shares one deadline: an answer that drips a
byte every four seconds ends as soon as one that says nothing.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import httpcore2

from streams.sinks.address_guard import Allowed, Refused, Resolver, Target, check, system_resolver

TIMEOUT_S: Final = 5.0
LARGEST_ANSWER: Final = 64 * 1024
EXCERPT: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status, or why there is none."""

    status: int | None
    detail: str
    took_ms: float
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class _Deadline:
    """One time limit for everything that a request does."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0.0:
            raise httpcore2.ReadTimeout("the time is over")
        return left


class _Stream(httpcore2.NetworkStream):
    """A stream whose every operation has what is left of the deadline."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._deadline.left()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Pinned(httpcore2.NetworkBackend):
    """Connects to the judged address, whatever host is asked for."""

    def __init__(self, address: str, deadline: _Deadline) -> None:
        self._address, self._deadline, self._inner = address, deadline, httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        inner = self._inner.connect_tcp(self._address, port, self._deadline.left(), local_address, socket_options)
        return _Stream(inner, self._deadline)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        raise httpcore2.ConnectError("a receiver is never a socket file")

    def sleep(self, seconds: float) -> None:
        raise httpcore2.ConnectError("nothing here waits")


_FAILED: Final = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
    OSError,
    ValueError,
)


@cache
def default_tls() -> ssl.SSLContext:
    """Certificates and names are verified, by the system's authorities."""
    return ssl.create_default_context()


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    allowed: Allowed,
    resolve: Resolver = system_resolver,
    timeout_s: float = TIMEOUT_S,
    tls: Callable[[], ssl.SSLContext] = default_tls,
) -> Answer:
    """Sends one request. Never raises: whatever happens is an answer with its reason."""
    begun = time.monotonic()
    deadline = _Deadline(timeout_s)
    try:
        target = _resolved(url, allowed, resolve, timeout_s)
        answer = _send(target, body, headers, deadline, tls)
    except Refused as error:
        return Answer(None, f"refused: {error}", _ms(begun))
    except (httpcore2.TimeoutException, TimeoutError):
        return Answer(None, f"no complete answer within {timeout_s:g} s", _ms(begun))
    except _FAILED as error:
        return Answer(None, f"{type(error).__name__}: {error}"[:EXCERPT], _ms(begun))
    status, retry_after, detail = answer
    return Answer(status, detail, _ms(begun), _retry_after_s(retry_after))


def _ms(begun: float) -> float:
    return round((time.monotonic() - begun) * 1e3, 1)


def _resolved(url: str, allowed: Allowed, resolve: Resolver, timeout_s: float) -> Target:
    """The check with its one look-up, which has no time limit of its own: a thread that hangs is left behind."""
    out: list[Target | BaseException] = []

    def look() -> None:
        try:
            out.append(check(url, allowed, resolve))
        except (Refused, OSError, ValueError) as error:
            out.append(error)

    thread = threading.Thread(target=look, daemon=True, name="webhook-resolve")
    thread.start()
    thread.join(timeout_s)
    if not out:
        raise TimeoutError("the name was not resolved in time")
    if isinstance(out[0], BaseException):
        raise out[0]
    return out[0]


def _send(
    target: Target, body: bytes, headers: Mapping[str, str], deadline: _Deadline, tls: Callable[[], ssl.SSLContext]
) -> tuple[int, str | None, str]:
    context = tls() if target.scheme == "https" else None
    host = f"[{target.host}]" if ":" in target.host else target.host
    url = httpcore2.URL(scheme=target.scheme, host=host, port=target.port, target=target.path)
    fixed = {"Host": target.host_header, "Connection": "close", "Content-Length": str(len(body))}
    with (
        httpcore2.ConnectionPool(ssl_context=context, network_backend=_Pinned(target.address, deadline)) as pool,
        pool.stream("POST", url, headers=list({**headers, **fixed}.items()), content=body) as response,
    ):
        found = b""
        for chunk in response.iter_stream():
            found += chunk
            if len(found) > LARGEST_ANSWER:
                break  # the status decides; nobody's answer fills our memory
        later = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
        excerpt = found[:EXCERPT].decode(errors="replace")
        return response.status, None if later is None else later.decode(errors="replace"), excerpt


def _retry_after_s(text: str | None) -> float | None:
    """Seconds of a Retry-After header; a date is left to our own back-off."""
    return float(text) if text is not None and text.strip().isdecimal() and len(text.strip()) < 7 else None
