from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import pytorch as mlflow_pytorch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from fieldrepair_monitoring.errors import (
    HandOverError,
    HandOverMissingError,
    ModelVersionMissingError,
    ReferenceSetError,
    RegistryError,
    UnsupportedModelError,
)
from fieldrepair_monitoring.handover import (
    HANDOVER_TAG,
    HandOver,
    load_handover,
    load_module,
    read_handover,
)
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_service.inputs import ImageInput

if TYPE_CHECKING:
    from tests.monitoring.conftest import Digits, Registered


@pytest.fixture
def handover(digits: Digits) -> HandOver:
    names = tuple(f"digit {number}" for number in range(10))
    return HandOver(ImageInput(height=8, width=8), names, "8", "logits", digits.reference, {0: 0.9375, 1: 0.5})


def test_a_folder_gives_back_what_was_saved(handover: HandOver, tmp_path: Path) -> None:
    handover.save(tmp_path)
    loaded = read_handover(tmp_path)
    assert loaded.describe() == handover.describe()
    assert (loaded.input, loaded.class_names, loaded.accuracy_by_world) == (
        handover.input,
        handover.class_names,
        {0: 0.9375, 1: 0.5},
    )
    assert loaded.reference_accuracy == 0.9375
    np.testing.assert_array_equal(loaded.reference.val_x, handover.reference.val_x)


def test_damage_is_named_with_the_remedy(handover: HandOver, tmp_path: Path) -> None:
    with pytest.raises(HandOverError, match=r"handover.json does not exist; run `fieldrepair attach`"):
        read_handover(tmp_path)
    handover.save(tmp_path)
    file = tmp_path / "handover.json"
    stored: dict[str, Any] = json.loads(file.read_text())

    file.write_text(json.dumps({**stored, "format_version": 3}))
    with pytest.raises(HandOverError, match="has format 3, this fieldrepair reads up to 2; update fieldrepair"):
        read_handover(tmp_path)
    file.write_text(json.dumps({**stored, "output": "odds"}))
    with pytest.raises(HandOverError, match=r"is damaged \(output: Input should be 'logits' or 'probabilities'\); run"):
        read_handover(tmp_path)
    file.write_text("[")
    with pytest.raises(HandOverError, match=r"cannot read .*handover.json"):
        read_handover(tmp_path)
    file.write_text("[]")
    with pytest.raises(HandOverError, match=r"is damaged \(the file: "):
        read_handover(tmp_path)
    file.write_text(json.dumps({**stored, "added_later": 1}))
    assert read_handover(tmp_path).class_names == handover.class_names, "fields of a later minor format are no damage"
    (tmp_path / "reference.npz").unlink()
    with pytest.raises(ReferenceSetError, match=r"reference.npz does not exist"):
        read_handover(tmp_path)


def test_a_registered_version_gives_hand_over_and_module(
    registry: Registered, digits: Digits, network: nn.Module
) -> None:
    loaded = load_handover(registry.name, registry.version)
    assert loaded.class_names == tuple("0123456789")
    assert loaded.embedding_layer == "8"
    assert loaded.output == "logits"
    module = load_module(registry.name, registry.version)
    assert not module.training
    scores = ServedModel(module, loaded).scores(digits.val_x)
    with torch.inference_mode():
        expected = network(torch.from_numpy(digits.val_x)).softmax(1).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert loaded.reference_accuracy == pytest.approx(float((scores.argmax(1) == digits.val_y).mean()))


def test_a_cached_hand_over_needs_the_registry_only_for_its_tag(registry: Registered, tmp_path: Path) -> None:
    first = load_handover(registry.name, registry.version, tmp_path)
    [home] = (path for path in tmp_path.iterdir() if path.name != "said")
    assert sorted(file.name for file in home.iterdir()) == ["handover.json", "reference.npz"]
    (home / "handover.json").write_text((home / "handover.json").read_text().replace('"9"', '"nine"'))
    assert load_handover(registry.name, registry.version, tmp_path).class_names[-1] == "nine", "read from the cache"
    (home / "handover.json").write_text("{")
    assert load_handover(registry.name, registry.version, tmp_path).class_names == first.class_names
    (home / "reference.npz").write_bytes(b"half")
    assert load_handover(registry.name, registry.version, tmp_path).reference.shape == (1, 8, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([home.name, "said"]), "no scratch is left"


def test_a_version_without_a_hand_over_is_told_how_to_get_one(registry: Registered, network: nn.Module) -> None:
    with mlflow.start_run():
        mlflow_pytorch.log_model(
            network, name="m", registered_model_name="bare", serialization_format="pickle", pip_requirements=["torch"]
        )
    with pytest.raises(
        HandOverMissingError, match=r"models:/bare/1 has no hand-over .*: fieldrepair attach models:/bare/1 --reference"
    ):
        load_handover("bare", "1")


def test_a_version_that_is_not_there_is_named(registry: Registered) -> None:
    with pytest.raises(ModelVersionMissingError, match="models:/digits/77"):
        load_handover("digits", "77")
    with pytest.raises(ModelVersionMissingError, match="models:/nobody/1"):
        load_module("nobody", "1")


def test_a_registry_that_does_not_answer_is_an_error_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(RegistryError) as caught:
            load_handover("digits", "1")
    finally:
        mlflow.set_tracking_uri(before)
    assert type(caught.value) is RegistryError


def test_lost_artifacts_are_an_error_that_may_pass(registry: Registered, tmp_path: Path) -> None:
    uri = mlflow.MlflowClient().get_model_version(registry.name, registry.version).tags[HANDOVER_TAG]
    run_id, *inside = uri.removeprefix("runs:/").split("/")
    # Other tests leave hand-overs of their own in this registry.
    [folder] = registry.artifacts.rglob("/".join([run_id, "artifacts", *inside]))
    aside = tmp_path / "aside"
    shutil.move(folder, aside)
    try:
        with pytest.raises(RegistryError, match="artifacts runs:/"):
            load_handover(registry.name, registry.version)
    finally:
        shutil.move(aside, folder)


@pytest.mark.usefixtures("registry")
class TestModelsThatCannotBeRepaired:
    def test_pt2(self, network: nn.Module, digits: Digits) -> None:
        with mlflow.start_run():
            mlflow_pytorch.log_model(
                network,
                name="m",
                registered_model_name="exported",
                serialization_format="pt2",
                input_example=digits.val_x[:2],
                signature=ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 1, 8, 8))])),
                pip_requirements=["torch"],
            )
        with pytest.raises(UnsupportedModelError, match=r'"pt2".*cannot be trained.*serialization_format="pickle"'):
            load_module("exported", "1")

    @pytest.mark.filterwarnings("ignore:Decorate your function:UserWarning")
    def test_another_flavour(self) -> None:
        def constant(model_input: list[str]) -> list[str]:
            return model_input

        with mlflow.start_run():
            mlflow.pyfunc.log_model(
                name="m", python_model=constant, registered_model_name="constant", pip_requirements=["mlflow"]
            )
        with pytest.raises(UnsupportedModelError, match=r"not a PyTorch model \(MLflow flavours: none\)"):
            load_module("constant", "1")

    @pytest.mark.filterwarnings(
        "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning", "ignore:.torch.load.:UserWarning"
    )
    def test_torchscript(self, network: nn.Module, digits: Digits) -> None:
        with mlflow.start_run():
            mlflow_pytorch.log_model(
                torch.jit.trace(network, torch.from_numpy(digits.val_x[:2])),
                name="m",
                registered_model_name="scripted",
                serialization_format="pickle",
                pip_requirements=["torch"],
            )
        with pytest.raises(UnsupportedModelError, match="TorchScript"):
            load_module("scripted", "1")

    def test_classes_that_cannot_be_imported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "gone_net.py").write_text(
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x.flatten(1)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        net = importlib.import_module("gone_net").Net()
        with mlflow.start_run():
            mlflow_pytorch.log_model(
                net, name="m", registered_model_name="gone", serialization_format="pickle", pip_requirements=["torch"]
            )
        monkeypatch.undo()
        monkeypatch.delitem(sys.modules, "gone_net")
        (tmp_path / "gone_net.py").unlink()
        with pytest.raises(UnsupportedModelError, match=r"cannot be loaded here: .*gone_net.*code_paths"):
            load_module("gone", "1")
