"""A session with one BMC: logs in once, asks with an ETag, logs in again when the token has expired, and logs out.

Sessions are few on a BMC, and one left open locks its owner out: whoever opens one closes it. Where the BMC gives no
session, basic authentication is used. A password never leaves over plain HTTP but to this machine.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from dataclasses import dataclass
from typing import Final

import msgspec

from agents.node.bmc.documents import ROOT, BadLink, normal
from agents.node.bmc.errors import BmcDown, BmcError, BmcRefuses
from agents.node.bmc.http import Answer, BmcHttp
from agents.node.bmc.json_text import document
from agents.node.bmc.values import Json

log = logging.getLogger("eo.agent.bmc")
SESSIONS: Final = f"{ROOT}/SessionService/Sessions"
NO_SESSIONS: Final = frozenset({400, 403, 404, 405, 409, 429, 501, 503})  # no such service, or no free place


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.user!r})"  # never the password


class BmcSession:
    """Documents of one BMC.

    Args:
        http: requests to it.
        credentials: None = ask without.
        basic: never open a session.
    """

    def __init__(self, http: BmcHttp, credentials: Credentials | None, *, basic: bool = False) -> None:
        self._http, self._credentials, self._basic = http, credentials, basic
        self._token: str | None = None
        self._at: str | None = None  # the session's own address
        self._login = asyncio.Lock()
        self._tags: dict[str, tuple[str, Json]] = {}
        self.bytes_read = 0

    @property
    def host(self) -> str:
        return self._http.target.netloc

    @property
    def prefix(self) -> str:
        return self._http.target.prefix

    async def get(self, uri: str) -> Json:
        """One document, from memory when the BMC says that it has not changed. Raises BmcError."""
        if self._credentials is not None and uri != ROOT:
            await self._open(None)
        known = self._tags.get(uri)
        used = self._token
        answer = await self._ask(uri, known[0] if known else None)
        if answer.status == 401 and self._credentials is not None:
            await self._open(used)  # the token has expired, or another request has renewed it already
            answer = await self._ask(uri, known[0] if known else None)
        if answer.status == 304 and known:
            return known[1]
        return self._read(uri, answer)

    def _read(self, uri: str, answer: Answer) -> Json:
        if answer.status == 401:
            given = "the credentials" if self._credentials else "a reading without credentials"
            step = "check redfish_user and redfish_password_file" if self._credentials else "give redfish_user"
            raise BmcRefuses(f"{self.host} refuses {given} (401 for {uri}); {step}")
        if answer.status == 403:
            raise BmcError(f"{uri} is forbidden to this user (403); it needs the privilege to log in and read")
        if answer.status != 200:
            raise BmcError(f"{uri} answered {answer.status}")
        self.bytes_read += len(answer.body)
        doc = document(answer.body, uri)
        if tag := answer.headers.get("etag"):
            self._tags[uri] = (tag, doc)
        return doc

    async def _ask(self, uri: str, tag: str | None) -> Answer:
        headers = self._auth()
        if tag is not None:
            headers["If-None-Match"] = tag
        return await self._http.request("GET", uri, headers=headers)

    def _auth(self) -> dict[str, str]:
        if self._token is not None:
            return {"X-Auth-Token": self._token}
        if self._credentials is not None and self._basic:
            pair = f"{self._credentials.user}:{self._credentials.password}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return {}

    async def _open(self, expired: str | None) -> None:
        """Opens a session unless there is one that has not expired. Raises BmcRefuses.

        A login that has begun is finished even when nobody waits for it any more: else its session would be lost, open.
        """
        if not self._basic and (self._token is None or self._token == expired):
            await asyncio.shield(asyncio.ensure_future(self._log_in(expired)))

    async def _log_in(self, expired: str | None) -> None:
        async with self._login:
            if self._basic or (self._token is not None and self._token != expired):
                return
            self._token = self._at = None
            assert self._credentials is not None
            body = msgspec.json.encode({"UserName": self._credentials.user, "Password": self._credentials.password})
            answer = await self._http.request("POST", SESSIONS, body=body)
            if answer.status in NO_SESSIONS:
                log.info("%s gives no session (%d); going on with basic authentication", self.host, answer.status)
                self._basic = True
            elif answer.status in {200, 201}:
                self._keep(answer)
            else:
                raise BmcRefuses(
                    f"{self.host} does not log user {self._credentials.user!r} in ({answer.status}); "
                    "check redfish_user and redfish_password_file"
                )

    def _keep(self, answer: Answer) -> None:
        self._token = answer.headers.get("x-auth-token")
        where = answer.headers.get("location", "")
        try:
            if not where:
                where = str(document(answer.body, SESSIONS).get("@odata.id", ""))
            self._at = normal(where, base=SESSIONS, host=self.host, prefix=self.prefix)
        except (BadLink, BmcError):
            self._at = None
        if self._token is None:
            self._basic = True

    async def close(self) -> None:
        """Closes the session and the connections; a BMC that does not answer keeps its session until it times out."""
        async with self._login:
            token, where, self._token, self._at = self._token, self._at, None, None
        if token is not None and where is not None:
            try:
                answer = await self._http.request("DELETE", where, headers={"X-Auth-Token": token})
                if answer.status not in {200, 202, 204, 401, 404}:
                    log.warning(
                        "%s did not close its session (%d): it ends by its own time-out", self.host, answer.status
                    )
            except (BmcError, BmcDown) as error:
                log.warning("%s: its session stays until it times out (%s)", self.host, error)
        await self._http.close()
