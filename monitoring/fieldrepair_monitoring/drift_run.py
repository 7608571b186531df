"""The MLflow run of a drift event: its explanation and pictures, where people look for what became of a version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fieldrepair_monitoring.registry import registry_errors
from fieldrepair_service.case_book import DriftEvent, JsonObject

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "fieldrepair"
ARTIFACT_FOLDER = "drift"
EVENT_TAG = "fieldrepair.drift_event_key"
"""Names the event among all case books."""


def event_key(event: DriftEvent) -> str:
    """A name for this event that no other case book's events have."""
    return f"{event.opened_ms}-{event.id}-{event.model_name}-{event.model_version}"


def log_drift_run(event: DriftEvent, explanation: JsonObject, pictures: Mapping[str, bytes]) -> str:
    """Store an explanation in a run of its own, which names the model version it is about.

    Not in the case's run: the worker opens that one when it has chosen what to label, which may be days later, or
    never. The two are found from one another by the tag ``fieldrepair.case``. A run that a killed monitor left half
    done is found again and completed, so there is one per event.

    Args:
        event: the drift event.
        explanation: stored as ``drift/explanation.json``.
        pictures: PNG files by name, stored beside it.

    Returns:
        The run's id.

    Raises:
        RegistryError: MLflow does not answer. Trying again completes what is missing.
    """
    import mlflow
    from mlflow.entities import RunStatus, ViewType

    client = mlflow.MlflowClient()
    with registry_errors(f"MLflow run of drift event {event.id}"):
        experiment = client.get_experiment_by_name(EXPERIMENT)
        home = client.create_experiment(EXPERIMENT) if experiment is None else str(experiment.experiment_id)
        found = client.search_runs(
            [home], f"tags.`{EVENT_TAG}` = '{_quoted(event_key(event))}'", ViewType.ACTIVE_ONLY, max_results=1
        )
        run_id = str(found[0].info.run_id) if found else _create(client, home, event)
        with TemporaryDirectory(prefix="fieldrepair-drift-") as scratch:
            folder = Path(scratch)
            (folder / "explanation.json").write_text(json.dumps(explanation, indent=2) + "\n", encoding="utf-8")
            for name, content in pictures.items():
                (folder / name).write_bytes(content)
            client.log_artifacts(run_id, scratch, ARTIFACT_FOLDER)
        client.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED))
    return run_id


def _create(client: MlflowClient, experiment: str, event: DriftEvent) -> str:
    tags = {
        EVENT_TAG: event_key(event),
        "fieldrepair.drift_event": str(event.id),
        "fieldrepair.case": str(event.case_id),
        "fieldrepair.model_name": event.model_name,
        "fieldrepair.model_version": event.model_version,
        "mlflow.note.content": event.summary,
    }
    run = client.create_run(
        experiment,
        start_time=event.opened_ms,
        tags=tags,
        run_name=f"drift-{event.id}-{event.model_name}-{event.model_version}",
    )
    run_id = str(run.info.run_id)
    measured = {
        "statistic": event.statistic,
        "threshold": event.threshold,
        "p_value": event.p_value,
        "estimated_accuracy": event.estimated_accuracy,
        "reference_accuracy": event.reference_accuracy,
    }
    for name, value in measured.items():
        if value is not None:
            client.log_metric(run_id, name, value, timestamp=event.opened_ms)
    return run_id


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
