"""HTTP/1.1 to one BMC on asyncio's streams: a few kept connections, deadlines, bounds on every size. Standard library.

It follows a redirect on the same host and refuses one to another. It must not raise anything but BmcError: what a BMC
sends is foreign input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from agents.node.bmc.documents import BadLink, normal
from agents.node.bmc.errors import BmcDown, BmcError
from agents.node.bmc.json_text import MAX_BYTES

HEADER_BYTES: Final = 64 * 1024
REDIRECTS: Final = 3
KEPT: Final = 4
_PREFIX: Final = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~%-]+)*")


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; header names in lower case, the last of a repeated header."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where a BMC listens; `prefix` is the path in front of /redfish, where a gateway speaks for many BMCs."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @classmethod
    def of(cls, url: str) -> Target:
        """From a URL; a bare host means https. Raises ValueError with one sentence."""
        try:
            parts = urlsplit(url if "://" in url else f"https://{url}")
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is no address of a BMC ({error}); give https://HOST") from error
        if parts.username or parts.password:
            raise ValueError("credentials do not belong into the URL; give redfish_user and redfish_password_file")
        if scheme not in {"http", "https"} or not host or any(c.isspace() for c in host):
            raise ValueError(f"{url!r} is no address of a BMC; give https://HOST")
        prefix, _, below = parts.path.rstrip("/").partition("/redfish")
        if parts.query or parts.fragment or below not in {"", "/v1"} or not _PREFIX.fullmatch(prefix):
            raise ValueError(
                f"{url!r} names more than a BMC; give https://HOST, or https://GATEWAY/PATH where a gateway has its "
                "/redfish/v1 below that path"
            )
        return cls(scheme, host, port or (443 if scheme == "https" else 80), prefix)

    @property
    def netloc(self) -> str:
        """Host and, where it is not the scheme's own, port: as links write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: int = 0


@dataclass(slots=True)
class BmcHttp:
    """Requests to one BMC. `tls` None = plain HTTP."""

    target: Target
    tls: ssl.SSLContext | None
    timeout_s: float = 5.0
    _idle: list[_Connection] = field(default_factory=list)

    async def request(
        self, method: str, uri: str, *, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """One request and its answer within the time-out, redirects on the same host included.

        Raises:
            BmcDown: no connection, no HTTP.
            BmcSlow: no whole answer in time.
            BmcError: a redirect elsewhere, a body above the bound.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                for _ in range(REDIRECTS):
                    answer = await self._once(method, uri, headers or {}, body)
                    if answer.status not in {301, 302, 303, 307, 308} or method != "GET":
                        return answer
                    uri = self._redirected(uri, answer)
                raise BmcError(f"{uri} redirects more than {REDIRECTS} times and is not read")
        except TimeoutError:
            raise BmcSlow(f"{uri} gave no whole answer in {self.timeout_s:g} s") from None

    def _redirected(self, uri: str, answer: Answer) -> str:
        where = answer.headers.get("location", "")
        try:
            return normal(where, base=uri, host=self.target.netloc, prefix=self.target.prefix)
        except BadLink as error:
            raise BmcError(f"{uri} redirects away ({error})") from error

    async def _once(self, method: str, uri: str, headers: dict[str, str], body: bytes) -> Answer:
        connection = self._idle.pop() if self._idle else await self._connect()
        try:
            return await self._exchange(connection, method, uri, headers, body)
        except (OSError, asyncio.IncompleteReadError, EOFError, ssl.SSLError) as error:
            self._drop(connection)
            if not connection.used or method not in {"GET", "DELETE"}:
                raise BmcDown(f"{self.target.netloc} broke off the answer to {uri} ({_cause(error)})") from error
        except BaseException:
            self._drop(connection)
            raise
        # A kept connection may have been closed by the BMC meanwhile: once more, on a fresh one.
        connection = await self._connect()
        try:
            return await self._exchange(connection, method, uri, headers, body)
        except (OSError, asyncio.IncompleteReadError, EOFError, ssl.SSLError) as error:
            self._drop(connection)
            raise BmcDown(f"{self.target.netloc} broke off the answer to {uri} ({_cause(error)})") from error
        except BaseException:
            self._drop(connection)
            raise

    async def _connect(self) -> _Connection:
        target = self.target
        name = target.host if self.tls is not None else None
        try:
            reader, writer = await asyncio.open_connection(
                target.host, target.port, ssl=self.tls, server_hostname=name, limit=HEADER_BYTES
            )
        except ssl.SSLCertVerificationError as error:
            raise BmcDown(
                f"the certificate of {target.netloc} is not trusted ({error.verify_message}); give its CA by "
                "redfish_ca_file, or redfish_insecure = true to do without"
            ) from error
        except (OSError, UnicodeError) as error:
            raise BmcDown(f"{target.netloc} takes no connection ({_cause(error)})") from error
        return _Connection(reader, writer)

    async def _exchange(
        self, connection: _Connection, method: str, uri: str, headers: dict[str, str], body: bytes
    ) -> Answer:
        lines = {"Host": self.target.netloc, "Accept": "application/json", "OData-Version": "4.0", **headers}
        if body or method in {"POST", "PATCH"}:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        wire = f"{self.target.prefix}{uri}".replace(" ", "%20")
        head = f"{method} {wire} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        connection.writer.write(head.encode("utf-8") + b"\r\n" + body)
        await connection.writer.drain()
        answer, keep = await _answer(connection.reader, uri)
        connection.used += 1
        if keep and len(self._idle) < KEPT:
            self._idle.append(connection)
        else:
            self._drop(connection)
        return answer

    @staticmethod
    def _drop(connection: _Connection) -> None:
        connection.writer.transport.abort()

    async def close(self) -> None:
        """Closes what is kept open."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.writer.close()
            with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
                async with asyncio.timeout(0.5):
                    await connection.writer.wait_closed()


class BmcSlow(BmcError):
    """One document did not come in time; a second time in one poll means that the BMC hangs."""


def _cause(error: BaseException) -> str:
    if isinstance(error, asyncio.IncompleteReadError):
        return f"closed after {len(error.partial)} bytes"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error).lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


async def _answer(reader: asyncio.StreamReader, uri: str) -> tuple[Answer, bool]:
    """Status, headers and body; whether the connection can be used again."""
    while True:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise BmcDown(f"{uri}: more than {HEADER_BYTES} bytes of headers") from None
        first, *lines = raw.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise BmcDown(f"{uri}: the answer is no HTTP ({first[:60]!r})")
        status = int(words[1])
        if status >= 200:
            break
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
    }
    keep = "close" not in headers.get("connection", "").lower() and words[0] == "HTTP/1.1"
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise BmcError(f"{uri}: the answer is packed ({headers['content-encoding'][:20]}), which was not asked for")
    body, whole = await _body(reader, status, headers, uri)
    return Answer(status, headers, body), keep and whole


async def _body(reader: asyncio.StreamReader, status: int, headers: dict[str, str], uri: str) -> tuple[bytes, bool]:
    if status in {204, 304}:
        return b"", True
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _chunks(reader, uri), True
    if (length := headers.get("content-length")) is not None:
        if not length.isdigit() or len(length) > 12:
            raise BmcDown(f"{uri}: Content-Length {length[:20]!r} is no number")
        if int(length) > MAX_BYTES:
            raise BmcError(f"{uri} is {length} bytes long, above {MAX_BYTES}, and is not read")
        return await reader.readexactly(int(length)), True
    parts: list[bytes] = []
    size = 0
    while part := await reader.read(65536):
        size += len(part)
        if size > MAX_BYTES:
            raise BmcError(f"{uri} is longer than {MAX_BYTES} bytes and is not read")
        parts.append(part)
    return b"".join(parts), False


async def _chunks(reader: asyncio.StreamReader, uri: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            line = await reader.readuntil(b"\n")
            length = int(line.split(b";")[0].strip(), 16)
        except (ValueError, asyncio.LimitOverrunError):
            raise BmcDown(f"{uri}: the answer's chunks cannot be told apart") from None
        if length < 0 or (size := size + length) > MAX_BYTES:
            raise BmcError(f"{uri} is longer than {MAX_BYTES} bytes and is not read")
        if length == 0:
            while (await reader.readuntil(b"\n")).strip():
                pass
            return b"".join(parts)
        parts.append(await reader.readexactly(length))
        await reader.readuntil(b"\n")
