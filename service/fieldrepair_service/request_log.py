"""What the sidecar says about single requests: structured, with the request's id, and never too much to read."""

from __future__ import annotations

import logging
import secrets
from time import monotonic

from fieldrepair_service.http_message import RawHeaders
from fieldrepair_service.logging_policy import TRACEPARENT, trace_id_of

logger = logging.getLogger(__name__)

_PER_SECOND = 10
_SHOWN = 200  # characters of what a client sent


class RequestLog:
    """Writes a line about a request, at most ten of one kind per second; the rest is counted."""

    def __init__(self) -> None:
        self.suppressed = 0
        """Lines left out so far."""
        self._second = 0
        self._said: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def say(self, event: str, request_id: str, **about: object) -> None:
        """Something happened to a request.

        Args:
            event: what, in one word, for programs.
            request_id: of the request, see :func:`request_id_of`.
            about: what else is known, by name.
        """
        second = int(monotonic())
        if second != self._second:
            self._second = second
            self._said.clear()
        said = self._said.get(event, 0)
        self._said[event] = said + 1
        if said >= _PER_SECOND:
            self.suppressed += 1
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return
        if left_out := self._left_out.pop(event, 0):
            about["left_out_before"] = left_out
        about = {name: value[:_SHOWN] if isinstance(value, str) else value for name, value in about.items()}
        fields = {"event": event, "request_id": request_id, **about}
        told = " ".join(f"{name}={value!r}" for name, value in fields.items() if name != "event")
        logger.warning("%s %s", event, told, extra={"fields": fields})


def request_id_of(headers: RawHeaders) -> str:
    """The client's X-Request-Id, else the trace id of its traceparent, else a new one."""
    trace = ""
    for name, value in headers:
        if name == b"x-request-id":
            return value[:_SHOWN].decode("latin-1")
        if name == TRACEPARENT:
            trace = trace_id_of(value)
    return trace or secrets.token_hex(8)
