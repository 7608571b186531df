"""What parts with ports need: a state folder of their own, bound sockets, an address file, uvicorn without signals."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import uvicorn

from fieldrepair_service.errors import ConfigurationError

logger = logging.getLogger(__name__)


class TrafficServer(uvicorn.Server):
    """uvicorn without its signal handling, which ends the process before we have put everything away."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to us."""
        yield


def make_state_dir(state_dir: Path) -> None:
    """Make the state folder if need be.

    Raises:
        ConfigurationError: if that cannot be.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the state folder {state_dir} cannot be used: {error}") from error


@contextmanager
def sole_user_of(state_dir: Path) -> Generator[None]:
    """Hold the state folder, which is made if need be.

    Raises:
        ConfigurationError: if it cannot be used, or is in use.
    """
    make_state_dir(state_dir)
    try:
        lock: IO[bytes] = (state_dir / "sidecar.lock").open("ab")
    except OSError as error:
        raise ConfigurationError(f"the state folder {state_dir} cannot be used: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another sidecar uses the state folder {state_dir}; give each its own --state-dir"
            ) from error
        yield


@contextmanager
def listen(host: str, port: int) -> Generator[socket.socket]:
    """A socket bound to an address; port 0 is any that is free.

    Raises:
        ConfigurationError: if that cannot be.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
        yield listener


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """Where a socket can be reached."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def announce(path: Path, **urls: str) -> None:
    """Say where a part listens, in the log and in a file, for port 0 and for scripts.

    Args:
        path: the file: a JSON object of ``pid`` and the addresses. It is there whole or not at all.
        urls: address by name, say ``control_url="http://127.0.0.1:8081"``.
    """
    logger.info("%s", ", ".join(f"{name.removesuffix('_url')} on {url}" for name, url in urls.items()))
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        draft.write_text(json.dumps({"pid": os.getpid(), **urls}))
        draft.replace(path)
    except OSError as error:
        logger.warning("cannot write %s: %s", path, error)  # a full disk must not keep anyone from serving
