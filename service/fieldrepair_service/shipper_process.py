"""The shipper as the sidecar's child: started, watched, started again, and told to finish."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

SPOOL_DAMAGED_EXIT = 3
"""Exit status of a shipper that found the spool's file broken."""

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_STEADY_SECONDS = 60.0
_SEND_SECONDS = 1.0
# delta-rs brings an allocator of its own, jemalloc. By itself it keeps what each of its many threads has used in an
# arena for each, and the shipper would grow for hours. One of them, given back at once, ships as fast.
_ALLOCATOR = {"_RJEM_MALLOC_CONF": "narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0"}


class ShipperProcess:
    """Keeps one shipper running. Its life hangs on a pipe: when this process is gone, so is the shipper, soon."""

    def __init__(self, arguments: Sequence[str], *, on_damaged_spool: Callable[[], None]) -> None:
        """Start it.

        Args:
            arguments: options of :mod:`fieldrepair_service.shipper`.
            on_damaged_spool: called when it gave up because of the spool's file.
        """
        self._arguments = list(arguments)
        self._on_damaged_spool = on_damaged_spool
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._thread = threading.Thread(target=self._keep_running, name="fieldrepair-shipper", daemon=True)
        self._thread.start()

    @property
    def starts(self) -> int:
        """How often it was started."""
        return self._starts

    @property
    def pid(self) -> int | None:
        """Process id of the running shipper."""
        child = self._child
        return None if child is None or child.poll() is not None else child.pid

    def send(self, line: bytes) -> bool:
        """Give it a line on its standard input; False if it is not running or does not read it in time."""
        with self._lock:
            child = self._child
            if child is None or child.poll() is not None or child.stdin is None or child.stdin.closed:
                return False
            return _write(child.stdin.fileno(), line)

    def restart(self) -> None:
        """Stop it where it is; a new one takes its place. What it was doing is done again, once."""
        with self._lock:
            if self._child is not None and self._child.poll() is None:
                self._child.kill()

    def stop(self, grace: float) -> None:
        """Tell it to ship what it can within ``grace`` seconds; what is left stays in the spool."""
        self._stopping.set()
        with self._lock:
            child = self._child
            if child is not None and child.stdin is not None:
                child.stdin.close()
        if child is not None:
            try:
                child.wait(grace)
            except subprocess.TimeoutExpired:
                logger.warning("the shipper did not finish within %.0f s; the rest stays in the spool", grace)
                child.kill()
        self._thread.join()

    def _keep_running(self) -> None:
        pause = _FIRST_PAUSE
        careful = False
        while not self._stopping.is_set():
            began = time.monotonic()
            child = self._start(careful)
            if child is None:
                break
            status = child.wait()
            if child.stdin is not None and not child.stdin.closed:
                child.stdin.close()
            if self._stopping.is_set():
                break
            careful = status not in (0, SPOOL_DAMAGED_EXIT)
            if status == SPOOL_DAMAGED_EXIT:
                self._on_damaged_spool()
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            logger.warning("the shipper ended with status %d; starting it again in %.1f s", status, pause)
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _start(self, careful: bool) -> subprocess.Popen[bytes] | None:
        command = [sys.executable, "-m", "fieldrepair_service.shipper", *self._arguments]
        with self._lock:
            if self._stopping.is_set():
                return None
            self._child = subprocess.Popen(
                [*command, "--careful"] if careful else command,
                stdin=subprocess.PIPE,
                env={**_ALLOCATOR, **os.environ},
            )
            if self._child.stdin is not None:
                os.set_blocking(self._child.stdin.fileno(), False)
            self._starts += 1
            return self._child


def _write(descriptor: int, line: bytes) -> bool:
    # An empty line before each, so that one that was cut short spoils no other.
    left = memoryview(b"\n" + line)
    end = time.monotonic() + _SEND_SECONDS
    try:
        while left:
            _, ready, _ = select.select([], [descriptor], [], max(0.0, end - time.monotonic()))
            if not ready:
                return False
            left = left[os.write(descriptor, left) :]
    except OSError:
        return False
    return True
