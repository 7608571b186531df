"""Commands of the plugin package. Light on purpose: torch and mlflow are imported when a command runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

from pydantic import Field, field_validator
from pydantic_settings import CliImplicitFlag, CliPositionalArg

from fieldrepair_monitoring.settings import RegistrySettings
from fieldrepair_plugin.settings import UpSettings, WorkerSettings
from fieldrepair_service.inputs import InputSpec


class UpCommand(UpSettings):
    """Run everything for one model on this machine: model server, sidecar, monitor and repair worker.

    With models:/NAME@ALIAS the alias is followed: when it moves in the MLflow registry, the new version's server is
    started and warmed, traffic is switched to it without losing a request, and the old server is stopped. Moving the
    alias back rolls back. Settings of the other parts are taken from their FIELDREPAIR_ environment variables.
    Ctrl-C stops everything, a second Ctrl-C kills everything.
    """

    def cli_cmd(self) -> None:
        """Run until SIGINT or SIGTERM."""
        from fieldrepair_plugin.supervisor import run_up

        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        run_up(self)


class WorkerCommand(WorkerSettings):
    """Work repair cases: choose what to label, train when the labels are in, judge, register the candidate.

    Ctrl-C is safe at any time, also in the middle of training: the next start goes on from the last epoch.
    """

    def cli_cmd(self) -> None:
        """Run until SIGINT or SIGTERM."""
        from fieldrepair_plugin.worker import run_worker

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        run_worker(self)


class AttachCommand(RegistrySettings):
    """Store with a model version what is needed to watch and repair it.

    For versions that were not logged with fieldrepair_plugin.log_model. The reference set is an .npz file with the
    arrays train_x, train_y, val_x, val_y: inputs as a client sends them, and class numbers; it may also hold
    class_names, and feature_names of table rows.
    """

    model: CliPositionalArg[str]
    """Model version: models:/NAME/VERSION or models:/NAME@ALIAS."""
    reference: Path
    """Reference set (.npz)."""
    class_names: list[str] | None = None
    """One per output of the model. Default: the reference set's class_names, else 0, 1, 2, ..."""
    input: InputSpec | None = None
    """What a served instance is (kind: image, tabular or text), how it is laid out and scaled. Default: guessed where
    the reference set, and the model's signature, leave no doubt."""
    embedding_layer: str | None = None
    """Layer whose input is the embedding. Default: the linear or convolutional one that runs last."""
    factory: str | None = None
    """Of a version logged as pt2: MODULE:FUNCTION that makes its network anew, untrained."""
    state_dict: Path | None = None
    """Of a version logged as pt2: file with its weights. Default: those in the version."""
    code_paths: list[Path] = Field(default_factory=list[Path])
    """Files or folders that define the network that the factory makes; stored with it."""
    allow_poor_accuracy: bool = False
    """Take a model that is right on the reference set no more often than chance."""
    device: str = "cpu"
    """Where to run the model for the check."""

    @field_validator("input", mode="before")
    @classmethod
    def _image_by_default(cls, given: object) -> object:
        return {"kind": "image", **cast("dict[str, object]", given)} if isinstance(given, dict) else given

    def cli_cmd(self) -> None:
        """Check the model against its reference set and store the hand-over."""
        self.use_registry()
        from fieldrepair_plugin.attachment import run_attach

        run_attach(
            self.model,
            self.reference,
            class_names=self.class_names,
            input=self.input,
            embedding_layer=self.embedding_layer,
            factory=self.factory,
            state_dict=self.state_dict,
            code_paths=self.code_paths,
            allow_poor_accuracy=self.allow_poor_accuracy,
            device=self.device,
        )


class LineageCommand(RegistrySettings):
    """Where a model version comes from: run, labels, field-log window, drift event, parent; and what came of a case.

    Reads MLflow alone, except for case:ID, which also needs the case book.
    """

    target: CliPositionalArg[str]
    """models:/NAME/VERSION or models:/NAME@ALIAS, or case:ID for the versions that came of a case."""
    as_json: CliImplicitFlag[bool] = False
    """Print JSON instead of a tree."""
    check_field_log: CliImplicitFlag[bool] = False
    """Also count how many rows of each window the field log still has."""

    def cli_cmd(self) -> None:
        """Print the lineage."""
        self.use_registry()
        from fieldrepair_plugin.lineage_command import run_lineage

        run_lineage(self.target, self.case_book_url, as_json=self.as_json, look_into_log=self.check_field_log)
