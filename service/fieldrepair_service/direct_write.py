"""Writes that leave at once.

An event loop sends what a callback has written when that callback is over. On the request path that is too late: what a
callback does after its write (accounts, the log) would hold up the prediction. Where nothing waits to be sent before, a
socket can just as well be written to at once.
"""

from __future__ import annotations

import asyncio
import os


class DirectWriter:
    """Writes to a transport's socket; what does not fit, and TLS, goes through the transport."""

    __slots__ = ("_descriptor", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        socket = transport.get_extra_info("socket")
        encrypted = transport.get_extra_info("sslcontext") is not None
        self._descriptor = -1 if socket is None or encrypted else socket.fileno()

    def write(self, data: bytes) -> None:
        """Send it, or as much as fits now and the rest when it fits."""
        transport = self._transport
        # A transport that closes may have given its descriptor away.
        if self._descriptor >= 0 and not transport.is_closing() and not transport.get_write_buffer_size():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # no room, or broken; the transport meets that, too, and knows what to do
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)
