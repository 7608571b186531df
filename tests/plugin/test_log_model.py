"""``log_model`` and the checks behind it: what is stored, and every mistake a hand-over is refused for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
import torch
from mlflow import pyfunc
from torch import nn

from fieldrepair_monitoring.errors import HandOverMismatchError, ReferenceSetError, UnsupportedModelError
from fieldrepair_monitoring.handover import load_handover, load_module
from fieldrepair_monitoring.reference import Reference
from fieldrepair_plugin import log_model
from fieldrepair_plugin.handover_check import prepare_handover
from fieldrepair_plugin.handover_store import store_handover
from fieldrepair_service.inputs import ImageInput

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SPEC = ImageInput(height=6, width=6)


def stripes(n: int, seed: int, shown: Labels | None = None) -> tuple[Images, Labels]:
    """(n, 1, 6, 6) images in 0..1 with a bright upper, middle or lower third."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n) if shown is None else shown
    images = generator.uniform(0.0, 0.4, (n, 1, 6, 6))
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 0.5
    return images.astype(np.float32), labels.astype(np.int64)


class Stripes(nn.Module):
    """Right by construction: the mean of each third; ``head`` is defined before layers that run earlier."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3, bias=False)
        self.body = nn.Linear(36, 3, bias=False)
        self.drop = nn.Dropout(0.5)
        with torch.no_grad():
            self.body.weight.copy_(torch.repeat_interleave(torch.eye(3), 12, dim=1) / 12)
            self.head.weight.copy_(torch.eye(3) * 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.body(x.flatten(1))))


@pytest.fixture
def reference() -> Reference:
    return Reference(*stripes(120, 1), *stripes(150, 2))


@pytest.fixture
def network() -> Stripes:
    return Stripes()


class TestWhatIsStored:
    @pytest.fixture(autouse=True)
    def _registry(self, registry: object) -> None:
        """These tests register models."""

    def test_a_version_with_everything_monitor_and_repair_need(self, network: Stripes, reference: Reference) -> None:
        network.train()
        info = log_model(
            network,
            reference=reference,
            class_names=["upper", "middle", "lower"],
            registered_model_name="stripes",
            pip_requirements=["torch"],
        )
        assert (info.model_uri, info.name, info.version) == (f"models:/stripes/{info.version}", "stripes", info.version)
        handover = load_handover("stripes", str(info.version))
        assert handover.describe() == info.handover.describe()
        assert handover.class_names == ("upper", "middle", "lower")
        assert handover.embedding_layer == "head", "the nn.Linear that runs last, not the one defined last"
        assert handover.output == "logits"
        assert handover.accuracy_by_world == {0: 1.0}
        np.testing.assert_array_equal(handover.reference.train_x, reference.train_x)
        entry = mlflow.MlflowClient().get_model_version("stripes", str(info.version))
        assert entry.run_id == info.run_id
        module = load_module("stripes", str(info.version))
        module.train()  # a pickled module can go on training

    def test_the_served_model_takes_what_the_hand_over_says(self, network: Stripes, reference: Reference) -> None:
        info = log_model(network, reference=reference, registered_model_name="served", pip_requirements=["torch"])
        served = pyfunc.load_model(info.model_uri)
        scores = cast(Images, served.predict(reference.val_x))
        assert (scores.argmax(1) == reference.val_y).all()
        with pytest.raises(mlflow.MlflowException, match="shape"):
            served.predict(reference.val_x.reshape(-1, 36))

    def test_the_active_run_is_used_and_left_open(self, network: Stripes, reference: Reference) -> None:
        with mlflow.start_run() as run:
            info = log_model(network, reference=reference, pip_requirements=["torch"])
            assert mlflow.active_run() is not None
            assert info.run_id == run.info.run_id
        assert (info.name, info.version) == (None, None)

    def test_a_version_registered_later_finds_the_hand_over(self, network: Stripes, reference: Reference) -> None:
        info = log_model(network, reference=reference, pip_requirements=["torch"])
        assert mlflow.active_run() is None, "its own run is closed"
        version = mlflow.register_model(info.model_uri, "registered-later").version
        assert load_handover("registered-later", str(version)).embedding_layer == "head"

    def test_the_same_hand_over_is_stored_once(self, network: Stripes, reference: Reference) -> None:
        handover = prepare_handover(network, reference).handover
        with mlflow.start_run() as run:
            first = store_handover(run.info.run_id, handover)
            assert store_handover(run.info.run_id, handover) == first
            other = replace(handover, class_names=("a", "b", "c"))
            assert store_handover(run.info.run_id, other) != first
        folders = mlflow.MlflowClient().list_artifacts(run.info.run_id, "fieldrepair")
        assert len(folders) == 2

    def test_a_reference_file_is_read(self, network: Stripes, reference: Reference, tmp_path: Path) -> None:
        reference.save_npz(tmp_path / "reference.npz")
        info = log_model(network, reference=tmp_path / "reference.npz", pip_requirements=["torch"])
        assert info.handover.reference.shape == (1, 6, 6)

    def test_nothing_is_logged_if_anything_is_wrong(self, network: Stripes, reference: Reference) -> None:
        with mlflow.start_run() as run, pytest.raises(HandOverMismatchError):
            log_model(network, reference=reference, class_names=["a"], registered_model_name="never")
        client = mlflow.MlflowClient()
        assert client.list_artifacts(run.info.run_id) == []
        assert [model for model in client.search_registered_models() if model.name == "never"] == []

    def test_the_format_is_not_the_caller_s_to_choose(self, network: Stripes, reference: Reference) -> None:
        with pytest.raises(TypeError, match="log_model sets serialization_format itself"):
            log_model(network, reference=reference, serialization_format="pt2")


class TestChecks:
    def test_the_module_comes_back_in_the_mode_it_came_in(self, network: Stripes, reference: Reference) -> None:
        network.train()
        network.drop.eval()
        prepare_handover(network, reference)
        assert (network.training, network.head.training, network.drop.training) == (True, True, False)
        assert not network.head._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]

    def test_what_was_guessed_is_said(self, network: Stripes, reference: Reference) -> None:
        checked = prepare_handover(network, reference)
        assert checked.handover.input == SPEC
        assert any("CHW of 6 x 6 pixels" in note for note in checked.notes)
        assert checked.handover.embedding_layer == "head"
        assert prepare_handover(network, reference, input=SPEC, embedding_layer="head").notes == ()

    def test_accuracy_is_measured_per_world(self, network: Stripes, reference: Reference) -> None:
        half = replace(reference, val_world=np.repeat([0, 1], [100, 50]), val_y=reference.val_y.copy())
        half.val_y[100:125] = (half.val_y[100:125] + 1) % 3
        assert prepare_handover(network, half).handover.accuracy_by_world == {0: 1.0, 1: 0.5}

    def test_probabilities_are_told_from_logits(self, network: Stripes, reference: Reference) -> None:
        assert prepare_handover(nn.Sequential(network, nn.Softmax(1)), reference).handover.output == "probabilities"
        assert prepare_handover(nn.Sequential(network, nn.LogSoftmax(1)), reference).handover.output == "logits"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"class_names": ["a", "b"]}, "the model has 3 outputs, but 2 class names were given"),
            ({"class_names": ["a", "b", "a"]}, "class names must be distinct and not empty"),
            ({"embedding_layer": "tail"}, "no layer 'tail'; pass embedding_layer as one of: head, body, drop"),
            (
                {"input": ImageInput(height=36, width=1, flat=True)},
                r"shape \(36,\), but .* shape \(1, 6, 6\)",
            ),
        ],
    )
    def test_options_that_contradict_the_model(
        self, options: dict[str, Any], message: str, network: Stripes, reference: Reference
    ) -> None:
        with pytest.raises(HandOverMismatchError, match=message):
            prepare_handover(network, reference, **options)

    def test_a_reference_in_another_form_than_served(self, reference: Reference) -> None:
        with pytest.raises(HandOverMismatchError, match=r"fails on .* shape \(1, 6, 6\) as float32.*as a client sends"):
            prepare_handover(nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), reference)
        with pytest.raises(HandOverMismatchError, match=r"fails on .* exactly as a client sends"):
            prepare_handover(nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), reference, embedding_layer="1")

    def test_labels_beyond_the_outputs(self, network: Stripes, reference: Reference) -> None:
        with pytest.raises(HandOverMismatchError, match=r"labels go from 0 to 2, but the reference set holds label 3"):
            prepare_handover(network, replace(reference, val_y=reference.val_y + 1))

    def test_too_few_inputs(self, network: Stripes, reference: Reference) -> None:
        few = Reference(reference.train_x, reference.train_y, reference.val_x[:49], reference.val_y[:49])
        with pytest.raises(HandOverMismatchError, match="at least 50 validation inputs of the original world, got 49"):
            prepare_handover(network, few)
        later = replace(reference, val_world=np.repeat([0, 1], [30, 120]))
        with pytest.raises(HandOverMismatchError, match="at least 50 validation inputs of the original world, got 30"):
            prepare_handover(network, later)
        with pytest.raises(HandOverMismatchError, match="at least 50 training inputs, got 10"):
            prepare_handover(network, Reference(*stripes(10, 1), *stripes(150, 2)))

    def test_a_reference_that_is_scaled_otherwise_than_in_training(
        self, network: Stripes, reference: Reference
    ) -> None:
        """Inverted images: the model is wrong throughout, as it would be with any wrong scale."""
        inverted = replace(reference, val_x=1 - reference.val_x.astype(np.float32))
        with pytest.raises(
            HandOverMismatchError, match=r"which is chance level for 3 classes \(33.3%\).*0..255 instead of"
        ):
            prepare_handover(network, inverted)
        notes = prepare_handover(network, inverted, allow_poor_accuracy=True).notes
        assert any("chance level" in note for note in notes)

    def test_a_model_worse_than_the_commonest_class_is_remarked_on(
        self, network: Stripes, reference: Reference
    ) -> None:
        """80 of 100 labels are class 0, but 40 of those images show class 1: right on 60 %."""
        shown, labels = np.repeat([0, 1, 1, 2], [40, 40, 10, 10]), np.repeat([0, 1, 2], [80, 10, 10])
        images, _ = stripes(100, 3, shown)
        mixed = Reference(reference.train_x, reference.train_y, images, labels)
        notes = prepare_handover(network, mixed).notes
        assert any("right on 60.0% of the validation inputs; always answering the commonest class" in n for n in notes)
        assert any("would be right on 80.0%" in note for note in notes)

    def test_a_model_without_a_linear_layer(self, reference: Reference) -> None:
        pool = nn.Sequential(nn.AdaptiveAvgPool2d((3, 1)), nn.Flatten())
        with pytest.raises(HandOverMismatchError, match=r"no linear or conv.*; pass embedding_layer .* one of: 0, 1"):
            prepare_handover(pool, reference)

    @pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
    def test_torchscript(self, network: Stripes, reference: Reference) -> None:
        traced = cast(nn.Module, torch.jit.trace(network.eval(), torch.zeros(2, 1, 6, 6)))
        with pytest.raises(UnsupportedModelError, match="TorchScript"):
            prepare_handover(traced, reference)

    def test_outputs_that_are_not_finite(self, reference: Reference) -> None:
        network = Stripes()
        with torch.no_grad():
            network.head.weight[0, 0] = float("nan")
        with pytest.raises(HandOverMismatchError, match="returns NaN or infinity on the reference set"):
            prepare_handover(network, reference)

    def test_a_reference_that_cannot_be_read(self, network: Stripes, tmp_path: Path) -> None:
        with pytest.raises(ReferenceSetError, match="does not exist"):
            log_model(network, reference=tmp_path / "absent.npz")


class TestGuessedInput:
    @pytest.mark.parametrize(
        ("shape", "layout", "channels"),
        [((1, 6, 6), "CHW", 1), ((3, 4, 5), "CHW", 3), ((4, 5, 3), "HWC", 3), ((4, 5, 1), "HWC", 1), ((4, 5), "HW", 1)],
    )
    def test_shapes_with_one_reading(self, shape: tuple[int, ...], layout: str, channels: int) -> None:
        from fieldrepair_plugin.guess_input import guess_input

        x = np.random.default_rng(0).random((60, *shape))
        guessed = guess_input(Reference(x, np.zeros(60, np.int64), x, np.zeros(60, np.int64)))
        assert isinstance(guessed, ImageInput)
        assert (guessed.layout, guessed.channels, guessed.shape, guessed.dtype) == (layout, channels, shape, "float32")

    @pytest.mark.parametrize("shape", [(36,), (3, 4, 3), (1, 1, 1), (2, 4, 5), (1, 2, 3, 4)])
    def test_shapes_with_several_readings_or_none(self, shape: tuple[int, ...]) -> None:
        from fieldrepair_plugin.guess_input import guess_input

        x = np.zeros((60, *shape))
        with pytest.raises(HandOverMismatchError, match=r"cannot be guessed .*--input.height 28"):
            guess_input(Reference(x, np.zeros(60, np.int64), x, np.zeros(60, np.int64)))

    def test_scales(self) -> None:
        from fieldrepair_plugin.guess_input import guess_input

        def guess(x: npt.NDArray[np.generic]) -> ImageInput:
            guessed = guess_input(Reference(x, np.zeros(60, np.int64), x, np.zeros(60, np.int64)))
            assert isinstance(guessed, ImageInput)
            return guessed

        x = np.random.default_rng(0).random((60, 1, 6, 6))
        assert guess(x).std == (1.0,)
        assert guess(x * 255).std == pytest.approx((1 / 255,))
        assert guess((x * 255).astype(np.uint8)).dtype == "uint8"
        for odd in (x - 0.5, x * 3, x * 1000):
            with pytest.raises(HandOverMismatchError, match=r"values go from .* cannot be guessed; .*--input.mean"):
                guess(odd)


def test_importing_the_package_loads_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys, fieldrepair_plugin as p; assert 'log_model' in dir(p);"
        "heavy = {'torch', 'mlflow', 'alibi_detect'} & set(sys.modules); assert not heavy, heavy;"
        "from fieldrepair_plugin import attach, log_model; assert callable(attach) and callable(log_model);"
        "import fieldrepair_plugin.attachment; assert p.attach is attach"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=150)


def test_what_only_starts_and_watches_others_loads_no_torch_and_a_waiting_worker_no_torchvision() -> None:
    code = (
        "import sys, fieldrepair_plugin.supervisor; assert 'torch' not in sys.modules;"
        "import fieldrepair_plugin.worker; assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=150)
