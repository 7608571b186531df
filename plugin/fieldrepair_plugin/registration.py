"""Makes a repaired model a new version of the registered model, one that can itself be watched and repaired."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
from mlflow.models import Model
from torch import nn

from fieldrepair_monitoring.handover import HANDOVER_TAG, HandOver
from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.registry import download, module_uri, registry_errors
from fieldrepair_plugin.acceptance import Verdict
from fieldrepair_plugin.model_logging import log_model
from fieldrepair_plugin.model_uri import CANDIDATE
from fieldrepair_plugin.repairable import IntArray, Served
from fieldrepair_service.case_book import Case, DriftEvent

logger = logging.getLogger(__name__)

NORMAL_INPUTS = 1000
"""At most so many unlabelled field inputs go into the new reference set, for the monitor."""
CASE_KEY_TAG = "fieldrepair.case_key"
"""Names the case among all case books; ``fieldrepair.case`` alone may come up again in another one."""


@dataclass(frozen=True)
class Labelled:
    """Field inputs with the labels people gave them."""

    x: Served
    """``(n, *served shape)``."""
    y: IntArray
    """``(n,)`` class numbers."""


@dataclass(frozen=True)
class Candidate:
    """Everything a new version is made of."""

    module: nn.Module
    parent: HandOver
    """The hand-over of the version that was repaired."""
    case: Case
    event: DriftEvent
    repair: Labelled
    """What people labelled for the repair."""
    acceptance: Labelled
    """What people labelled to judge it; never trained on."""
    pool: Served
    """``(n, *served shape)`` the adaptation pool, for the monitor's new idea of normal."""
    verdict: Verdict
    budget: int
    seed: int
    description: str
    """Of the version in the registry, Markdown; at most 5,000 characters."""


def case_key(case: Case) -> str:
    """A name for this attempt of this case that no other case book's cases have."""
    return f"{case.created_ms}-{case.id}-{case.attempt}"


def find_registered(case: Case) -> str | None:
    """The version that this attempt of the case has registered already, if it has.

    Raises:
        RegistryError: MLflow does not answer.
    """
    client = mlflow.MlflowClient()
    with registry_errors(f"versions of {case.model_name}"):
        # One page: what is looked for was registered moments ago, by a worker that then stopped.
        found = client.search_model_versions(
            f"name = '{_quoted(case.model_name)}'", max_results=1000, order_by=["version_number DESC"]
        )
    versions = [version for version in found if version.tags.get(CASE_KEY_TAG) == case_key(case)]
    return str(versions[0].version) if versions else None


def register_candidate(candidate: Candidate) -> str:
    """Log the repaired model to the active run and register it under its parent's name.

    The version carries its tags and its hand-over from its first moment, so a worker that stops anywhere in here
    either finds it (:func:`find_registered`) or makes it anew. Alias ``candidate`` is not set here.

    Returns:
        The new version.

    Raises:
        ModelVersionMissingError: the parent version was deleted.
        RegistryError: MLflow cannot take it.
    """
    case, parent = candidate.case, candidate.parent
    with tempfile.TemporaryDirectory(prefix="fieldrepair-parent-") as scratch:
        options = inherited(case.model_name, case.model_version, Path(scratch))
        logged = log_model(
            candidate.module.cpu(),
            name="model",
            reference=extended_reference(candidate),
            class_names=parent.class_names,
            input=parent.input,
            embedding_layer=parent.embedding_layer,
            # Its accuracy has been judged, more strictly than a first hand-over is.
            allow_poor_accuracy=True,
            **options,
        )
    client = mlflow.MlflowClient()
    with registry_errors(f"registering a version of {case.model_name}"):
        tags = {**version_tags(candidate), HANDOVER_TAG: logged.handover_uri}
        version = mlflow.register_model(logged.model_uri, case.model_name, tags=tags)
        client.update_model_version(case.model_name, str(version.version), description=candidate.description)
    logger.info("case %d: registered %s version %s", case.id, case.model_name, version.version)
    return str(version.version)


def set_candidate(name: str, version: str) -> None:
    """Point alias ``candidate`` at a version that waits for approval.

    Raises:
        RegistryError: MLflow does not answer, or the version is gone.
    """
    with registry_errors(f"alias {CANDIDATE} of {name}"):
        mlflow.MlflowClient().set_registered_model_alias(name, CANDIDATE, version)


def extended_reference(candidate: Candidate) -> Reference:
    """The parent's reference set, and the field as one more world of it.

    Exemplars with a person's label join the training inputs, the acceptance sample joins the validation inputs (it
    was never trained on), and a random part of the pool tells the monitor what this world looks like.
    """
    old = candidate.parent.reference
    world = max(old.worlds) + 1
    pool, generator = candidate.pool, np.random.default_rng(candidate.seed)
    normal = pool[np.sort(generator.permutation(len(pool))[:NORMAL_INPUTS])]

    def worlds(before: IntArray, added: int) -> IntArray:
        return np.concatenate([before, np.full(added, world, dtype=np.int64)])

    return Reference(
        train_x=np.concatenate([old.train_x, candidate.repair.x.astype(old.train_x.dtype)]),
        train_y=np.concatenate([old.train_y, candidate.repair.y]),
        train_world=worlds(old.train_world, len(candidate.repair.y)),
        val_x=np.concatenate([old.val_x, candidate.acceptance.x.astype(old.val_x.dtype)]),
        val_y=np.concatenate([old.val_y, candidate.acceptance.y]),
        val_world=worlds(old.val_world, len(candidate.acceptance.y)),
        normal_x=np.concatenate([old.normal_x, normal.astype(old.normal_x.dtype)]),
        normal_world=worlds(old.normal_world, len(normal)),
    )


def version_tags(candidate: Candidate) -> dict[str, str]:
    """What the registry shows of the repair at a glance."""
    case = candidate.case
    return {
        "fieldrepair.case": str(case.id),
        CASE_KEY_TAG: case_key(case),
        "fieldrepair.event": str(candidate.event.id),
        "fieldrepair.parent_version": case.model_version,
        "fieldrepair.budget": str(candidate.budget),
        "fieldrepair.labels_used": str(len(candidate.repair.y)),
        "fieldrepair.acceptance": "accepted" if candidate.verdict.accepted else "rejected",
    }


def inherited(name: str, version: str, scratch: Path) -> dict[str, Any]:
    """What a new version takes over from its parent: signature, requirements, and the code its classes live in.

    Args:
        name: registered model.
        version: the parent.
        scratch: a folder to download into; it has to be there until the new version is logged.

    Returns:
        Options of :func:`~fieldrepair_plugin.log_model`.

    Raises:
        ModelVersionMissingError: the parent was deleted.
        RegistryError: MLflow cannot give it.
    """
    parent_uri, trained_uri = f"models:/{name}/{version}", module_uri(name, version)
    served = download(parent_uri, scratch / "served")
    trained = served if trained_uri == parent_uri else download(trained_uri, scratch / "trained")
    return _inherited(served, trained)


def _inherited(parent: Path, trained: Path) -> dict[str, Any]:
    """What the new version takes over from its parent: signature, requirements, and the code its classes live in.

    Args:
        parent: the model as it is served.
        trained: the model whose module was repaired, most often the same.
    """
    model = Model.load(str(parent))
    options: dict[str, Any] = {}
    if model.signature is not None:
        options["signature"] = model.signature
    requirements = parent / "requirements.txt"
    if requirements.exists():
        options["pip_requirements"] = str(requirements)
    flavours = cast(dict[str, dict[str, Any]], Model.load(str(trained)).flavors)
    flavour = flavours.get("python_function", {})
    code = trained / str(flavour.get("code") or "code")
    if flavour.get("code") and code.is_dir():
        options["code_paths"] = [str(path) for path in sorted(code.iterdir()) if path.name != "__pycache__"]
    return options


def _quoted(name: str) -> str:
    """A model name inside a registry filter."""
    return name.replace("'", "''")
