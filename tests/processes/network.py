"""A Service as a port of this machine: each connection is passed on to a pod that is ready."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

from tests.processes.pods import Service


@contextmanager
def listening(service: Service) -> Generator[str]:
    """Pass connections on; gives the address of the Service."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    thread = threading.Thread(target=_accept, args=(listener, service), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _accept(listener: socket.socket, service: Service) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_connect, args=(client, service), daemon=True).start()


def _connect(client: socket.socket, service: Service) -> None:
    place = service.pick()
    with client:
        if place is None:
            return
        with suppress(OSError), socket.create_connection(place, timeout=5) as pod:
            pod.settimeout(None)
            back = threading.Thread(target=_pump, args=(pod, client), daemon=True)
            back.start()
            _pump(client, pod)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
