"""The console at `/`, the API's page at `/docs`, the document at `/openapi.json`: nothing from another host."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from agents.gateway.access import guarded
from agents.gateway.answers import answer
from agents.gateway.openapi import document
from agents.gateway.problems import Problem, nearest, shown

router = APIRouter(route_class=guarded("public"), include_in_schema=False)
STATIC: Final = Path(__file__).resolve().parents[1] / "static"
TYPES: Final = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css"}
# Nothing from another host, no inline script, no frame around it: what a page of ours needs and not more.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """Every file of the static folder by name: only these can be asked for, whatever a path says."""
    return {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in STATIC.iterdir() if path.suffix in TYPES}


@router.get("/")
async def console() -> Response:
    return _file("console.html")


@router.get("/docs")
async def docs() -> Response:
    return _file("api.html")


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return answer(document(request.app))


@router.get("/static/{name}")
async def static(name: str) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    if name not in files():
        raise Problem(404, f"there is no page {shown(name)}.", fix=nearest(name, files()))
    content, kind = files()[name]
    return Response(content, headers=HEADERS, media_type=kind)
