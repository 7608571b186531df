"""Networks whose head is no linear layer, HuggingFace's, and versions logged as pt2: all are watched and repaired."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
import torch
from mlflow import MlflowClient, pyfunc
from mlflow import pytorch as mlflow_pytorch
from mlflow.artifacts import download_artifacts
from mlflow.models import ModelSignature, get_model_info
from mlflow.types import Schema, TensorSpec
from torch import nn
from torch.nn import functional as F

from fieldrepair_monitoring.class_scores import embedding_of, scores_tensor
from fieldrepair_monitoring.errors import HandOverMismatchError, UnsupportedModelError
from fieldrepair_monitoring.handover import HandOver, load_handover, load_module
from fieldrepair_monitoring.model_cache import cached_model, cached_module
from fieldrepair_monitoring.reference import Reference
from fieldrepair_monitoring.registry import module_uri
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_plugin import attach, log_model
from fieldrepair_plugin.acceptance import Predictions, judge
from fieldrepair_plugin.handover_check import prepare_handover
from fieldrepair_plugin.recipe import HybridSettings
from fieldrepair_plugin.registration import Candidate, Labelled, register_candidate
from fieldrepair_plugin.repairable import RepairableModel, TrainingSet
from fieldrepair_plugin.strategies import repair
from fieldrepair_service.case_book import NewDriftEvent, WindowRecord, open_case_book
from fieldrepair_service.inputs import ImageInput
from tests.plugin.conftest import CLASSES, quadrants, stray_light

pytestmark = pytest.mark.usefixtures("registry")

SPEC = ImageInput(height=8, width=8)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(*quadrants(200, seed=1), *quadrants(300, seed=2))


class Convolutional(nn.Module):
    """Ends in a 1 x 1 convolution, whose answer is averaged over the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 4, stride=4), nn.ReLU(), nn.Flatten(2), nn.Unflatten(2, (2, 2)))
        self.mix = nn.Sequential(nn.Conv2d(8, 12, 2), nn.ReLU())
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.body(images))).flatten(1)


def vision_transformer() -> nn.Module:
    """A small ViT for image classification, made from a configuration: nothing is downloaded."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=4,
    )  # fmt: skip
    return ViTForImageClassification(config)


def trained(network: nn.Module, reference: Reference) -> nn.Module:
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    images, labels = torch.from_numpy(reference.train_x), torch.from_numpy(reference.train_y)
    for _ in range(60):
        optimiser.zero_grad()
        answer = scores_tensor(network(images))
        assert answer is not None
        F.cross_entropy(answer, labels).backward()
        optimiser.step()
    return network.eval()


def repaired(module: nn.Module, handover: HandOver) -> tuple[float, float]:
    """Accuracy on shifted images before and after a short repair."""
    pool, truth = quadrants(160, seed=5)
    held_x, held_y = quadrants(200, seed=6)
    model = RepairableModel(module, handover.input, handover.embedding_layer, handover.output)

    def accuracy(one: nn.Module) -> float:
        return float((ServedModel(one, handover).scores(stray_light(held_x)).argmax(axis=1) == held_y).mean())

    before = accuracy(module)
    result = repair(
        model,
        TrainingSet(handover.reference.train_x, handover.reference.train_y),
        stray_light(pool),
        lambda indices: truth[indices],
        40,
        HybridSettings(epochs=6, seed=0, keep_reference="off"),
    )
    return before, accuracy(result.module)


def test_a_convolutional_head(reference: Reference) -> None:
    network = trained(Convolutional(), reference)
    handover = prepare_handover(network, reference, class_names=CLASSES).handover
    assert handover.embedding_layer == "head"
    assert handover.reference_accuracy > 0.9
    served = ServedModel(network, handover).embeddings(reference.val_x)
    assert served.shape == (300, 12)
    model = RepairableModel(network, SPEC, "head")
    _, ours = model.logits_and_embeddings(model.pixels(reference.val_x, "images"), 64)
    np.testing.assert_allclose(ours, served, atol=1e-4)
    before, after = repaired(network, handover)
    assert after > before


def test_embeddings_say_nothing_of_places() -> None:
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(embedding_of(maps, nn.Conv2d(3, 1, 1)), maps.mean(dim=(2, 3)))
    tokens = torch.arange(24.0).reshape(2, 4, 3)
    assert torch.equal(embedding_of(tokens, nn.Linear(3, 2)), tokens.mean(dim=1))
    assert embedding_of(maps, nn.Flatten()).shape == (2, 12)
    assert torch.equal(embedding_of(maps.flatten(1), nn.Linear(12, 2)), maps.flatten(1))


def test_a_huggingface_image_classifier(reference: Reference, caplog: pytest.LogCaptureFixture) -> None:
    network = trained(vision_transformer(), reference)
    with caplog.at_level(logging.WARNING):
        info = log_model(
            network,
            reference=reference,
            class_names=CLASSES,
            registered_model_name="vit",
            pip_requirements=["torch", "transformers"],
        )
    assert info.handover.embedding_layer == "model.classifier"
    served = np.asarray(cast(Any, pyfunc.load_model(info.model_uri)).predict(reference.val_x[:4]))
    answer = scores_tensor(network(torch.from_numpy(reference.val_x[:4])))
    assert answer is not None
    np.testing.assert_allclose(served, cast(Any, answer.detach().numpy()), atol=1e-4)
    before, after = repaired(load_module("vit", "1"), info.handover)
    assert after > before


def test_a_huggingface_classifier_logged_without_our_helper(reference: Reference) -> None:
    network = trained(vision_transformer(), reference)
    with mlflow.start_run():
        logged: Any = mlflow_pytorch.log_model(
            network, name="m", registered_model_name="bare-vit", serialization_format="pickle",
            pip_requirements=["torch", "transformers"],
        )  # fmt: skip
    attached = attach(f"models:/bare-vit/{logged.registered_model_version}", reference, class_names=CLASSES)
    assert attached.handover.embedding_layer == "classifier"
    assert any("MLflow's scoring server refuses it" in note for note in attached.notes)
    assert attached.handover.reference_accuracy > 0.6


# -- pt2 ---------------------------------------------------------------------------------------------------------

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 4))

    def forward(self, images):
        return self.layers(images)


def make():
    return Net(16)


def make_other():
    return Net(17)


def make_nothing():
    return "a network"
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that defines a network, not importable by itself."""
    path = tmp_path / "quadrant_net.py"
    path.write_text(NET)
    monkeypatch.delitem(__import__("sys").modules, "quadrant_net", raising=False)
    return path


def log_pt2(name: str, code: Path, reference: Reference) -> tuple[str, nn.Module]:
    namespace: dict[str, Any] = {"__name__": "elsewhere"}
    exec(compile(code.read_text(), str(code), "exec"), namespace)  # noqa: S102 - a network whose code is not at hand
    network = trained(namespace["make"](), reference)
    with mlflow.start_run():
        info: Any = mlflow_pytorch.log_model(
            network,
            name="m",
            registered_model_name=name,
            input_example=reference.val_x[:8],
            signature=ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, 1, 8, 8))])),
            serialization_format="pt2",
            pip_requirements=["torch"],
        )
    return str(info.registered_model_version), network


def test_a_pt2_version_becomes_trainable_by_its_factory(code: Path, reference: Reference, tmp_path: Path) -> None:
    version, network = log_pt2("exported", code, reference)
    uri = f"models:/exported/{version}"
    with pytest.raises(UnsupportedModelError, match=r"pt2.*attach models:/exported/1 --factory MODULE:FUNCTION"):
        attach(uri, reference)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    for state_dict in (None, tmp_path / "weights.pt"):  # the version's own, or a file
        attached = attach(uri, reference, factory="quadrant_net:make", state_dict=state_dict, code_paths=[code])
        assert not any("could not be compared" in note for note in attached.notes)
    module = load_module("exported", version)
    assert module.train().training
    handover = load_handover("exported", version)
    np.testing.assert_allclose(
        ServedModel(module, handover).outputs(reference.val_x[:8]),
        np.asarray(cast(Any, pyfunc.load_model(uri)).predict(reference.val_x[:8])),
        atol=1e-5,
    )
    before, after = repaired(module, handover)
    assert after > before

    # The monitor keeps the trainable module in its cache, the model server the graph.
    served, trainable = (find("exported", version, tmp_path / "models") for find in (cached_model, cached_module))
    assert (served / "data" / "model.pt2").exists()
    assert load_module("exported", version, trainable).train().training
    assert cached_module("quadrants", "1", tmp_path / "models") == cached_model("quadrants", "1", tmp_path / "models")

    # The repaired version is a pickled one with the network's code, and is served under the parent's signature.
    with open_case_book(f"sqlite:///{tmp_path}/book.db") as book:
        event = NewDriftEvent(
            "exported", version, "mmd", 0.5, 0.01, 0.1, 0, {}, 100, None, None, "differs", CLASSES,
            SPEC.model_dump(mode="json"),
        )  # fmt: skip
        window = WindowRecord(0, 1, 2, 100, "mmd", 0.5, 0.1, 0.01, drifted=True)
        opened = book.record_windows("exported", version, {"w": (1, 0)}, [window], event)
        assert opened is not None
        labels: npt.NDArray[np.int64] = np.arange(40, dtype=np.int64) % 4
        right = Predictions(labels, labels, labels)
        with mlflow.start_run():
            made = register_candidate(
                Candidate(
                    module=module, parent=handover, case=book.case(opened.case_id), event=opened,
                    repair=Labelled(reference.val_x[:5], labels[:5]), acceptance=Labelled(reference.val_x[:40], labels),
                    pool=reference.val_x[:30], verdict=judge(right, right, CLASSES), budget=5, seed=0,
                    description="repaired",
                )
            )  # fmt: skip
    assert module_uri("exported", made) == f"models:/exported/{made}"
    folder = Path(download_artifacts(artifact_uri=f"models:/exported/{made}"))
    assert (folder / "code" / "quadrant_net.py").exists()
    assert get_model_info(f"models:/exported/{made}").signature.inputs.is_tensor_spec()
    assert MlflowClient().get_model_version("exported", made).tags.get("fieldrepair.module") is None


def test_a_factory_that_does_not_fit_is_refused(code: Path, reference: Reference, tmp_path: Path) -> None:
    version, _ = log_pt2("misfit", code, reference)
    uri = f"models:/misfit/{version}"

    def refused(message: str, factory: Any, error: type[Exception] = UnsupportedModelError, **options: Any) -> None:
        with pytest.raises(error, match=message):
            attach(uri, reference, factory=factory, code_paths=[code], **options)

    refused("takes other weights: .*size mismatch", "quadrant_net:make_other")
    refused("makes a str, expected a torch.nn.Module", "quadrant_net:make_nothing")
    refused("as MODULE:FUNCTION, got 'make'", "make")
    refused("cannot be imported", "quadrant_net:absent")
    refused("fails: ZeroDivisionError", lambda: 1 / 0)
    refused("name the factory", None, state_dict=tmp_path / "weights.pt")
    refused(r"cannot read .*weights.pt as what torch.save", "quadrant_net:make", state_dict=tmp_path / "weights.pt")
    with pytest.raises(UnsupportedModelError, match=r"code_paths names .*absent.py, which does not exist"):
        attach(uri, reference, factory="quadrant_net:make", code_paths=[tmp_path / "absent.py"])
    with pytest.raises(UnsupportedModelError, match="was not logged as pt2: a factory is for those only"):
        attach("models:/quadrants/1", reference, factory="quadrant_net:make", code_paths=[code])
    other = tmp_path / "other.pt"
    namespace: dict[str, Any] = {"__name__": "elsewhere"}
    exec(compile(code.read_text(), str(code), "exec"), namespace)  # noqa: S102
    torch.save(namespace["make"]().state_dict(), other)
    refused("differs from models:/misfit/1 by up to", "quadrant_net:make", HandOverMismatchError, state_dict=other)
