"""Who may call what: every route carries a role, checked before its body is even read. It never trusts a header alone.

Order: rate limit of the address, key, role, rate limit of the key. Without a key only public routes answer, except for
loopback callers of a demo.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, cast

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from agents.gateway.keys import KeyStore, Role, allows
from agents.gateway.problems import Problem, shown_path
from agents.gateway.settings import GatewaySettings, is_loopback

Needed = Literal["public", "read", "operate", "admin"]
DEMO_ROLE: Final[Role] = "operate"  # of a loopback caller without a key in a demo: devices there are simulated
MOST_BUCKETS: Final = 10_000
CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="energy-orchestrator"'}
HOW_TO_KEY: Final = "make one with `eo keys add NAME --role read`, send it as `Authorization: Bearer KEY`"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the key's id and name, or the address of a caller without a key."""

    id: str
    name: str
    role: Role | None


@dataclass(slots=True)
class Buckets:
    """Token buckets by name, the longest unused forgotten first; `burst_s` seconds' worth may come at once."""

    monotonic: Callable[[], float]
    burst_s: float = 2.0
    _level: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait_s(self, name: str, rate_per_s: float) -> float:
        """Takes one token: 0 when there was one, else the seconds until there is."""
        now, most = self.monotonic(), max(1.0, rate_per_s * self.burst_s)
        level, at = self._level.pop(name, (most, now))
        level = min(most, level + (now - at) * rate_per_s)
        taken = level >= 1.0
        self._level[name] = (level - 1.0 if taken else level, now)
        while len(self._level) > MOST_BUCKETS:
            self._level.popitem(last=False)
        return 0.0 if taken else (1.0 - level) / rate_per_s


class Gate:
    """Lets a request in or raises the problem that says why not."""

    def __init__(
        self, settings: GatewaySettings, keys: KeyStore, *, wall_ns: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self._settings, self._keys, self._wall_ns = settings, keys, wall_ns
        self._buckets = Buckets(monotonic)

    def enter(self, request: Request, needed: Needed) -> Caller:
        """The caller; raises Problem 401, 403 or 429."""
        host = request.client.host if request.client else "unknown"
        text = _presented(request)
        if text is None:
            caller = self._without_key(request, host, needed)
        else:
            caller = self._with_key(text, host)
        self._limit(request.method, caller.id)
        if needed != "public" and (caller.role is None or not allows(caller.role, needed)):
            raise Problem(
                403,
                f"{caller.id!r} has role {caller.role!r}, and {request.method} {shown_path(request)} needs {needed!r}.",
                fix=f"use a key of role {needed}: `eo keys add NAME --role {needed}` makes one",
            )
        return caller

    def _without_key(self, request: Request, host: str, needed: Needed) -> Caller:
        # The Host header too: a web page elsewhere that resolves its own name to 127.0.0.1 is no loopback caller.
        named = _host_name(request.headers.get("host", ""))
        if self._settings.open_demo and is_loopback(host) and is_loopback(named):
            return Caller(host, "demo", DEMO_ROLE)
        if needed == "public":
            return Caller(host, host, None)
        self._limit(request.method, host)
        raise Problem(401, f"{request.method} {shown_path(request)} needs a key.", fix=HOW_TO_KEY, headers=CHALLENGE)

    def _with_key(self, text: str, host: str) -> Caller:
        key = self._keys.find(text)
        state = None if key is None else key.state(self._wall_ns())
        if key is None or state != "live":
            self._limit("GET", host)  # guesses of one address share one bucket, whatever they present
            why = "is not known" if key is None else f"{key.id!r} is {state}"
            raise Problem(401, f"the key {why}.", fix=HOW_TO_KEY, headers=CHALLENGE)
        return Caller(key.id, key.name, key.role)

    def stands(self, caller: Caller) -> bool:
        """Whether a caller who was let in would still be: what ends long answers when a key is revoked or runs out."""
        if caller.role is None or (caller.name == "demo" and self._settings.open_demo):
            return True
        key = self._keys.get(caller.id)
        return key is not None and key.state(self._wall_ns()) == "live"

    def _limit(self, method: str, name: str) -> None:
        rates = {"all": self._settings.rate_per_s}
        if method not in ("GET", "HEAD"):
            rates["write"] = self._settings.write_rate_per_s
        for kind, rate in rates.items():
            if (wait_s := self._buckets.wait_s(f"{kind}/{name}", rate)) > 0:
                raise Problem(
                    429,
                    f"{name} has used its {rate:g} requests a second ({kind}).",
                    fix=f"wait {wait_s:.1f} s, or raise EO_GATEWAY_{'WRITE_' if kind == 'write' else ''}RATE_PER_S",
                    headers={"Retry-After": str(int(wait_s) + 1)},
                )


def _host_name(text: str) -> str:
    """The name of a Host header, without its port."""
    return text.partition("]")[0] + "]" if text.startswith("[") else text.rpartition(":")[0] or text


def _presented(request: Request) -> str | None:
    """The key that came with the request; None without any.

    Raises Problem for several: what stands before us may have checked the other one.
    """
    if sum(len(request.headers.getlist(name)) for name in ("authorization", "x-api-key")) > 1:
        raise Problem(400, "the request carries several keys.", fix="send one Authorization or one X-API-Key header")
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    if text.strip() and kind.lower() == "bearer":
        return text.strip()
    if kind:
        return kind + text  # another scheme is a wrong key, not none
    return request.headers.get("x-api-key")


class GuardedRoute(APIRoute):
    """A route that knows its role; `guarded` makes the class of each role."""

    role: Needed

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner, role = super().get_route_handler(), self.role

        async def handler(request: Request) -> Response:
            request.state.caller = cast(Gate, request.app.state.gate).enter(request, role)
            return await inner(request)

        return handler


def guarded(role: Needed) -> type[GuardedRoute]:
    """The route class of a router whose routes need this role."""
    return type(f"{role.title()}Route", (GuardedRoute,), {"role": role})


async def _caller(request: Request) -> Caller:
    return cast(Caller, request.state.caller)


CallerDep = Annotated[Caller, Depends(_caller)]
