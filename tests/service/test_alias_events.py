"""MLflow's webhook: what is believed, what is not, and that those who wait hear of it.

Signed with MLflow's own code here; a real MLflow server sends one in tests/e2e/test_webhook.py.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature  # pyright: ignore[reportPrivateUsage] - the signer itself
from prometheus_client import CollectorRegistry

from fieldrepair_service.mlflow_signature import TOLERANCE_SECONDS, Doubt, MlflowSignature
from tests.service.test_control import Start, bearer, start, traffic_loop

__all__ = ["start", "traffic_loop"]

SECRET = "a-secret-that-both-know"
MOVED = {
    "entity": "model_version_alias",
    "action": "created",
    "timestamp": "2026-01-01T00:00:00+00:00",
    "data": {"name": "digits", "alias": "champion", "version": "3"},
}


def signed(body: str, *, delivery: str = "d-1", at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    stamp = str(int(time.time() if at is None else at))
    return {
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": stamp,
        "x-mlflow-signature": _generate_hmac_signature(secret, delivery, stamp, body),
    }


def test_what_mlflow_signed_is_believed_once() -> None:
    now = 1_800_000_000.0
    signature = MlflowSignature(SECRET, clock=lambda: now)
    headers = signed('{"a": 1}', at=now)
    assert signature.doubt(headers, b'{"a": 1}') is None
    assert signature.doubt(headers, b'{"a": 1}') is Doubt.REPLAYED
    assert signature.doubt(signed("{}", delivery="d-2", at=now), b"{}") is None
    now += 2 * TOLERANCE_SECONDS + 1  # forgotten by now, and too old
    assert signature.doubt(headers, b'{"a": 1}') is Doubt.STALE


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"x-mlflow-signature": "v1,AAAA"}, Doubt.WRONG_SIGNATURE),
        ({"x-mlflow-signature": ""}, Doubt.UNSIGNED),
        ({"x-mlflow-signature": "v1,\xe4"}, Doubt.WRONG_SIGNATURE),
        ({"x-mlflow-delivery-id": ""}, Doubt.UNSIGNED),
        ({"x-mlflow-delivery-id": "x" * 201}, Doubt.UNSIGNED),
        ({"x-mlflow-delivery-id": "d-9"}, Doubt.WRONG_SIGNATURE),
        ({"x-mlflow-timestamp": "soon"}, Doubt.UNSIGNED),
        ({"x-mlflow-timestamp": "1"}, Doubt.WRONG_SIGNATURE),
    ],
)
def test_what_was_changed_on_its_way_is_not_believed(change: dict[str, str], doubt: Doubt) -> None:
    assert MlflowSignature(SECRET).doubt({**signed("{}"), **change}, b"{}") is doubt


def test_the_body_the_secret_and_the_time_count() -> None:
    now = 1_800_000_000.0
    signature = MlflowSignature(SECRET, clock=lambda: now)
    assert signature.doubt(signed("{}", at=now), b"{ }") is Doubt.WRONG_SIGNATURE
    assert signature.doubt(signed("{}", at=now, secret="another-secret"), b"{}") is Doubt.WRONG_SIGNATURE
    for late in (-TOLERANCE_SECONDS - 1, TOLERANCE_SECONDS + 1):
        assert signature.doubt(signed("{}", at=now + late), b"{}") is Doubt.STALE
    for close in (-TOLERANCE_SECONDS, TOLERANCE_SECONDS):
        assert signature.doubt(signed("{}", delivery=f"d{close}", at=now + close), b"{}") is None
    assert MlflowSignature(None).doubt(signed("{}"), b"{}") is Doubt.NOT_SET_UP
    # While a secret is being changed, Standard Webhooks sends two signatures.
    headers = signed("{}", delivery="d-5", at=now)
    headers["x-mlflow-signature"] = f"v1,AAAA {headers['x-mlflow-signature']}"
    assert signature.doubt(headers, b"{}") is None


def test_an_alias_event_wakes_who_waits(start: Start) -> None:
    registry = CollectorRegistry()
    client = start(mlflow_webhook_secret=SECRET, registry=registry)
    assert client.get("/mlflow/alias-events", headers=bearer()).json() == {"count": 0}
    answered: list[Any] = []

    def wait() -> None:
        with httpx.Client(base_url=client.base_url, timeout=30) as other:
            answered.append(other.get("/mlflow/alias-events?known=0&wait=20", headers=bearer()).json())

    waiting = threading.Thread(target=wait)
    waiting.start()
    body = json.dumps(MOVED)
    assert client.post("/mlflow/webhook", content=body, headers=signed(body)).json() == {"status": "taken"}
    waiting.join(15)
    assert answered == [{"count": 1}]
    # Who knew another sidecar's count, or none, is answered at once.
    assert client.get("/mlflow/alias-events?known=7&wait=20", headers=bearer()).json() == {"count": 1}

    again = client.post("/mlflow/webhook", content=body, headers=signed(body))
    assert (again.status_code, again.json()["detail"]) == (409, "this delivery was taken already")
    other = json.dumps({**MOVED, "entity": "model_version"})
    assert client.post("/mlflow/webhook", content=other, headers=signed(other, delivery="d-2")).json() == {
        "status": "ignored"
    }
    assert client.post("/mlflow/webhook", content="[]", headers=signed("[]", delivery="d-3")).status_code == 422
    assert client.get("/mlflow/alias-events", headers=bearer()).json() == {"count": 1}

    def counted(outcome: str) -> float | None:
        return registry.get_sample_value("fieldrepair_mlflow_webhooks_total", {"outcome": outcome})

    assert [counted(name) for name in ("taken", "replayed", "ignored", "malformed")] == [1, 1, 1, 1]


def test_strangers_get_nothing(start: Start) -> None:
    client = start(mlflow_webhook_secret=SECRET)
    refused: list[tuple[Callable[[], httpx.Response], int]] = [
        (lambda: client.post("/mlflow/webhook", content="{}"), 401),
        (lambda: client.post("/mlflow/webhook", content="{}", headers=signed("{}", secret="x" * 16)), 401),
        (lambda: client.post("/mlflow/webhook", content="{}", headers=signed("{}", at=1)), 401),
        (lambda: client.post("/mlflow/webhook", content="x" * 70_000, headers=signed("x")), 413),
        (lambda: client.get("/mlflow/alias-events"), 401),
        (lambda: client.get("/mlflow/alias-events?wait=99", headers=bearer()), 422),
    ]
    for ask, status in refused:
        assert ask().status_code == status
    assert client.get("/mlflow/alias-events", headers=bearer()).json() == {"count": 0}
    assert start().post("/mlflow/webhook", content="{}", headers=signed("{}")).status_code == 404
