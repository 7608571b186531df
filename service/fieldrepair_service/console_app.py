"""The app of ``fieldrepair console``: pages, sign-in and case API, without a model server behind them.

MLflow's webhook is not here: it wakes ``fieldrepair up``, which listens at its own sidecar. A rollout on Kubernetes
polls the registry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from fieldrepair_service.console import Console
from fieldrepair_service.console.security import Security
from fieldrepair_service.console.traffic import TrafficSource
from fieldrepair_service.control_base import create_base_app
from fieldrepair_service.stores import Stores


def create_console_app(
    *,
    security: Security,
    stores: Stores,
    traffic: TrafficSource,
    registry: CollectorRegistry,
    mlflow_ui_url: str | None = None,
) -> FastAPI:
    """The app; ``/readyz`` says yes once both stores are open.

    Args:
        security: who gets in, everywhere but at /healthz, /readyz and /metrics, which are open.
        stores: case book and field log; opened in the background.
        traffic: what the overview shows of the traffic.
        registry: what ``/metrics`` shows.
        mlflow_ui_url: where people find the MLflow UI; None leaves out links to it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with console.running():
            yield

    app = create_base_app("fieldrepair console", registry, stores.not_open, lifespan)
    console = Console(app, security, stores=stores, traffic=traffic, mlflow_ui_url=mlflow_ui_url)
    return app
