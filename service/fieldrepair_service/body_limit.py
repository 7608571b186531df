"""Refuses large request bodies before they are all in memory."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from fieldrepair_service.errors import BodyTooLarge


def limited_route(max_bytes: int) -> type[APIRoute]:
    """A kind of route that refuses a POST whose body has more than ``max_bytes``, before it is all read."""

    class LimitedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def limited(request: Request) -> Response:
                if request.method != "POST":
                    return await handle(request)
                body = await _read_body(request, max_bytes)

                async def receive() -> Message:
                    nonlocal body
                    if body is None:
                        return await request.receive()
                    message: Message = {"type": "http.request", "body": body, "more_body": False}
                    body = None
                    return message

                return await handle(Request(request.scope, receive))

            return limited

    return LimitedRoute


async def _read_body(request: Request, max_bytes: int) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLarge(f"a request body has at most {max_bytes} bytes here")
    return bytes(body)
