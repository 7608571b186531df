"""Writes a hand-over beside a model version, so that readers see all of it or none."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt

from fieldrepair_monitoring.handover import HANDOVER_FILE, HANDOVER_TAG, REFERENCE_FILE, HandOver
from fieldrepair_monitoring.reference import OPTIONAL_ARRAYS, REQUIRED_ARRAYS
from fieldrepair_monitoring.registry import registry_errors

ARTIFACT_FOLDER = "fieldrepair"


def store_handover(run_id: str, handover: HandOver) -> str:
    """Upload a hand-over to a run.

    The folder's name is a digest of the contents: a hand-over is never changed in place, and storing the same one
    twice stores it once.

    Args:
        run_id: run whose artifacts take it, under ``fieldrepair/<digest>/``.
        handover: what to store.

    Returns:
        Its URI, to be put into the model version's tag ``fieldrepair.handover``.

    Raises:
        RegistryError: MLflow could not take it.
    """
    client = mlflow.MlflowClient()
    place = f"{ARTIFACT_FOLDER}/{_digest(handover)}"
    with registry_errors(f"artifacts of run {run_id}"), tempfile.TemporaryDirectory(prefix="fieldrepair-") as scratch:
        stored = {Path(file.path).name for file in client.list_artifacts(run_id, place)}
        # The description goes last, so it is there only if everything is.
        if HANDOVER_FILE not in stored:
            handover.save(Path(scratch))
            for name in (REFERENCE_FILE, HANDOVER_FILE):
                client.log_artifact(run_id, str(Path(scratch) / name), place)
    return f"runs:/{run_id}/{place}"


def write_handover(run_id: str, name: str, version: str, handover: HandOver) -> str:
    """Upload a hand-over to a run and point the model version's tag at it.

    Args:
        run_id: run whose artifacts take it.
        name: registered model.
        version: its version; an earlier hand-over of it is replaced in one step.
        handover: what to store.

    Returns:
        The URI that the tag now holds.

    Raises:
        ModelVersionMissingError: there is no such version.
        RegistryError: MLflow could not take it.
    """
    uri = store_handover(run_id, handover)
    with registry_errors(f"model version models:/{name}/{version}"):
        mlflow.MlflowClient().set_model_version_tag(name, version, HANDOVER_TAG, uri)
    return uri


def _digest(handover: HandOver) -> str:
    digest = hashlib.sha256(json.dumps(handover.describe(), sort_keys=True).encode())
    for name in (*REQUIRED_ARRAYS, *OPTIONAL_ARRAYS):
        array: npt.NDArray[Any] = np.ascontiguousarray(getattr(handover.reference, name))
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
