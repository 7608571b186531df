"""A repair's state after an epoch, on disk: whole or not at all, and only ever for the repair that wrote it."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fieldrepair_plugin.exemplars import Selection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What an epoch leaves to the next. Randomness is not part of it: each epoch draws from a stream of its own."""

    fingerprint: str
    """Of everything the repair depends on; see :func:`fingerprint_of`."""
    module: dict[str, Tensor]
    optimizer: dict[str, Any]
    unsmooth: Tensor
    """``(n,)`` of the pool after the epoch; of the default recipe running means of the teacher's answers."""
    records: list[dict[str, Any]]
    """One per finished epoch."""
    best: dict[str, Tensor]
    """Weights of the epoch kept so far; of the default recipe the teacher's."""
    kept_epoch: int

    def save(self, path: Path) -> None:
        """Write; whenever the process or the machine stops, the file is the old one or the whole new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            with draft.open("wb") as stream:
                torch.save({part.name: getattr(self, part.name) for part in fields(self)}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> Checkpoint | None:
        """Read the checkpoint of one repair.

        Returns:
            None if there is none, or (with a warning) if it cannot be read or is of another repair.
        """
        if not path.exists():
            return None
        try:
            stored = cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=True))
            saved = cls(**stored)
        except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
            log.warning("the checkpoint %s cannot be read, training starts anew: %s", path, error)
            return None
        if saved.fingerprint != fingerprint:
            log.warning("the checkpoint %s is of other settings, labels or data, training starts anew", path)
            return None
        return saved


def fingerprint_of(
    settings: object,
    labels: Mapping[int, int],
    selection: Selection,
    images: Tensor,
    classes: Tensor,
    weights: Mapping[str, Tensor],
) -> str:
    """A digest of everything a repair's result depends on, apart from the versions of its libraries.

    ``settings`` counts by its ``repr``.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((settings, sorted((int(k), int(v)) for k, v in labels.items()), float(selection.tau))).encode())
    for array in (selection.exemplars, *selection.regions, selection.unsmoothness):
        digest.update(array.tobytes())
    for name, value in {"images": images, "classes": classes, **weights}.items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
