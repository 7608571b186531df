"""The version that was served last, kept in the state folder: what to go on with while the registry does not answer."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import cast

from fieldrepair_plugin.model_uri import ModelTarget

logger = logging.getLogger(__name__)

SERVED_FILE = "served.json"


class LastServed:
    """Reads and writes the file. A disk that does not take it keeps nobody from serving.

    Args:
        state_dir: ``up``'s state folder.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / SERVED_FILE

    def keep(self, name: str, version: str) -> None:
        """Write down that a version takes the traffic."""
        draft = self._path.with_name(f".{SERVED_FILE}-{os.getpid()}")
        try:
            draft.write_text(json.dumps({"model_name": name, "model_version": version}), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            logger.warning("the served version cannot be kept in %s: %s", self._path, error)

    def read(self, target: ModelTarget) -> str | None:
        """The version of the target's model that was served last; None if that is not known."""
        if target.version is not None:
            return target.version  # nobody has to be asked
        try:
            known = cast(object, json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
        fields = cast("dict[str, object]", known) if isinstance(known, dict) else {}
        version = fields.get("model_version")
        return version if fields.get("model_name") == target.name and isinstance(version, str) else None
