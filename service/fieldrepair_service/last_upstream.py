"""The upstream that a sidecar was last pointed to, kept in its state folder, so that a restart goes on serving."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import orjson

from fieldrepair_service.errors import ConfigurationError
from fieldrepair_service.upstream import UpstreamView, normalise_upstream

logger = logging.getLogger(__name__)

UPSTREAM_FILE = "upstream.json"
"""File in the state folder: url, model_name, model_version."""


class LastUpstream:
    """Reads and writes the file. A disk that does not take it keeps nobody from serving."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / UPSTREAM_FILE
        self._lock = threading.Lock()
        self._generation = 0

    def keep(self, view: UpstreamView) -> None:
        """Write it down, from any thread, unless a later one is there already."""
        with self._lock:
            if view.generation < self._generation:
                return
            self._generation = view.generation
            known = {"url": view.url, "model_name": view.model_name, "model_version": view.model_version}
            draft = self._path.with_name(f".{self._path.name}-{os.getpid()}")
            try:
                with draft.open("wb") as stream:
                    stream.write(orjson.dumps(known))
                    stream.flush()
                    os.fsync(stream.fileno())
                draft.replace(self._path)
            except OSError as error:
                logger.warning("the upstream cannot be kept in %s: %s", self._path, error)

    def read(self) -> tuple[str, str, str] | None:
        """(url, model_name, model_version) of the last one; None if there was none, or the file is no use."""
        try:
            known = orjson.loads(self._path.read_bytes())
            url, name, version = (str(known[key]) for key in ("url", "model_name", "model_version"))
            return normalise_upstream(url), name, version
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ConfigurationError) as error:
            logger.warning("%s does not name an upstream: %s", self._path, error)
            return None
