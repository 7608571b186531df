"""What the worker keeps of a case on disk: its plan, the selection and the training checkpoint, per attempt."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from fieldrepair_plugin.field_pool import Key
from fieldrepair_service.case_book import Case
from fieldrepair_service.errors import InputError


@dataclass(frozen=True)
class Plan:
    """The field inputs of one attempt, frozen before anybody labels any of them."""

    pool: list[Key]
    """The adaptation pool, in the order the selection counts them in."""
    acceptance: list[Key]
    """The acceptance sample."""
    earlier: list[Key]
    """Inputs that people labelled for repair in an earlier attempt; they stand after the pool."""
    field_inputs: int
    """All field inputs that were gathered; the budget is a share of these."""
    by_request: bool
    """Whether no request has inputs both in the pool and in the acceptance sample."""
    seed: int
    """Of the split and of the repair."""

    def save(self, path: Path) -> None:
        """Write as JSON; a reader sees the old file or the whole new one."""
        draft = path.with_name(f".{path.name}.part")
        with draft.open("w", encoding="utf-8") as stream:
            json.dump(asdict(self), stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: there is no such file, or it is not a plan.
        """
        try:
            stored = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
            for part in ("pool", "acceptance", "earlier"):
                stored[part] = [(str(request), int(row)) for request, row in stored[part]]
            return cls(**stored)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is not a plan that can be read: {error}") from error


@dataclass(frozen=True)
class CaseFiles:
    """Paths of one attempt of one case."""

    folder: Path

    @classmethod
    def of(cls, cases_dir: Path, case: Case) -> CaseFiles:
        """The files of the case's present attempt; the folder is made if absent."""
        folder = cases_dir / str(case.id) / f"attempt-{case.attempt}"
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @property
    def plan(self) -> Path:
        """The frozen field inputs."""
        return self.folder / "plan.json"

    @property
    def selection(self) -> Path:
        """Exemplars and regions."""
        return self.folder / "selection.npz"

    @property
    def checkpoint(self) -> Path:
        """Training so far."""
        return self.folder / "checkpoint.pt"

    @property
    def report(self) -> Path:
        """Pictures and tables of the finished repair, on their way to MLflow; made empty."""
        folder = self.folder / "report"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder
