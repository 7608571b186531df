"""A registered candidate: its reference set, what it inherits, and how it is found again."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import get_model_info
from torch import nn

from fieldrepair_monitoring.handover import load_handover, load_module
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import log_model
from fieldrepair_plugin.acceptance import Predictions, Verdict, judge
from fieldrepair_plugin.registration import (
    NORMAL_INPUTS,
    Candidate,
    Labelled,
    case_key,
    extended_reference,
    find_registered,
    register_candidate,
    set_candidate,
)

if TYPE_CHECKING:
    from tests.plugin.conftest import Field


def verdict(inputs: int) -> Verdict:
    labels = np.arange(inputs, dtype=np.int64) % 4
    wrong = (labels + 1) % 4
    return judge(Predictions(wrong, labels, labels), Predictions(labels, labels, labels), ("a", "b", "c", "d"))


def make_candidate(field: Field, *, pool: int = 30) -> Candidate:
    case = field.book.case(field.open_case())
    generator = np.random.default_rng(0)

    def images(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return generator.uniform(0, 1, (count, 1, 8, 8)).astype(np.float32)

    return Candidate(
        module=load_module(field.name, field.version),
        parent=load_handover(field.name, field.version),
        case=case,
        event=field.book.event(case.event_id),
        repair=Labelled(images(5), np.arange(5, dtype=np.int64) % 4),
        acceptance=Labelled(images(40), np.arange(40, dtype=np.int64) % 4),
        pool=images(pool),
        verdict=verdict(40),
        budget=6,
        seed=3,
        description="repaired",
    )


def test_the_field_becomes_one_more_world(field: Field) -> None:
    candidate = make_candidate(field, pool=NORMAL_INPUTS + 50)
    old, first = candidate.parent.reference, extended_reference(candidate)
    assert first.worlds == (0, 1)
    assert len(first.train_x) == len(old.train_x) + 5
    assert len(first.val_x) == len(old.val_x) + 40
    assert np.array_equal(first.train_x[-5:], candidate.repair.x)
    assert np.array_equal(first.val_y[-40:], candidate.acceptance.y)
    assert len(first.normal_x) == NORMAL_INPUTS
    assert len({image.tobytes() for image in first.normal_x}) == NORMAL_INPUTS

    parent = dataclasses.replace(candidate.parent, reference=first)
    second = extended_reference(dataclasses.replace(candidate, parent=parent))
    assert second.worlds == (0, 1, 2)
    assert (second.val_world == 1).sum() == (second.val_world == 2).sum() == 40
    assert len(second.normal_x) == 2 * NORMAL_INPUTS


def test_a_version_is_found_by_the_case_that_made_it_and_no_other(field: Field) -> None:
    candidate = make_candidate(field)
    assert find_registered(candidate.case) is None
    with mlflow.start_run():
        version = register_candidate(candidate)
    assert find_registered(candidate.case) == version
    # Case 1 of another case book, made at another time, is another case.
    other = dataclasses.replace(candidate.case, created_ms=candidate.case.created_ms + 1)
    assert other.id == candidate.case.id
    assert case_key(other) != case_key(candidate.case)
    assert find_registered(other) is None
    assert find_registered(dataclasses.replace(candidate.case, attempt=2)) is None


def test_it_inherits_signature_requirements_and_code(
    field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that was logged with code of its own stays loadable after a repair."""
    code = tmp_path / "code" / "quadrant_network.py"
    code.parent.mkdir()
    code.write_text(
        "from torch import nn\n"
        "class Network(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))\n"
    )
    monkeypatch.syspath_prepend(str(code.parent))
    written = importlib.import_module("quadrant_network")

    reference = load_handover(field.name, "1").reference
    torch.manual_seed(0)
    logged = log_model(
        cast(nn.Module, written.Network()),
        reference=Reference(reference.train_x, reference.train_y, reference.val_x, reference.val_y),
        registered_model_name=field.name,
        code_paths=[str(code)],
        pip_requirements=["torch", "numpy==1.26.4"],
        allow_poor_accuracy=True,
    )
    field.version = str(logged.version)
    candidate = make_candidate(field)
    with mlflow.start_run():
        version = register_candidate(candidate)
    child, parent = (get_model_info(f"models:/{field.name}/{which}") for which in (version, field.version))
    assert child.signature == parent.signature
    assert child.flavors["python_function"]["code"] == "code"
    place = Path(mlflow.artifacts.download_artifacts(f"models:/{field.name}/{version}"))  # type: ignore[reportPrivateImportUsage]
    assert (place / "code" / "quadrant_network.py").exists()
    assert "numpy==1.26.4" in (place / "requirements.txt").read_text()


def test_the_registry_shows_the_evidence(field: Field) -> None:
    candidate = make_candidate(field)
    with mlflow.start_run():
        version = register_candidate(candidate)
    set_candidate(field.name, version)
    stored = MlflowClient().get_model_version_by_alias(field.name, "candidate")
    assert stored.description == candidate.description
    assert stored.tags["fieldrepair.labels_used"] == "5"
