"""Where a model version comes from, link by link back to the first one, and what a case has led to.

What is read lies in MLflow: tags of the versions, and in each repair's run ``lineage.json`` and the datasets. The case
book is asked only for the way forward from a case.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mlflow

from fieldrepair_monitoring.errors import ModelVersionMissingError
from fieldrepair_monitoring.registry import model_version, registry_errors
from fieldrepair_plugin.field_window import FieldLogWindow
from fieldrepair_plugin.lineage_record import LINEAGE_FILE
from fieldrepair_plugin.registration import CASE_KEY_TAG
from fieldrepair_plugin.repair_run import ARTIFACT_FOLDER, run_url
from fieldrepair_service.case_book import CaseBook
from fieldrepair_service.field_log import FieldLog

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

PARENT_TAG = "fieldrepair.parent_version"
_PAGE = 1000


@dataclass(frozen=True)
class Link:
    """One version of the chain."""

    name: str
    version: str
    registered_ms: int | None
    """None: the version was deleted, and only its successors still name it."""
    aliases: tuple[str, ...] = ()
    run_id: str | None = None
    run_url: str | None = None
    parent_version: str | None = None
    """The version that was repaired; None for one that was not made by a repair."""
    children: tuple[str, ...] = ()
    """Versions that are repairs of this one."""
    repair: dict[str, Any] | None = None
    """``lineage.json`` of its repair: drift event, case, window, labels, verdict; see
    :func:`fieldrepair_plugin.lineage_record.lineage_record`."""
    rows_left: int | None = None
    """How many rows of its window the field log still has; None if nobody looked."""


@dataclass(frozen=True)
class Lineage:
    """A version, what it was made from, and so on to the first."""

    links: tuple[Link, ...]
    """The version asked about, its parent, its grandparent, ..."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        return asdict(self)


@dataclass(frozen=True)
class CaseLineage:
    """What a case has led to."""

    case: int
    state: str
    reason: str
    model_name: str
    model_version: str
    """The version whose drift opened it."""
    event: int
    run_id: str | None
    versions: tuple[Lineage, ...] = field(default_factory=tuple)
    """Versions that its attempts have registered, newest first, each with where it comes from."""

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings."""
        return asdict(self)


def version_lineage(name: str, version: str, *, look_into_log: bool = False) -> Lineage:
    """Walk from a version back to the first one.

    Args:
        name: registered model.
        version: its version.
        look_into_log: also count how many rows of each window the field log still has.

    Raises:
        ModelVersionMissingError: there is no such version. One that is missing further back only ends the chain.
        RegistryError: MLflow could not answer.
        StoreError: a field log cannot be read.
    """
    return _chain(_Versions(name), version, look_into_log)


def case_lineage(book: CaseBook, case_id: int, *, look_into_log: bool = False) -> CaseLineage:
    """From a case to the versions that came of it.

    Raises:
        NotFoundError: the case book has no such case.
        RegistryError: MLflow could not answer.
        StoreError: case book or field log do not answer.
    """
    case = book.case(case_id)
    versions = _Versions(case.model_name)
    begins = f"{case.created_ms}-{case.id}-"
    found = [one for one in versions.all if str(one.tags.get(CASE_KEY_TAG, "")).startswith(begins)]
    return CaseLineage(
        case=case.id,
        state=case.state.value,
        reason=case.reason,
        model_name=case.model_name,
        model_version=case.model_version,
        event=case.event_id,
        run_id=case.run_id,
        versions=tuple(_chain(versions, str(one.version), look_into_log) for one in found),
    )


class _Versions:
    """All versions of a registered model, read once."""

    def __init__(self, name: str) -> None:
        self.name = name
        client = mlflow.MlflowClient()
        self.all: list[ModelVersion] = []
        token: str | None = None
        quoted = name.replace("'", "''")
        with registry_errors(f"versions of {name}"):
            while True:
                page = client.search_model_versions(
                    f"name = '{quoted}'", max_results=_PAGE, order_by=["version_number DESC"], page_token=token
                )
                self.all += page
                token = cast("str | None", page.token)
                if not token:
                    break
            found = cast("dict[str, object]", client.get_registered_model(name).aliases) if self.all else {}
        self.aliases = {alias: str(version) for alias, version in found.items()}

    def of(self, version: str) -> ModelVersion | None:
        return next((one for one in self.all if str(one.version) == version), None)

    def children(self, version: str) -> tuple[str, ...]:
        return tuple(str(one.version) for one in self.all if one.tags.get(PARENT_TAG) == version)


def _chain(versions: _Versions, version: str, look_into_log: bool) -> Lineage:
    if versions.of(version) is None:
        model_version(versions.name, version)  # says that it is missing, in MLflow's words
    links: list[Link] = []
    at: str | None = version
    while at is not None and at not in {link.version for link in links}:
        links.append(_link(versions, at, look_into_log))
        at = links[-1].parent_version
    return Lineage(tuple(links))


def _link(versions: _Versions, version: str, look_into_log: bool) -> Link:
    found = versions.of(version)
    children = versions.children(version)
    if found is None:
        return Link(versions.name, version, None, children=children)
    parent = found.tags.get(PARENT_TAG)
    repair = _record(found.run_id) if parent and found.run_id else None
    return Link(
        name=versions.name,
        version=version,
        registered_ms=int(found.creation_timestamp),
        aliases=tuple(sorted(alias for alias, of in versions.aliases.items() if of == version)),
        run_id=found.run_id or None,
        run_url=_url(found.run_id),
        parent_version=parent,
        children=children,
        repair=repair,
        rows_left=_rows_left(repair) if look_into_log and repair else None,
    )


def _record(run_id: str) -> dict[str, Any] | None:
    """``lineage.json`` of a run; None if the run is gone, or from before there was one."""
    client = mlflow.MlflowClient()
    path = f"{ARTIFACT_FOLDER}/{LINEAGE_FILE}"
    try:
        with registry_errors(f"run {run_id}"), tempfile.TemporaryDirectory(prefix="fieldrepair-") as scratch:
            if path not in {item.path for item in client.list_artifacts(run_id, ARTIFACT_FOLDER)}:
                return None
            return json.loads(Path(client.download_artifacts(run_id, path, scratch)).read_text(encoding="utf-8"))
    except ModelVersionMissingError:  # MLflow's "there is no such thing", here of a run
        return None


def _url(run_id: str | None) -> str | None:
    try:
        return run_url(run_id) if run_id else None
    except ModelVersionMissingError:
        return None


def _rows_left(repair: dict[str, Any]) -> int:
    window = FieldLogWindow.from_dict(repair["window"])
    log = FieldLog.open(window.field_log, create=False)
    return len(window.read(log, []))
