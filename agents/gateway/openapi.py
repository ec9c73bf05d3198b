"""The OpenAPI document: FastAPI's, with our one error shape, the ways to send a key, and each route's role."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from agents.gateway.access import GuardedRoute
from agents.gateway.problems import SCHEMA

SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer eo_…"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        parts = made.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = SCHEMA
        parts["securitySchemes"] = SCHEMES
        for route in guarded_routes(app):
            if route.include_in_schema:
                _mark(made["paths"][route.path], route)
        app.openapi_schema = made
    return app.openapi_schema


def _mark(path: dict[str, Any], route: GuardedRoute) -> None:
    for method in route.methods or ():
        operation = path[method.lower()]
        operation["x-role"] = route.role
        operation["security"] = [] if route.role == "public" else [{name: []} for name in SCHEMES]


def guarded_routes(app: FastAPI) -> list[GuardedRoute]:
    """Every route of ours with its role."""
    return [route for route in app.routes if isinstance(route, GuardedRoute)]
