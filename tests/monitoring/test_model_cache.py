"""What was fetched once stays usable while the registry is away."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest

from fieldrepair_monitoring.errors import ModelVersionMissingError, RegistryError
from fieldrepair_monitoring.handover import load_handover, load_module
from fieldrepair_monitoring.model_cache import KEPT, cached_model
from fieldrepair_monitoring.settings import MonitorSettings
from fieldrepair_monitoring.watched_version import WatchedVersion

if TYPE_CHECKING:
    from tests.monitoring.conftest import Registered


def test_a_version_that_was_loaded_is_loaded_again_without_the_registry(
    registry: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handovers, models = tmp_path / "handovers", tmp_path / "models"
    settings = MonitorSettings(state_dir=tmp_path)
    WatchedVersion.load(registry.name, registry.version, settings, handovers)
    [folder] = (models / registry.name).iterdir()
    assert folder.name.startswith("1-")
    assert (folder / "MLmodel").exists()

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = str(mlflow.get_tracking_uri())
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        assert load_handover(registry.name, registry.version, handovers).class_names
        again = cached_model(registry.name, registry.version, models)
        assert again == folder
        assert not load_module(registry.name, registry.version, again).training
        for ask in (
            lambda: load_handover(registry.name, "2", handovers),
            lambda: cached_model(registry.name, "2", models),
            lambda: load_handover(registry.name, registry.version),
        ):
            with pytest.raises(RegistryError):
                ask()
    finally:
        mlflow.set_tracking_uri(before)


def test_what_the_registry_says_is_believed_while_it_answers(registry: Registered, tmp_path: Path) -> None:
    with pytest.raises(ModelVersionMissingError):
        cached_model(registry.name, "77", tmp_path)
    assert not (tmp_path / registry.name).exists() or list((tmp_path / registry.name).iterdir()) == []


def test_the_models_used_longest_ago_make_room(registry: Registered, tmp_path: Path) -> None:
    home = tmp_path / registry.name
    for number in range(KEPT + 1):
        old = home / f"{number + 2}-1"
        old.mkdir(parents=True)
        at = time.time() - 1000 + number
        os.utime(old, (at, at))
    folder = cached_model(registry.name, registry.version, tmp_path)
    kept = sorted(path.name for path in home.iterdir())
    assert folder.name in kept
    assert len(kept) == KEPT
    assert "2-1" not in kept
    assert "3-1" not in kept
