"""The client's side of one exchange: its request body, a copy of it, and whether it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# Up to here a request body is taken in whole before it goes on, which lets it be sent again.
_BUFFERED_BODY = 1 << 20
# A client that hangs up is only looked for after this time: most answers are there sooner, and the looking costs more
# than they do.
_WATCH_AFTER_SECONDS = 0.1


class BodyRecord:
    """A copy of a body for the field log, as long as it is not too large for that."""

    __slots__ = ("_chunks", "_room", "too_large")

    def __init__(self, room: int) -> None:
        self._chunks: list[bytes] = []
        self._room = room
        self.too_large = False

    def add(self, chunk: bytes) -> None:
        """The next piece; forgets everything once it is too much."""
        self._room -= len(chunk)
        if self._room >= 0:
            self._chunks.append(chunk)
        elif not self.too_large:
            self.too_large = True
            self._chunks.clear()

    def body(self) -> bytes:
        """The whole, unless it was too large."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


class Client:
    """The client's side of one exchange: its request body, and whether it is still there."""

    __slots__ = ("_receive", "_record", "_task", "_timer", "_uploading", "_watcher", "gone")

    def __init__(self, receive: Receive, record: BodyRecord | None) -> None:
        self._receive = receive
        self._record = record
        self._uploading = False
        self.gone = False
        self._watcher: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = loop.call_later(_WATCH_AFTER_SECONDS, self._start_watching)

    async def body(self, content_length: int | None) -> bytes | AsyncIterator[bytes] | None:
        """The request's body: whole if it is at hand or short, else as a stream; None if the client hung up."""
        message = await self._receive()
        if message["type"] != "http.request":
            self.gone = True
            return None
        first: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        if more and (content_length is None or content_length > _BUFFERED_BODY):
            self._uploading = True
            return self._upload(first)
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                self.gone = True
                return None
            first += message.get("body", b"")
            more = message.get("more_body", False)
        if self._record is not None:
            self._record.add(first)
        return first

    async def _upload(self, chunk: bytes) -> AsyncIterator[bytes]:
        more = True
        while True:
            if chunk:
                if self._record is not None:
                    self._record.add(chunk)
                yield chunk
            if not more:
                break
            message = await self._receive()
            if message["type"] != "http.request":
                self.gone = True
                raise ConnectionResetError("the client hung up in the middle of its request")
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
        self._uploading = False

    def _start_watching(self) -> None:
        if self._uploading:  # the upload itself will notice; two readers would take each other's messages
            self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_SECONDS, self._start_watching)
        else:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    def done(self) -> None:
        """The exchange is over: stop looking."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
