"""What the traffic port does with requests: forward them to the model server, byte for byte, and log those that score.

Target, headers (their order and repetitions), body and status stay as they are. Three things do not: the header names
come out in lower case, which HTTP does not tell apart; headers that belong to one connection stay on it; and trailers
end here. A request without a Host header, which HTTP/1.0 allows, gets the model server's.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

from fieldrepair_service.capture import Capture
from fieldrepair_service.client_connection import ClientConnection, Serving, TrafficLimits
from fieldrepair_service.forwarding import Forwarding
from fieldrepair_service.http_message import own_answer
from fieldrepair_service.logging_policy import LoggingPolicy
from fieldrepair_service.request_head import Refusal, RequestHead
from fieldrepair_service.request_log import RequestLog, request_id_of
from fieldrepair_service.request_trace import RequestTraces
from fieldrepair_service.traffic_stats import TrafficStats
from fieldrepair_service.upstream import Upstreams

if TYPE_CHECKING:
    from fieldrepair_service.known_request import KnownRequest

_SETTLE_SECONDS = 0.005


class Proxy:
    """Takes the requests of every connection of the traffic port."""

    def __init__(
        self,
        upstreams: Upstreams,
        capture: Capture,
        stats: TrafficStats,
        *,
        policy: LoggingPolicy = LoggingPolicy(),  # noqa: B008 - it is frozen
        limits: TrafficLimits = TrafficLimits(),  # noqa: B008 - so is this
        traces: RequestTraces | None = None,
    ) -> None:
        """Nothing is started here.

        Args:
            upstreams: where requests go.
            capture: takes what is to be logged.
            stats: counts.
            policy: what is to be logged.
            limits: what one client may take.
            traces: traces requests; None does not.
        """
        self.upstreams = upstreams
        self.capture = capture
        self.stats = stats
        self.policy = policy
        self.limits = limits
        self.traces = traces
        self.log = RequestLog()
        stats.request_log = self.log
        self.connections: set[ClientConnection] = set()
        self._unsettled: list[tuple[Forwarding, float, float]] = []
        self._settling: asyncio.TimerHandle | None = None

    def connection(self) -> ClientConnection:
        """The protocol of a new connection."""
        return ClientConnection(self, self.limits)

    # For connections.

    def opened(self, client: ClientConnection) -> bool:
        """A new connection; whether there is room for it."""
        self.connections.add(client)
        self.stats.connections = len(self.connections)
        return len(self.connections) <= self.limits.connections

    def closed(self, client: ClientConnection) -> None:
        """The connection is gone."""
        self.connections.discard(client)
        self.stats.connections = len(self.connections)

    def begin(self, client: ClientConnection, head: RequestHead) -> Serving:
        """Forward a request."""
        if self.traces is not None:
            self.traces.enter(head)
        return Forwarding(self, client, head)

    def begin_known(self, client: ClientConnection, known: KnownRequest, data: bytes, body_at: int) -> Serving | None:
        """Forward a request that is here whole, by a head that came before; None: begin it like any other."""
        return Forwarding.whole(self, client, known, data, body_at)

    def refuse(self, client: ClientConnection, refusal: Refusal, *, head_only: bool) -> Serving:
        """Answer what is not forwarded."""
        return _Refused(self, client, refusal, head_only)

    # For requests.

    def settle_later(self, answered: Forwarding, seconds: float, took: float) -> None:
        """Account for an answered request in a moment.

        The client may ask again at once, and passing that on comes first; and several accounts in a row cost less than
        each by itself.
        """
        self._unsettled.append((answered, seconds, took))
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(_SETTLE_SECONDS, self._settle_now)

    def settle(self) -> None:
        """Account for what is answered."""
        if self._unsettled:
            unsettled, self._unsettled = self._unsettled, []
            for answered, seconds, took in unsettled:
                answered.account(seconds, took)

    def _settle_now(self) -> None:
        self._settling = None
        self.settle()


class _Refused:
    """A request, or what is none, that the sidecar answers in its own name; the rest of it is not looked at."""

    def __init__(self, proxy: Proxy, client: ClientConnection, refusal: Refusal, head_only: bool) -> None:
        self._proxy = proxy
        self._client = client
        self._refusal = refusal
        self._head_only = head_only
        self._started = client.now

    def start(self) -> None:
        """Say so."""
        refusal = self._refusal
        request_id = request_id_of([])
        self._client.write(
            own_answer(
                refusal.status,
                refusal.error,
                refusal.detail,
                request_id,
                close=refusal.close,
                head_only=self._head_only,
            )
        )
        self._proxy.log.say(refusal.error, request_id, status=refusal.status, detail=refusal.detail)
        self._proxy.stats.observe(refusal.status, perf_counter() - self._started, None)
        self._client.finished(close=refusal.close)

    def on_body(self, chunk: bytes) -> None:
        """Not looked at."""

    def on_request_end(self) -> None:
        """Nor this."""

    def on_request_pause(self) -> None:
        """Nor this."""

    def on_request_broken(self, refusal: Refusal) -> None:
        """What follows cannot be understood either."""
        self._client.end()

    def on_client_gone(self) -> None:
        """Nobody is told, then."""

    def on_deadline(self) -> None:
        """It is answered at once, so no time runs out while it waits for its turn."""

    def on_answer_held(self, held: bool) -> None:
        """The answer is sent in one piece."""
