"""Errors of the API as problem+json (RFC 9457): what is wrong with the value and the bound; `fix` is the next step."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

log = logging.getLogger(__name__)
MEDIA_TYPE: Final = "application/problem+json"
SHOWN_CHARS: Final = 80  # of a caller's own value in an answer
MEANINGS: Final[dict[int, str]] = {
    400: "The request cannot be read.",
    401: "No key, or one that does not count.",
    403: "The key's role does not allow this.",
    404: "There is no such thing here.",
    405: "The path exists, but not with this method.",
    409: "The request contradicts the present state; nothing was done.",
    413: "The body is too large.",
    422: "A value is of the wrong type or out of bounds.",
    429: "Too many requests; Retry-After says when to come back.",
    500: "The gateway failed; its log has the reason.",
    503: "What is needed to answer is not there now.",
}
SCHEMA: Final[dict[str, Any]] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "fix"],
    "properties": {
        "type": {"type": "string", "description": "page of the docs with this kind of error"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong, with the value and the bound"},
        "fix": {"type": "string", "description": "the next step"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["where", "problem"],
                "properties": {"where": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
    },
}


class Problem(Exception):
    """An answer that is no success. `headers` go out with it."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        fix: str,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.fix = status, detail, fix
        self.headers, self.errors = dict(headers or {}), errors

    def response(self) -> Response:
        body = {
            "type": f"/docs#{self.status}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "fix": self.fix,
        }
        if self.errors:
            body["errors"] = self.errors
        return Response(msgspec.json.encode(body), self.status, self.headers, MEDIA_TYPE)


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: each status with its meaning and the problem's shape."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": MEANINGS[status], "content": content} for status in statuses}


def nearest(name: str, known: Iterable[str]) -> str:
    """ "did you mean X?", or the names that exist when none is near."""
    names = sorted(known)
    if near := difflib.get_close_matches(name[:200], names, 1, 0.5):
        return f"did you mean {near[0]!r}?"
    if not names:
        return "there are none yet."
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"there are: {shown}."


def shown(value: object) -> str:
    """A caller's value, short enough for an answer."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def shown_path(request: Request) -> str:
    """The path as it came, short and harmless. Not `request.url`: a broken Host header cannot be made into one."""
    return shown(request.scope["path"])[1:-1]


def install(app: FastAPI) -> None:
    """Every error of the application leaves as a problem."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    from agents.cli.base import EoError

    def answer_with(make: Callable[[Request, Any], Problem]) -> Callable[[Request, Exception], Any]:
        async def handler(request: Request, error: Exception) -> Response:
            return make(request, error).response()

        return handler

    app.add_exception_handler(Problem, answer_with(lambda _, error: error))
    app.add_exception_handler(RequestValidationError, answer_with(lambda _, error: _invalid(error)))
    app.add_exception_handler(HTTPException, answer_with(_http))
    app.add_exception_handler(EoError, answer_with(lambda _, error: _of_eo(error)))
    app.add_exception_handler(Exception, answer_with(_unexpected))


def _invalid(error: Any) -> Problem:
    """Each wrong value with its place; JSON that cannot be read is a 400."""
    found = error.errors()
    broken = next((one for one in found if one["type"] == "json_invalid"), None)
    if broken is not None:
        why = str(broken.get("ctx", {}).get("error", broken["msg"]))
        return Problem(
            400, f"the body is not JSON: {why}.", fix="send one JSON object with Content-Type application/json"
        )
    unlabelled = isinstance(found[0].get("input"), bytes) and tuple(found[0]["loc"]) == ("body",)
    if unlabelled:  # curl -d calls it a form unless told otherwise
        return Problem(
            422,
            "body: it does not call itself JSON, so it was not read as JSON.",
            fix="send the header Content-Type: application/json",
        )
    errors = [{"where": _where(one), "problem": _wrong(one)} for one in found]
    first = errors[0]
    return Problem(422, f"{first['where']}: {first['problem']}", fix=_fix(found[0]), errors=errors)


def _where(one: Mapping[str, Any]) -> str:
    return ".".join(str(part)[:SHOWN_CHARS] for part in one["loc"] if part != "body") or "body"


def _wrong(one: Mapping[str, Any]) -> str:
    message = str(one["msg"]).removeprefix("Value error, ").rstrip(".")
    if one["type"] == "missing":
        return "is missing"
    return f"{shown(one.get('input'))} is refused: {message[:1].lower()}{message[1:]}"


def _fix(one: Mapping[str, Any]) -> str:
    expected = one.get("ctx", {}).get("expected")
    if one["type"] in ("literal_error", "enum") and isinstance(expected, str):
        names = [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
        return nearest(str(one.get("input")), names)
    return f"give {_where(one)} as /docs describes it"


def _http(request: Request, error: Any) -> Problem:
    status = int(error.status_code)
    if isinstance(error.detail, Problem):
        return error.detail
    if status == 404:
        known = [path for path in request.app.state.paths if "{" not in path]
        path = shown_path(request)
        return Problem(404, f"there is no {path} here.", fix=nearest(path, known))
    if status == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return Problem(
            405,
            f"{request.method} is not a method of {shown_path(request)}.",
            fix=f"use {allowed}",
            headers=error.headers,
        )
    if status == 400:
        return Problem(400, "the body cannot be read: it is not UTF-8 JSON.", fix="send one JSON object in UTF-8")
    return Problem(status, f"{error.detail}.", fix="see /docs", headers=error.headers)


def _of_eo(error: Any) -> Problem:
    """A sentence of `eo`'s own parts: it already says the next step."""
    detail, _, fix = str(error).partition("; ")
    return Problem(503, f"{detail}.".replace("..", "."), fix=fix or "see the gateway's log")


def _unexpected(request: Request, error: Exception) -> Problem:
    log.error("%s %s failed", request.method, shown_path(request), exc_info=error)
    detail = f"the gateway failed on {request.method} {shown_path(request)} ({type(error).__name__})."
    return Problem(500, detail, fix="the gateway's log has the reason; please report it")
