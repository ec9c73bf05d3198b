"""Requests of the privileged process to one BMC: get and patch with If-Match, by the standard library alone.

Basic authentication, on purpose: a session that a killed capper leaves open would lock its owner out of a BMC that has
four. Answers are bounded; a redirect is an error, because a limit must not be set somewhere else.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agents.capper.actuators.errors import ActuatorError, DeviceLost, NotPermitted, NotSupported, OutOfRange
from agents.capper.errors import CapperError

Json = dict[str, Any]
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 4 * 1024 * 1024
ROOT: Final = "/redfish/v1"


class Mismatch(Exception):
    """412: the resource is not what it was when we read it."""


@dataclass(frozen=True, slots=True)
class Document:
    uri: str
    body: Json
    etag: str | None


class BmcClient:
    """One BMC, one connection, one thread.

    Args:
        url: "https://HOST"; plain http carries a password only to this machine, or when `insecure` says so.
        user, password_file: basic authentication; both or none.
        ca_file: CA of the BMC's certificate, PEM; "" = the system's.
        insecure: the certificate is not checked.

    Raises:
        CapperError: the settings cannot be.
    """

    def __init__(
        self, url: str, *, user: str = "", password_file: str = "", ca_file: str = "", insecure: bool = False
    ) -> None:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        path = parts.path.rstrip("/") not in {"", "/redfish", "/redfish/v1"}
        if parts.scheme not in {"http", "https"} or not host or parts.username or parts.password or path:
            raise CapperError("redfish_url is no address of a BMC; give https://HOST, without credentials or a path")
        self.host, self._port = host, port
        self._tls = _context(ca_file, insecure) if parts.scheme == "https" else None
        self._headers = {"Accept": "application/json", "OData-Version": "4.0", **_authorization(user, password_file)}
        local = host in {"localhost", "::1"} or host.startswith("127.")
        if self._tls is None and user and not local and not insecure:
            raise CapperError(f"a password would go to {host} in the clear; use https, or redfish_insecure = true")
        self._connection: http.client.HTTPConnection | None = None

    def get(self, uri: str) -> Document:
        """One resource. Raises ActuatorError."""
        status, headers, body = self._request("GET", uri, {}, None)
        self._check(status, uri, body)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise DeviceLost(f"the BMC's answer for {uri} is not JSON") from error
        if not isinstance(value, dict):
            raise DeviceLost(f"the BMC's answer for {uri} is no object")
        return Document(uri, value, headers.get("etag"))

    def patch(self, uri: str, change: Json, etag: str | None) -> None:
        """Sets properties if the resource still is what `etag` says. Raises Mismatch, ActuatorError."""
        headers = {"Content-Type": "application/json"} | ({"If-Match": etag} if etag else {})
        status, _, body = self._request("PATCH", uri, headers, json.dumps(change).encode())
        if status == 412:
            raise Mismatch(uri)
        self._check(status, uri, body)

    def _check(self, status: int, uri: str, body: bytes) -> None:
        if status in {200, 202, 204}:
            return
        text = f"the BMC answered {status} for {uri}{_message(body)}"
        if status in {401, 403}:
            raise NotPermitted(f"{text}; check redfish_user, redfish_password_file and the user's role")
        if status == 400:
            raise OutOfRange(text)
        if status in {404, 405, 410, 501}:
            raise NotSupported(text)
        if 300 <= status < 400:
            raise NotSupported(f"{text}: a redirect is not followed; give the BMC's own address by redfish_url")
        raise DeviceLost(text)

    def _request(
        self, method: str, uri: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Once more on a fresh connection when the BMC closed a kept one; a set is absolute, so it may repeat."""
        for kept in (self._connection is not None, False):
            try:
                return self._exchange(method, uri, headers, body)
            except (http.client.HTTPException, OSError) as error:
                self.close()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise NotPermitted(
                        f"the certificate of {self.host} is not trusted ({error.verify_message}); give its CA by "
                        "redfish_ca_file, or redfish_insecure = true to do without"
                    ) from error
                if not kept or isinstance(error, TimeoutError):
                    cause = "no answer in time" if isinstance(error, TimeoutError) else _cause(error)
                    raise DeviceLost(f"BMC {self.host} does not answer {method} {uri} ({cause})") from error
        raise AssertionError("unreachable")

    def _exchange(
        self, method: str, uri: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        if self._connection is None:
            if self._tls is not None:
                self._connection = http.client.HTTPSConnection(
                    self.host, self._port, timeout=TIMEOUT_S, context=self._tls
                )
            else:
                self._connection = http.client.HTTPConnection(self.host, self._port, timeout=TIMEOUT_S)
        self._connection.request(method, uri, body=body, headers={**self._headers, **headers})
        answer = self._connection.getresponse()
        read = answer.read(MAX_BYTES + 1)
        if len(read) > MAX_BYTES:
            raise http.client.HTTPException(f"more than {MAX_BYTES} bytes")
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, read

    def close(self) -> None:
        """Drops the connection; the next request opens one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def link(doc: Json, name: str) -> str | None:
    """The address that a property refers to, on this BMC; None when there is none."""
    value = doc.get(name)
    return path_of(value.get("@odata.id") if isinstance(value, dict) else None)


def path_of(address: object) -> str | None:
    if not isinstance(address, str) or not address.startswith("/redfish/") or ".." in address:
        return None
    return None if any(c.isspace() or ord(c) < 33 for c in address) else address.partition("#")[0].rstrip("/")


def members(client: BmcClient, uri: str | None) -> list[str]:
    """The members of a collection, without further pages. Raises ActuatorError."""
    if uri is None:
        return []
    listed = client.get(uri).body.get("Members")
    found = (
        [path_of(item.get("@odata.id")) for item in listed if isinstance(item, dict)]
        if isinstance(listed, list)
        else []
    )
    return [path for path in found if path is not None]


def _context(ca_file: str, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise CapperError(f"redfish_ca_file {ca_file} cannot be used ({error})") from error
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _authorization(user: str, password_file: str) -> dict[str, str]:
    if not user and not password_file:
        return {}
    if not user or not password_file:
        raise CapperError("a login at the BMC takes redfish_user and redfish_password_file, both")
    try:
        with Path(password_file).open(encoding="utf-8") as file:
            password = file.readline(4096).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CapperError(f"redfish_password_file {password_file} cannot be read ({_cause(error)})") from error
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def _message(body: bytes) -> str:
    """The BMC's own words, if it has any."""
    try:
        error = json.loads(body[:65536])["error"]
        words = error.get("@Message.ExtendedInfo", [{}])[0].get("Message") or error.get("message")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return ""
    return f" ({str(words)[:120]})" if words else ""


def _cause(error: BaseException) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error) or type(error).__name__


__all__ = ["ROOT", "ActuatorError", "BmcClient", "Document", "Json", "Mismatch", "link", "members", "path_of"]
