"""How the fake BMC answers one request: sessions, ETags, bounds, settings that lie or come late. No sockets.

Faults, by name in `faults`:
    unauthorized   401 to everything but the service root
    no_sessions    404 where sessions are opened
    expire_once    the next request with a token gets 401, as after a time-out
    error_5xx      500 to everything
    half_json      half of each document
    no_json, huge, deep   other bodies that are no document
    redirect       302 to another host; redirect_here: to a trailing slash on this one
    lying_set      a set is accepted and nothing changes
    hard_power_off a set turns the exception action to HardPowerOff
    race           somebody else sets the limit between our reading and our set, once
    no_bounds      any value is taken, as DMTF's own mockup server does
    hang, slow, drip, close, not_http, rewritten   of the server, see server.py
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.bmc.model import V1, Json, Limit, Machine

SESSIONS = f"{V1}/SessionService/Sessions"
USER, PASSWORD = "operator", "a-fake-password"


@dataclass
class Reply:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeBmc:
    """One logical BMC. `latency_s` is how long a set takes to show, on `clock`."""

    machine: Machine = field(default_factory=Machine)
    faults: set[str] = field(default_factory=set)
    auth: bool = True
    session_limit: int = 4
    latency_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    prefix: str = ""  # a gateway's path to it; in its links too with the fault "rewritten"
    overrides: dict[str, Json] = field(default_factory=dict)  # address -> properties laid over the document
    requests: list[tuple[str, str]] = field(default_factory=list)
    sets: list[tuple[str, float | None]] = field(default_factory=list)
    sessions: dict[str, str] = field(default_factory=dict)  # id -> token
    sessions_opened: int = 0
    not_modified: int = 0
    _late: list[tuple[float, str, float | None]] = field(default_factory=list)

    # -- one request ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        self.requests.append((method, target))
        self._settle()
        path = target.split("?")[0].rstrip("/") or "/"
        if (odd := self._odd(path)) is not None:
            return odd
        if path == "/redfish":
            return _json({"v1": f"{V1}/"})
        if method == "POST" and path == SESSIONS:
            return self._log_in(body)
        if path not in {V1, f"{V1}/$metadata", f"{V1}/odata"} and not self._allowed(headers):
            return _error(401, "NoValidSession")
        if method == "DELETE" and path.startswith(SESSIONS + "/"):
            return Reply(204) if self.sessions.pop(path.rpartition("/")[2], None) else _error(404, "ResourceMissing")
        if method == "PATCH":
            return self._set(path, headers, body)
        known = target if "$skip" in target else path  # a page is a document of its own
        return self._get(known, headers) if method in {"GET", "HEAD"} else _error(405, "ActionNotSupported")

    def _odd(self, path: str) -> Reply | None:
        faults = self.faults
        if "error_5xx" in faults:
            return _error(500, "InternalError")
        if "redirect" in faults:
            return Reply(302, headers={"Location": f"http://203.0.113.7{path}"})
        if "no_json" in faults:
            return Reply(200, b"<html>login</html>", {"Content-Type": "text/html"})
        if "huge" in faults:
            return Reply(200, b'{"x":"' + b"a" * (9 * 1024 * 1024) + b'"}')
        if "deep" in faults:
            return Reply(200, b'{"a":' * 5000 + b"1" + b"}" * 5000)
        return None

    def _allowed(self, headers: dict[str, str]) -> bool:
        import base64

        if not self.auth:
            return True
        if "unauthorized" in self.faults:
            return False
        token = headers.get("x-auth-token")
        if token in self.sessions.values():
            if "expire_once" in self.faults:
                self.faults.discard("expire_once")
                self.sessions = {at: known for at, known in self.sessions.items() if known != token}
                return False
            return True
        return headers.get("authorization") == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    def _log_in(self, body: bytes) -> Reply:
        if "no_sessions" in self.faults:
            return _error(404, "ResourceMissing")
        given = json.loads(body)
        if "unauthorized" in self.faults or (given.get("UserName"), given.get("Password")) != (USER, PASSWORD):
            return _error(401, "ResourceAtUriUnauthorized")
        if len(self.sessions) >= self.session_limit:
            return _error(503, "SessionLimitExceeded")
        self.sessions_opened += 1
        at = str(self.sessions_opened)
        self.sessions[at] = f"token-{id(self):x}-{at}"
        headers = {"X-Auth-Token": self.sessions[at], "Location": f"{SESSIONS}/{at}"}
        return _json(self._session(at), status=201, headers=headers)

    def _session(self, at: str) -> Json:
        uri = f"{SESSIONS}/{at}"
        kind = "#Session.v1_7_0.Session"
        return {"@odata.id": uri, "@odata.type": kind, "Id": at, "Name": "Session", "UserName": USER}

    # -- documents -----------------------------------------------------------------------------------------------------

    def documents(self) -> dict[str, Json]:
        made = self.machine.documents()
        members = [{"@odata.id": f"{SESSIONS}/{at}"} for at in self.sessions]
        made[SESSIONS] = {
            "@odata.id": SESSIONS,
            "@odata.type": "#SessionCollection.SessionCollection",
            "Name": "Sessions",
            "Members": members,
            "Members@odata.count": len(members),
        }
        made |= {f"{SESSIONS}/{at}": self._session(at) for at in self.sessions}
        for uri, laid in self.overrides.items():
            made[uri] = {**made.get(uri, {}), **laid}
        return made

    def _get(self, path: str, headers: dict[str, str]) -> Reply:
        if path == f"{V1}/$metadata":
            return Reply(200, metadata(self.documents()), {"Content-Type": "application/xml"})
        if path == f"{V1}/odata":
            value = [{"name": "Service", "kind": "Singleton", "url": f"{V1}/"}]
            return _json({"@odata.context": f"{V1}/$metadata", "value": value})
        doc = self.documents().get(path)
        if doc is None:
            return _error(404, "ResourceMissing")
        tag = etag(doc)
        if headers.get("if-none-match") == tag:
            self.not_modified += 1
            return Reply(304, headers={"ETag": tag})
        reply = _json(doc, headers={"ETag": tag})
        if "half_json" in self.faults and path != V1:
            reply.body = reply.body[: len(reply.body) // 2]
        return reply

    # -- settings ------------------------------------------------------------------------------------------------------

    def _set(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if "race" in self.faults:
            self.faults.discard("race")
            self.machine.limits["gpu1"].value = 650.0
        doc = self.documents().get(path)
        found = self._limit(path, json.loads(body)) if doc is not None else None
        if doc is None or found is None:
            return _error(404 if doc is None else 400, "PropertyUnknown")
        if (match := headers.get("if-match")) is not None and match != etag(doc):
            return _error(412, "PreconditionFailed")
        if match is None:
            return _error(428, "PreconditionRequired")
        name, limit, value = found
        if value is not None and not limit.low <= value <= limit.high and "no_bounds" not in self.faults:
            return _error(400, "PropertyValueOutOfRange")
        self.sets.append((name, value))
        if "hard_power_off" in self.faults:
            self.machine.exception = "HardPowerOff"
        if "lying_set" not in self.faults:
            self._late.append((self.clock() + self.latency_s, name, value))
            self._settle()
        return Reply(204)

    def _limit(self, path: str, body: Json) -> tuple[str, Limit, float | None] | None:
        try:
            if path.endswith("/EnvironmentMetrics"):
                name = f"gpu{path.split('GPU_')[1].split('/')[0]}" if "/Processors/" in path else "chassis"
                value = body["PowerLimitWatts"]["SetPoint"]
            elif path.endswith("/Controls/PowerLimit"):
                name, value = "chassis", body["SetPoint"]
            else:
                name, value = "old", body["PowerControl"][0]["PowerLimit"]["LimitInWatts"]
            return name, self.machine.limits[name], value
        except (KeyError, IndexError, TypeError):
            return None

    def _settle(self) -> None:
        now = self.clock()
        due = [item for item in self._late if item[0] <= now]
        self._late = [item for item in self._late if item[0] > now]
        for _, name, value in due:
            self.machine.limits[name].value = value


def etag(doc: Json) -> str:
    return f'"{hashlib.sha1(json.dumps(doc, sort_keys=True).encode()).hexdigest()[:12]}"'


def _json(doc: Json, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    kind = {"Content-Type": "application/json;charset=utf-8", "OData-Version": "4.0", "Cache-Control": "no-cache"}
    return Reply(status, json.dumps(doc).encode(), {**kind, **(headers or {})})


def _error(status: int, word: str) -> Reply:
    info = {"@odata.type": "#Message.v1_1_1.Message", "MessageId": f"Base.1.18.{word}", "Message": word}
    doc = {"error": {"code": f"Base.1.18.{word}", "message": word, "@Message.ExtendedInfo": [info]}}
    extra = {"WWW-Authenticate": 'Basic realm="fake"'} if status == 401 else {}
    return _json(doc, status=status, headers=extra)


def metadata(docs: dict[str, Json]) -> bytes:
    """The schema list that a service must show, of the types that it uses."""
    names = sorted({doc["@odata.type"][1:].rpartition(".")[0] for doc in docs.values() if "@odata.type" in doc})
    parts = []
    for name in names:
        base = name.partition(".")[0]
        uri = f"http://redfish.dmtf.org/schemas/v1/{base}_v1.xml"
        inner = "".join(f'<edmx:Include Namespace="{n}"/>' for n in dict.fromkeys((base, name)))
        parts.append(f'<edmx:Reference Uri="{uri}">{inner}</edmx:Reference>')
    head = '<?xml version="1.0"?><edmx:Edmx xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx" Version="4.0">'
    services = (
        '<edmx:DataServices><Schema xmlns="http://docs.oasis-open.org/odata/ns/edm" Namespace="Service">'
        '<EntityContainer Name="Service" Extends="ServiceRoot.v1_15_0.ServiceContainer"/></Schema></edmx:DataServices>'
    )
    return f"{head}{''.join(parts)}{services}</edmx:Edmx>".encode()
