"""Talks to a running sidecar's control port: is it ready, where does its traffic go, send it elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import httpx

from fieldrepair_plugin.errors import PartError

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Side:
    """What one side of a canary has done."""

    requests: int
    failures: int
    seconds: float
    """Sum over those that did not fail."""


@dataclass(frozen=True)
class Upstreams:
    """Where a sidecar's requests go."""

    active_url: str
    """New requests go here; empty while it has no upstream."""
    generation: int
    """Counts the switches of this sidecar process."""
    draining: dict[int, int]
    """Earlier generations that still have requests in flight, and how many."""
    canary_url: str = ""
    """A share of the new requests goes here; empty without a canary."""
    canary: Side | None = None
    """What it has done since it began, as far as this sidecar process knows."""
    champion: Side | None = None
    """The same of the active one."""


class SidecarControl:
    """One sidecar's control port.

    Args:
        url: for example ``http://127.0.0.1:8081``.
        token: its bearer token.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._client = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=5.0, trust_env=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ready(self) -> bool:
        """Whether the sidecar takes traffic and has somewhere to send it."""
        try:
            return (await self._client.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    async def point_to(self, url: str, model_name: str, model_version: str) -> int:
        """Send new requests to a model server from now on; requests in flight stay where they are.

        Returns:
            The generation that this began.

        Raises:
            PartError: the sidecar does not answer, or refuses.
        """
        body = {"url": url, "model_name": model_name, "model_version": model_version}
        return int((await self._call("PUT", "/upstream", json=body))["generation"])

    async def upstreams(self) -> Upstreams:
        """Where requests go now, and which earlier upstreams still answer some.

        Raises:
            PartError: the sidecar does not answer, or refuses.
        """
        answer = await self._call("GET", "/upstream")
        active = cast(dict[str, Any], answer.get("active") or {})
        draining = cast(list[dict[str, Any]], answer.get("draining") or [])
        canary = cast(dict[str, Any], answer.get("canary") or {})
        return Upstreams(
            active_url=str(active.get("url", "")),
            generation=int(active.get("generation", 0)),
            draining={int(one["generation"]): int(one["in_flight"]) for one in draining},
            canary_url=str(canary["upstream"]["url"]) if canary else "",
            canary=_side(canary["canary"]) if canary else None,
            champion=_side(canary["champion"]) if canary else None,
        )

    async def start_canary(self, url: str, model_name: str, model_version: str, percent: float) -> None:
        """Send a share of the new requests to a second model server from now on.

        Raises:
            PartError: the sidecar does not answer, or refuses.
        """
        body = {"url": url, "model_name": model_name, "model_version": model_version, "percent": percent}
        await self._call("PUT", "/canary", json=body)

    async def end_canary(self) -> int | None:
        """Send every new request to the active model server again.

        Returns:
            The canary's generation, to wait for its last requests; None if the sidecar knew of no canary.

        Raises:
            PartError: the sidecar does not answer, or refuses.
        """
        former = cast("dict[str, Any] | None", (await self._call("DELETE", "/canary"))["former"])
        return None if former is None else int(former["generation"])

    async def alias_events(self, known: int, seconds: float) -> int:
        """How many alias events MLflow has sent, as soon as that is not ``known``, or after some seconds.

        Raises:
            PartError: the sidecar does not answer, or refuses.
        """
        path = f"/mlflow/alias-events?known={known}&wait={seconds:g}"
        return int((await self._call("GET", path, timeout=seconds + 5.0))["count"])

    async def wait_drained(self, before: int, seconds: float) -> bool:
        """Wait until no generation before ``before`` has a request in flight; False if ``seconds`` pass first.

        A sidecar that cannot be asked holds no connection we know of; it counts as not drained until it answers.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            try:
                draining = (await self.upstreams()).draining
            except PartError:
                pass
            else:
                if not any(count for generation, count in draining.items() if generation < before):
                    return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _call(
        self, method: str, path: str, json: dict[str, Any] | None = None, timeout: float = 5.0
    ) -> dict[str, Any]:
        try:
            answer = await self._client.request(method, path, json=json, timeout=timeout)
        except httpx.HTTPError as error:
            raise PartError(f"the sidecar's control port {self.url} does not answer: {error!r}") from error
        if answer.status_code != 200:
            raise PartError(
                f"the sidecar's control port {self.url} answered {answer.status_code} to {method} {path}: "
                f"{answer.text[:300]}"
            )
        return cast(dict[str, Any], answer.json())


def _side(view: dict[str, Any]) -> Side:
    return Side(int(view["requests"]), int(view["failures"]), float(view["seconds"]))
