"""One BMC polled again and again: a walk to find things, then only what gave something; a circuit breaker.

A BMC that fails costs its deadline and then little: tries grow apart. Many pollers share one event loop and nothing
else, so that a BMC that hangs delays no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agents.node.bmc.documents import Documents
from agents.node.bmc.errors import BmcDown, BmcError
from agents.node.bmc.extract import snapshot
from agents.node.bmc.http import BmcHttp, BmcSlow, Target
from agents.node.bmc.rows import Snapshot
from agents.node.bmc.session import BmcSession, Credentials
from agents.node.bmc.values import Json
from agents.node.bmc.walk import Walk

log = logging.getLogger("eo.agent.bmc")
SLOW_ENOUGH: Final = 2  # documents without an answer in time: then the BMC hangs
MOST_BYTES: Final = 64 * 1024 * 1024  # of one poll; a DGX H100 gives one
MAX_AGE_S: Final = 60.0  # a value that could not be read again for so long is no value any more
FIRST: Final = frozenset({"system", "environment", "processor_metrics", "power", "supply_metrics", "control", "report"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a BMC. Times in seconds."""

    url: str
    credentials: Credentials | None = None
    ca_file: str = ""
    insecure: bool = False  # no check of its certificate; a password then goes to whoever answers
    basic: bool = False
    deadline_s: float = 5.0  # of one answer, and of one poll of known documents
    discovery_s: float = 60.0  # of the walk that finds them
    rediscover_s: float = 900.0
    workers: int = 4  # requests under way at once

    def open(self) -> BmcSession:
        """A session, not yet logged in. Raises ValueError with one sentence."""
        target = Target.of(self.url)
        local = target.host in {"localhost", "::1"} or target.host.startswith("127.")
        if target.scheme == "http" and self.credentials is not None and not local and not self.insecure:
            raise ValueError(
                f"a password would go to {target.netloc} in the clear; use https, or redfish_insecure = true"
            )
        return BmcSession(BmcHttp(target, self._tls(target), self.deadline_s), self.credentials, basic=self.basic)

    def _tls(self, target: Target) -> ssl.SSLContext | None:
        if target.scheme == "http":
            return None
        if self.ca_file and not Path(self.ca_file).is_file():
            raise ValueError(f"redfish_ca_file {self.ca_file} is no file; give the CA's certificate as PEM")
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except ssl.SSLError as error:
            raise ValueError(f"redfish_ca_file {self.ca_file} holds no certificate ({error.reason})") from error
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


@dataclass(slots=True)
class Breaker:
    """Open after three failures in a row; the pause doubles from 10 s to 5 minutes, with jitter against lockstep."""

    monotonic: Callable[[], float] = time.monotonic
    failures: int = 0
    closed_at_s: float = 0.0
    jitter: Callable[[], float] = field(default=random.random)

    def wait_s(self) -> float:
        """Seconds until a try is allowed, 0 = now."""
        return max(0.0, self.closed_at_s - self.monotonic())

    def succeeded(self) -> None:
        self.failures, self.closed_at_s = 0, 0.0

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= 3:
            pause = min(300.0, 10.0 * 2.0 ** min(self.failures - 3, 10))
            self.closed_at_s = self.monotonic() + pause * (0.75 + 0.5 * self.jitter())


class BmcPoller:
    """One BMC. `last` is the newest snapshot, `problem` why the newest poll failed, `events` its power states."""

    def __init__(self, access: Access, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.access, self._monotonic = access, monotonic
        self.breaker = Breaker(monotonic)
        self.last: Snapshot | None = None
        self.last_at_s = 0.0
        self.problem: str | None = None
        self.events: deque[tuple[str, str | None, str]] = deque(maxlen=64)  # system, before, now
        self._session: BmcSession | None = None
        self._docs: Documents | None = None
        self._used: set[str] = set()
        self._found_at_s = 0.0
        self._read_at_s: dict[str, float] = {}
        self._slow = 0
        self._began_at = 0  # bytes read before this poll
        self._state: dict[str, str] = {}

    async def poll(self) -> Snapshot | None:
        """One poll, or nothing while the breaker is open. Never raises: the problem is kept, and logged once."""
        if (wait := self.breaker.wait_s()) > 0:
            self.problem = f"{self._short()} ({self.breaker.failures} failures in a row; next try in {wait:.0f} s)"
            return None
        try:
            found = await self._read()
        except BmcError as error:
            self.breaker.failed()
            self._told(str(error))
            return None
        self.breaker.succeeded()
        self._told(None)
        self._notice(found.state)
        self.last, self.last_at_s = found, self._monotonic()
        return found

    def _short(self) -> str:
        return (self.problem or "it does not answer").partition(" (")[0]

    def _told(self, problem: str | None) -> None:
        before = None if self.problem is None else self._short()
        if problem is None and before is not None:
            log.warning("BMC %s answers again", self.access.url)
        elif problem is not None and before != problem.partition(" (")[0]:
            log.warning("BMC %s: %s", self.access.url, problem)
        self.problem = problem

    def _notice(self, state: dict[str, str]) -> None:
        for system, now in state.items():
            if (before := self._state.get(system)) != now:
                self.events.append((system, before, now))
                if before is not None:
                    log.warning("BMC %s: system %s went from %s to %s", self.access.url, system, before, now)
        self._state = dict(state)

    async def _read(self) -> Snapshot:
        if self._session is None:
            try:
                self._session = self.access.open()
            except ValueError as error:
                raise BmcDown(str(error)) from error
        self._slow, self._began_at = 0, self._session.bytes_read
        due = self._docs is None or self._monotonic() - self._found_at_s > self.access.rediscover_s
        docs = await self._discover(self._session) if due else await self._refresh(self._session)
        found = snapshot(docs)
        self._used = found.used if due else self._used | found.used
        return found

    async def _get(self, uri: str) -> Json:
        assert self._session is not None
        if self._session.bytes_read - self._began_at > MOST_BYTES:
            raise BmcDown(f"{self._session.host} gave more than {MOST_BYTES} bytes in one poll and is not read on")
        try:
            return await self._session.get(uri)
        except BmcSlow as error:
            self._slow += 1
            if self._slow >= SLOW_ENOUGH or self._docs is None:
                raise BmcDown(str(error)) from error
            raise

    async def _discover(self, session: BmcSession) -> Documents:
        walk = Walk(self._get, host=session.host, prefix=session.prefix, expand=True, workers=self.access.workers)
        try:
            docs = await walk.run(self.access.discovery_s)
        except* BmcError as group:
            raise _first(group) from None
        self._docs, self._found_at_s = docs, self._monotonic()
        self._read_at_s = dict.fromkeys(docs.origin.values(), self._found_at_s)
        return docs

    async def _refresh(self, session: BmcSession) -> Documents:
        """Asks again for what gave something, as much as the deadline allows. Raises BmcError when nothing came."""
        docs = self._docs
        assert docs is not None
        roles = {uri: role for role, known in docs.roles.items() for uri in known}
        uris = sorted((uri for uri in self._used if uri in roles), key=lambda uri: self._turn(docs, roles[uri], uri))
        wanted = dict.fromkeys(docs.origin[uri] for uri in uris)
        queue = deque(wanted)
        fresh: dict[str, Json] = {}
        docs.missing = {}
        try:
            await self._fetch_all(queue, fresh, docs)
        except TimeoutError:
            if not fresh:
                raise BmcDown(f"{session.host} gave nothing in {self.access.deadline_s:g} s") from None
        now = self._monotonic()
        self._read_at_s |= dict.fromkeys(fresh, now)
        old = [uri for uri in uris if now - self._read_at_s.get(docs.origin[uri], 0.0) > MAX_AGE_S]
        if old:
            docs.missing["poll"] = f"{len(old)} documents are older than {MAX_AGE_S:g} s and give no value"
        _replace(docs, fresh, uris, roles, frozenset(old))
        return docs

    def _turn(self, docs: Documents, role: str, uri: str) -> tuple[bool, float]:
        """Power in every poll; of the rest, what waited longest comes first: a slow BMC answers some forty in 5 s."""
        name = uri.rpartition("/")[2].lower()
        power = role in FIRST or (role == "sensor" and any(word in name for word in ("pwr", "power", "energy")))
        return not power, self._read_at_s.get(docs.origin[uri], 0.0)

    async def _fetch_all(self, queue: deque[str], fresh: dict[str, Json], docs: Documents) -> None:
        try:
            async with asyncio.timeout(self.access.deadline_s), asyncio.TaskGroup() as group:
                for _ in range(self.access.workers):
                    group.create_task(self._fetch(queue, fresh, docs))
        except* BmcError as failed:
            raise _first(failed) from None

    async def _fetch(self, queue: deque[str], fresh: dict[str, Json], docs: Documents) -> None:
        while queue:
            uri = queue.popleft()
            try:
                fresh[uri] = await self._get(uri)
            except BmcError as error:
                if error.fatal:
                    raise
                docs.missing[uri] = str(error)

    async def close(self) -> None:
        """Closes the session at the BMC. May be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _replace(
    docs: Documents, fresh: dict[str, Json], uris: list[str], roles: dict[str, str], old: frozenset[str]
) -> None:
    """New contents for old addresses; one whose turn has not come stays, one too old loses its values."""
    for uri in uris:
        origin, known = docs.origin[uri], docs.roles[roles[uri]]
        if origin not in fresh and uri not in old and origin not in docs.missing:
            continue
        if origin == uri:
            known[uri] = fresh.get(uri) or _identity(known[uri])
        elif roles[uri] == "sensor" and origin in docs.of("report"):
            known[uri] = _identity(known[uri]) | {"@eo.report": True, "ReadingType": known[uri].get("ReadingType")}
        else:
            members = fresh.get(origin, {}).get("Members")
            by_uri = {docs.link(m): m for m in members if isinstance(m, dict)} if isinstance(members, list) else {}
            known[uri] = by_uri.get(uri) or _identity(known[uri])


def _identity(doc: Json) -> Json:
    """What a document is, without what it measures."""
    return {name: doc[name] for name in ("@odata.id", "Id", "Name", "Links", "ReadingType", "Location") if name in doc}


def _first(group: BaseExceptionGroup[BmcError]) -> BmcError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, BmcError)
    return found
