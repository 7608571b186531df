"""Commands of the plugin package. Light on purpose: torch and mlflow are imported when a command runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Literal, cast

from pydantic import Field, field_validator
from pydantic_settings import CliImplicitFlag, CliPositionalArg

from fieldrepair_monitoring.settings import RegistrySettings
from fieldrepair_plugin.settings import TrainingSettings, UpSettings, WorkerSettings
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


class DoctorCommand(TrainingSettings):
    """Say what is wrong with a model's training: problems of gradients, convergence, data and loss, with evidence.

    The model is trained for a few epochs on its reference set with instruments on; the version itself is not changed,
    and nothing is stored. Exit status: 0 nothing wrong was found, 3 something was, 1 it could not be examined.
    """

    start: Literal["auto", "weights", "fresh"] = "auto"
    """Where the training starts: from the stored weights, or from fresh ones. auto: from the stored weights of a
    version that is right on less than 60 % of its validation inputs, else fresh."""
    examined_inputs: int = Field(default=10_000, ge=10)
    """At most so many training inputs are used, drawn at random."""
    output: Literal["text", "json"] = "text"
    """What is printed: text for people, or JSON."""

    def cli_cmd(self) -> None:
        """Examine, and print what was found."""
        self.use_registry()
        _use_threads(self.training_threads)
        from fieldrepair_plugin.training_repair.doctor import diagnose_version, run_doctor

        diagnosis = diagnose_version(
            self.model,
            self.told,
            start=self.start,
            seed=self.training_seed,
            device=self.training_device,
            most_inputs=self.examined_inputs,
        )
        if status := run_doctor(diagnosis, as_json=self.output == "json"):
            sys.exit(status)


class RetrainCommand(TrainingSettings):
    """Search for a better training of a model, judge what was found, and register it as candidate if it is better.

    For a version that was poor from the start, or whose repair was rejected. Trials train on the reference set's
    training inputs; the validation inputs judge the result, once. Ctrl-C is safe: the same command goes on where it
    was stopped. Exit status: 0 a repair was found, 3 none was.
    """

    strategy: Literal["random", "autotrainer", "bohb", "gp", "hebo", "guided"] = "guided"
    """How training plans are searched for (docs/training-repair.md compares them)."""
    trainings: int = Field(default=20, ge=1)
    """Budget, in trainings of training_epochs."""
    random_arm: bool = False
    """Spend the same budget on random draws as well, to compare with."""
    fresh_seeds: int = Field(default=5, ge=0)
    """Train the given and the found plan anew under so many seeds, to show that the seed did not make the difference.
    0: do not. This comes on top of the budget."""
    margin: float = Field(default=0.01, gt=0, lt=1)
    """How much accuracy the candidate may lose, in total and per class."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Significance level of the acceptance test."""
    register_candidate: bool = True
    """Register an accepted result as a new version with the alias candidate."""
    output: Literal["text", "json"] = "text"
    """What is printed: text for people, or JSON."""

    def cli_cmd(self) -> None:
        """Search, judge, register, and print the report."""
        self.use_registry()
        _use_threads(self.training_threads)
        from fieldrepair_plugin.training_repair.retrain import run_retrain

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if status := run_retrain(self):
            sys.exit(status)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
