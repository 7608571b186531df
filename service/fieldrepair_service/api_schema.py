"""The OpenAPI schema of the routes under ``/api``, for people and for programs that make clients."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi


def api_schema(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of what an application serves under ``/api``; health, metrics and pages are not part of it."""
    schema = get_openapi(
        title="fieldrepair case API",
        version=version("fieldrepair"),
        description="Repair cases, labelling, labels in and out, drift events. All times are UTC epoch milliseconds.",
        routes=app.routes,
    )
    schema["paths"] = {path: item for path, item in schema["paths"].items() if path.startswith("/api/")}
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"token": []}]
    return schema
