"""``python -m examples.microscope``: a table of measurements, a microscope with a wrong scale, a repaired classifier.

Everything is real: MLflow's server and scoring server, sidecar, monitor and worker. The right answers come later, as
they do in a hospital: the laboratory's reports are sent to the control port by the ids of the requests.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import httpx
import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from torch import Tensor, nn
from torch.nn import functional as F

import fieldrepair_plugin as fieldrepair
from examples.digits.platform import FieldRepair, Platform, wait_for
from examples.microscope.data import Labels, Part, Rows, feature_names, rescaled, split_rows
from fieldrepair_monitoring.reference import Reference
from fieldrepair_service.inputs import TabularInput

MODEL = "cells"
CLASS_NAMES = ("malignant", "benign")
SETTINGS = {
    # 180 field inputs are few: small windows, and more labels than usual of each hundred inputs.
    "FIELDREPAIR_WINDOW_SIZE": "40",
    "FIELDREPAIR_POOL_MINIMUM": "160",
    "FIELDREPAIR_ACCEPTANCE_SIZE": "70",
    "FIELDREPAIR_LABEL_FRACTION": "0.3",
    "FIELDREPAIR_EPOCHS": "15",
    "FIELDREPAIR_MARGIN": "0.05",
    "FIELDREPAIR_REPAIR_THREADS": "1",
    # The model is wrong here without being unsure, which no estimate without labels can see: any shift is a reason.
    "FIELDREPAIR_REQUIRE_HARM": "false",
}


class Network(nn.Module):
    """Standardised measurements through two hidden layers; takes (n, 30), gives (n, 2) logits."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.hidden = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.head = nn.Linear(16, 2)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of a batch."""
        return self.head(self.hidden((rows - self.get_buffer("mean")) / self.get_buffer("std")))


def train_network(part: Part, *, steps: int = 120, seed: int = 0) -> Network:
    """A network trained on ``part``."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rows, labels = torch.from_numpy(part.rows), torch.from_numpy(part.labels)
    network = Network(rows.mean(dim=0), rows.std(dim=0))
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.005, weight_decay=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(network(rows), labels, label_smoothing=0.05).backward()
        optimiser.step()
    return network


def main(folder: Path = Path("build") / "microscope") -> int:
    """Tell the story; 0 if the repair was accepted."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    shutil.rmtree(folder, ignore_errors=True)
    parts = split_rows()
    platform = Platform.start_mlflow(folder)
    platform = Platform(platform.mlflow_url, platform.mlflow, {**platform.environment, **SETTINGS}, folder)
    try:
        mlflow.set_tracking_uri(platform.mlflow_url)
        register(parts)
        running = platform.start_fieldrepair(f"models:/{MODEL}@champion")
        try:
            return tell(running, parts)
        finally:
            running.stop()
    finally:
        platform.stop()


def register(parts: dict[str, Part]) -> None:
    """Train the network and make it the champion."""
    train, validation = parts["train"], parts["validation"]
    mlflow.set_experiment(MODEL)
    info = fieldrepair.log_model(
        train_network(train),
        registered_model_name=MODEL,
        reference=Reference(train.rows, train.labels, validation.rows, validation.labels),
        class_names=CLASS_NAMES,
        input=TabularInput(features=feature_names()),
        pip_requirements=["torch"],
    )
    MlflowClient().set_registered_model_alias(MODEL, "champion", str(info.version))
    say(f"{info.model_uri}: right on {info.handover.reference_accuracy:.1%} of the validation rows")


def tell(running: FieldRepair, parts: dict[str, Part]) -> int:
    """Traffic, drift, labels, repair."""
    before, after = parts["before"], parts["after"]
    answers = send(running, before.rows, "before")
    say(f"the old microscope: {(answers == before.labels).mean():.1%} right")
    answers = send(running, rescaled(after.rows), "after")
    say(f"the new microscope: {(answers == after.labels).mean():.1%} right")
    event = wait_for("a drift event", lambda: first(running.get("/api/events")), seconds=120, process=running.process)
    say(f"drift: {event['summary']}")
    report(running, after.labels, "after")
    case = wait_for("the verdict", lambda: ended(running), seconds=240, process=running.process)
    say(f"case {case['id']}: {case['state']}: {case['reason']}")
    return 0 if case["state"] == "accepted" else 1


def send(running: FieldRepair, rows: Rows, batch: str) -> Labels:
    """Ask for each row in a request of its own, by the names of its columns; the classes that were answered."""
    names = feature_names()
    found: list[int] = []
    with httpx.Client(timeout=30.0, trust_env=False) as client:
        for number, row in enumerate(rows.tolist()):
            answer = client.post(
                f"{running.traffic_url}/invocations",
                json={"dataframe_records": [dict(zip(names, row, strict=True))]},
                headers={"x-request-id": f"{batch}-{number}"},
            )
            scores = cast("dict[str, float]", answer.raise_for_status().json()["predictions"][0])
            found.append(int(max(scores, key=lambda name: scores[name])))
    return np.asarray(found, dtype=np.int64)


def report(running: FieldRepair, labels: Labels, batch: str) -> None:
    """The laboratory's findings, by the ids of the requests."""
    found: list[dict[str, Any]] = [
        {"client_request_id": f"{batch}-{number}", "row": 0, "label": CLASS_NAMES[label]}
        for number, label in enumerate(cast("list[int]", labels.tolist()))
    ]
    running.control.post("/api/labels", json={"source": "laboratory", "labels": found}).raise_for_status()


def first(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first of a list, if there is one."""
    return next(iter(found), None)


def ended(running: FieldRepair) -> dict[str, Any] | None:
    """The case, once the worker has decided."""
    return first([case for case in running.get("/api/cases") if case["state"] in ("accepted", "rejected", "dismissed")])


def say(sentence: str) -> None:
    """One line of the story."""
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
