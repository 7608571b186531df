"""MLflow's webhook on the control port, and how those who follow an alias hear of it.

An event moves nothing by itself. It only says "look now" to whoever polls the registry, which stays the truth: events
can be lost, late, repeated or out of order, and that does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, ValidationError

from fieldrepair_service.body_limit import limited_route
from fieldrepair_service.console.security import viewer
from fieldrepair_service.mlflow_signature import Doubt, MlflowSignature

logger = logging.getLogger(__name__)

ALIAS_ENTITY = "model_version_alias"
MAX_BODY_BYTES = 64 * 1024
LONGEST_WAIT = 30.0
_LOOK_SECONDS = 0.5

_STATUS = {
    Doubt.NOT_SET_UP: (404, "no webhook is taken here: FIELDREPAIR_MLFLOW_WEBHOOK_SECRET is not set"),
    Doubt.UNSIGNED: (401, "expected the headers X-MLflow-Signature, X-MLflow-Timestamp and X-MLflow-Delivery-Id"),
    Doubt.WRONG_SIGNATURE: (401, "the signature is not by the secret that is set here"),
    Doubt.STALE: (401, "the timestamp is more than 5 minutes from this machine's clock"),
    Doubt.REPLAYED: (409, "this delivery was taken already"),
}
_OUTCOMES = ("taken", "ignored", "malformed", *(doubt.value for doubt in Doubt))


class _Event(BaseModel):
    """The part of a webhook's body that matters here."""

    model_config = ConfigDict(extra="ignore")

    entity: str
    action: str


class AliasEvents(Collector):
    """Counts alias events, and lets others wait for the next one. All but the scrape belongs to one event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._came = asyncio.Event()
        self._outcomes: Counter[str] = Counter(dict.fromkeys(_OUTCOMES, 0))

    def took(self, outcome: str) -> None:
        """Count a webhook by what became of it; ``taken`` wakes those who wait."""
        self._outcomes[outcome] += 1
        if outcome == "taken":
            self._count += 1
            self._came.set()
            self._came = asyncio.Event()

    async def wait(self, known: int, seconds: float) -> int:
        """How many there were, as soon as that is not ``known``, or when the time is up."""
        if self._count == known:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._came.wait(), seconds)
        return self._count

    def collect(self) -> Iterator[Metric]:
        """``fieldrepair_mlflow_webhooks_total`` by outcome."""
        family = CounterMetricFamily(
            "fieldrepair_mlflow_webhooks", "Webhooks from MLflow, by what became of them.", labels=["outcome"]
        )
        for outcome in _OUTCOMES:
            family.add_metric([outcome], self._outcomes[outcome])
        yield family


def alias_event_router(events: AliasEvents, signature: MlflowSignature) -> APIRouter:
    """Routes ``POST /mlflow/webhook``, open to whoever can sign, and ``GET /mlflow/alias-events``."""
    router = APIRouter(route_class=limited_route(MAX_BODY_BYTES), include_in_schema=False)

    @router.post("/mlflow/webhook", status_code=202)
    async def webhook(request: Request) -> dict[str, str]:
        body = await request.body()
        doubt = signature.doubt(request.headers, body)
        if doubt is not None:
            events.took(doubt.value)
            status, told = _STATUS[doubt]
            raise HTTPException(status, told)
        try:
            event = _Event.model_validate_json(body)
        except ValidationError as error:
            events.took("malformed")
            raise HTTPException(422, f"signed, but not an event of MLflow: {error.error_count()} problems") from error
        if event.entity != ALIAS_ENTITY:
            events.took("ignored")
            return {"status": "ignored"}
        logger.info("MLflow says that an alias was %s; whoever follows one looks now", event.action)
        events.took("taken")
        return {"status": "taken"}

    @router.get("/mlflow/alias-events", dependencies=[Depends(viewer)])
    async def alias_events(
        request: Request,
        known: Annotated[int, Query(ge=-1)] = -1,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0.0,
    ) -> dict[str, Any]:
        """How many alias events there were; answered when that is not ``known``, or after ``wait`` seconds."""
        stopping = getattr(request.app.state, "stopping", lambda: False)
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            left = deadline - asyncio.get_running_loop().time()
            count = await events.wait(known, max(0.0, min(left, _LOOK_SECONDS)))
            if count != known or left <= 0 or stopping():
                return {"count": count}

    return router
