"""A sidecar's control port: health, metrics, upstream, and mostly case API and console. Never on the request path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict
from typing import Any, TypeVar

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict, Field

from fieldrepair_service.alias_events import AliasEvents, alias_event_router
from fieldrepair_service.canary import CanaryView
from fieldrepair_service.console import Console
from fieldrepair_service.console.left_out import install_left_out
from fieldrepair_service.console.local_traffic import LocalTraffic
from fieldrepair_service.console.security import Security, approver, viewer
from fieldrepair_service.control_base import create_base_app
from fieldrepair_service.mlflow_signature import MlflowSignature
from fieldrepair_service.stores import Stores
from fieldrepair_service.upstream import Upstreams, UpstreamView

T = TypeVar("T")


class UpstreamSpec(BaseModel):
    """Body of ``PUT /upstream``."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str
    """Where the model server listens, say http://127.0.0.1:5003."""
    model_name: str = Field(min_length=1)
    """Registered model it serves."""
    model_version: str = Field(min_length=1)
    """Version it serves."""


class CanarySpec(UpstreamSpec):
    """Body of ``PUT /canary``."""

    percent: float = Field(gt=0, le=100)
    """Share of the requests that it gets."""


class LoopBridge:
    """Runs coroutines on the traffic event loop from the control port's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` there, wherever this is called."""
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


def create_control_app(
    *,
    upstreams: Upstreams,
    traffic_loop: asyncio.AbstractEventLoop,
    registry: CollectorRegistry,
    not_ready: Callable[[], str | None],
    security: Security,
    case_book_url: str | None = None,
    field_log_uri: str | None = None,
    mlflow_ui_url: str | None = None,
    mlflow_webhook_secret: str | None = None,
    left_out: str | None = None,
) -> FastAPI:
    """The control app.

    Args:
        upstreams: what ``/upstream`` shows and changes.
        traffic_loop: the event loop that ``upstreams`` belongs to.
        registry: what ``/metrics`` shows.
        not_ready: why ``/readyz`` should say no; None when it should say yes.
        security: who gets in, everywhere but at /healthz, /readyz and /metrics, which are open.
        case_book_url: where the case book is; None leaves out ``/api`` and the pages.
        field_log_uri: where the field log is; None leaves out ``/api`` and the pages.
        mlflow_ui_url: where people find the MLflow UI; None leaves out links to it.
        mlflow_webhook_secret: what MLflow signs its webhooks with; None takes none.
        left_out: why ``/api`` and the pages are left out, as those who ask for them are told; None: they are not,
            where both stores are known.
    """
    alias_events = AliasEvents()
    registry.register(alias_events)
    console: Console | None = None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with nullcontext() if console is None else console.running():
            yield

    app = create_base_app("fieldrepair sidecar", registry, not_ready, lifespan)
    traffic = LoopBridge(traffic_loop)

    @app.get("/upstream", dependencies=[Depends(viewer)])
    async def show_upstream() -> dict[str, Any]:
        active, draining = await traffic.run(upstreams.snapshot())
        canary = await traffic.run(_canary_of(upstreams))
        return {
            "active": asdict(active) if active else None,
            "canary": asdict(canary) if canary else None,
            "draining": [asdict(view) for view in draining],
        }

    @app.put("/upstream", dependencies=[Depends(approver)])
    async def switch_upstream(spec: UpstreamSpec) -> dict[str, Any]:
        view: UpstreamView = await traffic.run(upstreams.switch(spec.url, spec.model_name, spec.model_version))
        return asdict(view)

    @app.put("/canary", dependencies=[Depends(approver)])
    async def start_canary(spec: CanarySpec) -> dict[str, Any]:
        begun = upstreams.start_canary(spec.url, spec.model_name, spec.model_version, spec.percent)
        return asdict(await traffic.run(begun))

    @app.delete("/canary", dependencies=[Depends(approver)])
    async def end_canary() -> dict[str, Any]:
        former = await traffic.run(_end_canary(upstreams))
        return {"former": asdict(former) if former else None}

    app.include_router(alias_event_router(alias_events, MlflowSignature(mlflow_webhook_secret)))
    if left_out is None and case_book_url is not None and field_log_uri is not None:
        console = Console(
            app,
            security,
            stores=Stores(case_book_url, field_log_uri),
            traffic=LocalTraffic(lambda: traffic.run(upstreams.snapshot()), registry),
            mlflow_ui_url=mlflow_ui_url,
        )
    else:
        install_left_out(app, security, left_out or "there is no console here: no case book and field log were named")
    return app


async def _canary_of(upstreams: Upstreams) -> CanaryView | None:
    return upstreams.canary.view() if upstreams.canary is not None else None


async def _end_canary(upstreams: Upstreams) -> UpstreamView | None:
    return upstreams.end_canary()
