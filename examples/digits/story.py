"""The story, step by step. Every step waits for what really happened; no number is typed in."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from examples.digits.clients import Client, Labeller, SteadyTraffic
from examples.digits.data import CLASS_NAMES, SERVED_AS, Labels, Part, RemountedScanner, split_scans
from examples.digits.model import train_network
from examples.digits.platform import DemoError, FieldRepair, Platform, wait_for
from examples.digits.report import Evidence, Summary
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import log_model

MODEL = "digits"
Record = dict[str, Any]
Answers = tuple[Labels, Labels]


class Story:
    """Serve, log, detect, label, repair, accept, register, approve, switch; measured on the way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = Summary()
        self.scans = split_scans()
        self.scanner = RemountedScanner()
        self.shifted_traffic = self._rescan("traffic", seed=1)
        self.shifted_holdout = self._rescan("holdout", seed=2)

    def _rescan(self, name: str, seed: int) -> Part:
        part = self.scans[name]
        return Part(self.scanner.scan(part.images, seed), part.labels)

    def begin(self) -> Platform:
        """Start a real MLflow server."""
        with self._stage("MLflow server started"):
            return Platform.start_mlflow(self.folder)

    def train_and_register(self, platform: Platform) -> None:
        """Train the network, log it with its hand-over, and make it the champion."""
        with self._stage("network trained and registered"), self._chatter_to_file():
            network = train_network(self.scans["train"])
            mlflow.set_tracking_uri(platform.mlflow_url)
            mlflow.set_experiment(MODEL)
            train, validation = self.scans["train"], self.scans["validation"]
            logged = log_model(
                network,
                name="model",
                registered_model_name=MODEL,
                reference=Reference(
                    train_x=train.images, train_y=train.labels, val_x=validation.images, val_y=validation.labels
                ),
                class_names=CLASS_NAMES,
                input=SERVED_AS,
            )
            self.summary.version_before = str(logged.version)
            MlflowClient().set_registered_model_alias(MODEL, "champion", self.summary.version_before)

    def serve(self, platform: Platform) -> tuple[FieldRepair, Client]:
        """``fieldrepair up``: model server, sidecar, monitor and worker."""
        with self._stage("fieldrepair up"):
            running = platform.start_fieldrepair(f"models:/{MODEL}@champion")
        return running, Client(running.traffic_url)

    def send_clean_traffic(self, running: FieldRepair, client: Client) -> None:
        """Traffic from the original scanner: the monitor must stay silent."""
        clean = self.scans["traffic"]
        with self._stage("clean traffic watched"):
            client.classify(clean.images)
            full_windows = len(clean) // self._window_size(running)
            wait_for(
                f"{full_windows} windows of clean traffic",
                lambda: len(self._windows(running)) >= full_windows or None,
                seconds=90,
                process=running.process,
            )
            self.summary.false_alerts = len(running.get("/api/events"))

    def send_shifted_traffic(self, running: FieldRepair, client: Client) -> Record:
        """The same pages from the re-mounted scanner: the monitor must raise an alert. Returns the drift event."""
        with self._stage("drift noticed"):
            client.classify(self.shifted_traffic.images)
            event: Record = wait_for(
                "a drift event",
                lambda: next(iter(running.get("/api/events")), None),
                seconds=90,
                process=running.process,
            )
        # The alert fell at the end of a window; what it had seen of the shift is what came after the clean traffic.
        seen = (event["window_index"] + 1) * self._window_size(running)
        self.summary.inputs_until_alert = seen - len(self.scans["traffic"])
        return event

    def label(self, running: FieldRepair) -> int:
        """Answer every question of the repair case through the HTTP API. Returns the case's id."""
        with self._stage("inputs chosen for labelling"):
            planned: Record = wait_for(
                "the case's questions",
                lambda: next((case for case in running.get("/api/cases") if case["budget"] is not None), None),
                seconds=120,
                process=running.process,
            )
        with self._stage("questions answered"):
            labeller = Labeller(running.control, [self.scans["traffic"], self.shifted_traffic])
            labeller.answer_all(planned["id"])
        return int(planned["id"])

    def measure(self, client: Client) -> Answers:
        """Predicted classes of the sealed holdout: (from the re-mounted scanner, from the original one)."""
        return client.classify(self.shifted_holdout.images), client.classify(self.scans["holdout"].images)

    def wait_for_candidate(self, running: FieldRepair, case_id: int) -> Record:
        """Wait until the worker has repaired and judged. Returns the case."""
        with self._stage("repaired and judged"):
            case: Record = wait_for(
                "the worker's verdict",
                lambda: self._case_if(running, case_id, {"accepted", "rejected", "dismissed"}),
                seconds=240,
                process=running.process,
            )
        if case["state"] != "accepted":
            raise DemoError(f"the case ended {case['state']}: {case['reason']}")
        return case

    def approve(self, running: FieldRepair, client: Client, case: Record) -> None:
        """What a person does in the MLflow registry: move the alias. Clients keep asking all the while."""
        self.summary.version_after = str(case["candidate_version"])
        with self._stage("approved and switched"), SteadyTraffic(client, self.shifted_holdout.images):
            MlflowClient().set_registered_model_alias(MODEL, "champion", self.summary.version_after)
            wait_for(
                "the sidecar to switch",
                lambda: self._serves(running, self.summary.version_after),
                seconds=120,
                process=running.process,
            )
            wait_for(
                "the case to be promoted",
                lambda: self._case_if(running, int(case["id"]), {"promoted"}),
                seconds=60,
                process=running.process,
            )

    def tell(self, running: FieldRepair, client: Client) -> Evidence:
        """Everything from the first request to the repaired version, on a running system."""
        self.send_clean_traffic(running, client)
        event = self.send_shifted_traffic(running, client)
        case_id = self.label(running)
        with self._stage("measured before"):
            before = self.measure(client)
        case = self.wait_for_candidate(running, case_id)
        self.approve(running, client, case)
        with self._stage("measured after"):
            after = self.measure(client)
            self._watch_the_repaired_version(running)
        case = running.get(f"/api/cases/{case_id}")
        self._sum_up(running, client, case, before, after)
        return self._gather_evidence(running, event, case, before[0], after[0])

    def _watch_the_repaired_version(self, running: FieldRepair) -> None:
        """The monitor must have judged what the repaired version was asked before silence means anything."""
        logged = len(self.shifted_holdout) + len(self.scans["holdout"])
        version = self.summary.version_after
        expected = logged // self._window_size(running)
        wait_for(
            f"{expected} windows of version {version}",
            lambda: len(self._windows(running, version)) >= expected or None,
            seconds=90,
            process=running.process,
        )

    def _sum_up(self, running: FieldRepair, client: Client, case: Record, before: Answers, after: Answers) -> None:
        summary, shifted, original = self.summary, self.shifted_holdout.labels, self.scans["holdout"].labels
        summary.field_accuracy_before = float((before[0] == shifted).mean())
        summary.reference_accuracy_before = float((before[1] == original).mean())
        summary.field_accuracy_after = float((after[0] == shifted).mean())
        summary.reference_accuracy_after = float((after[1] == original).mean())
        verdict = case["acceptance"]
        summary.field_inputs = int(verdict["field_inputs"])
        summary.labels_for_repair = int(verdict["labels_for_repair"])
        summary.labels_for_acceptance = int(verdict["labels_for_acceptance"])
        # Any event beyond the one real shift cried wolf, on whichever version.
        summary.false_alerts += len(running.get("/api/events")) - 1
        summary.failed_requests = client.failed_requests

    def _gather_evidence(
        self, running: FieldRepair, event: Record, case: Record, before: Labels, after: Labels
    ) -> Evidence:
        labels, images = self.shifted_holdout.labels, self.shifted_holdout.images
        return Evidence(
            windows=self._windows(running),
            event=event,
            case=case,
            original=self.scans["holdout"].images[:12],
            shifted=images[:12],
            repaired=images[(before != labels) & (after == labels)][:12],
            broken=images[(before == labels) & (after != labels)][:12],
        )

    def _windows(self, running: FieldRepair, version: str | None = None) -> list[Record]:
        windows: list[Record] = running.get(
            "/api/windows", model_name=MODEL, model_version=version or self.summary.version_before, limit=1000
        )
        return sorted(windows, key=lambda window: int(window["index"]))

    def _window_size(self, running: FieldRepair) -> int:
        from fieldrepair_monitoring.settings import MonitorSettings

        windows = self._windows(running)
        return int(windows[0]["size"]) if windows else MonitorSettings.model_fields["window_size"].default

    def _case_if(self, running: FieldRepair, case_id: int, states: set[str]) -> Record | None:
        case: Record = running.get(f"/api/cases/{case_id}")
        return case if case["state"] in states else None

    def _serves(self, running: FieldRepair, version: str) -> bool | None:
        return running.served_version() == version or None

    @contextmanager
    def _chatter_to_file(self) -> Generator[None]:
        """MLflow tells stderr what it registers; the story's own lines say it."""
        with (self.folder / "logs" / "story.log").open("a") as log, redirect_stderr(log):
            yield

    @contextmanager
    def _stage(self, name: str) -> Generator[None]:
        print(f"  {name} ...", end="", flush=True)
        started = time.monotonic()
        yield
        self.summary.seconds[name] = round(time.monotonic() - started, 2)
        print(f" {self.summary.seconds[name]:.1f} s", flush=True)
