"""The control port's server, on a thread and an event loop of its own: a slow answer here delays no prediction."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

import uvicorn
from fastapi import FastAPI


class ControlServer:
    """Serves the control app from a thread until stopped."""

    def __init__(self, app: FastAPI, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            app,
            ws="none",
            loop="none",  # the loop is made below
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        if tls is not None:
            config.load()
            config.ssl = tls
        self._server = uvicorn.Server(config)
        # Answers that go on and on (server-sent events) look here, so that they do not hold up the stop.
        app.state.stopping = lambda: self._server.should_exit
        self._thread = threading.Thread(target=self._run, args=(listener,), name="fieldrepair-control", daemon=True)
        self._thread.start()

    @property
    def serving(self) -> bool:
        """Whether it still serves: a server that cannot start, or fails, ends by itself."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finish the requests at hand and stop."""
        self._server.should_exit = True
        self._thread.join()

    def _run(self, listener: socket.socket) -> None:
        asyncio.run(self._server.serve(sockets=[listener]))
