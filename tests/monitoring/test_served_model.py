from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from fieldrepair_monitoring.errors import HandOverMismatchError, ModelRunError
from fieldrepair_monitoring.served_model import ServedModel
from fieldrepair_service.inputs import ImageInput

SPEC = ImageInput(height=4, width=4)


@dataclass(frozen=True)
class Description:
    embedding_layer: str = "head"
    output: Literal["logits", "probabilities"] = "logits"
    input: ImageInput = SPEC


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.head = nn.Linear(12, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))


class Returning(nn.Module):
    """Calls its head, then returns what it is told to."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)
        self.result = result

    def forward(self, x: torch.Tensor) -> Any:
        self.head(x.flatten(1))
        return self.result(x)


def one_hot(x: torch.Tensor) -> torch.Tensor:
    return torch.eye(2)[torch.zeros(len(x), dtype=torch.long)]


def twice(x: torch.Tensor) -> object:
    return x, x


def named(x: torch.Tensor) -> object:
    return {"scores": x}


def unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def one_short(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:-1]


def one_class(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:, :1]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def images(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).random((n, 1, 4, 4), dtype=np.float32)


def test_scores_logits_and_embeddings_are_the_module_s_own_in_any_batching(network: Network) -> None:
    x = images(11)
    model = ServedModel(network, Description(), batch_size=4)
    network.train()  # as training code may leave it
    with torch.inference_mode():
        network.eval()
        body = network.body(torch.from_numpy(x)).flatten(1)
        logits = network.head(body)
        scores = logits.softmax(1)
    network.train()
    np.testing.assert_allclose(model.embeddings(x), body.numpy(), atol=1e-6)
    np.testing.assert_allclose(model.logits(x), logits.numpy(), atol=1e-6)
    np.testing.assert_allclose(model.scores(x), scores.numpy(), atol=1e-6)
    features = model.features(x)
    assert {features.outputs.dtype, features.scores.dtype, features.embeddings.dtype} == {np.dtype(np.float32)}


def test_inputs_of_another_dtype_are_cast_to_the_model_s(network: Network) -> None:
    x = (images(3) * 255).astype(np.uint8)
    model = ServedModel(network, Description())
    np.testing.assert_array_equal(model.outputs(x), model.outputs(x.astype(np.float64)))


def test_probabilities_are_passed_through_and_their_logits_are_logarithms() -> None:
    model = ServedModel(nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(1)), Description("1", "probabilities"))
    scores = model.scores(images(4))
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(model.logits(images(4))), scores, rtol=1e-5)


def test_certain_probabilities_have_finite_logits() -> None:
    model = ServedModel(Returning(one_hot), Description("head", "probabilities"))
    assert np.isfinite(model.logits(images(2))).all()


def test_no_hook_is_left_behind(network: Network) -> None:
    ServedModel(network, Description()).features(images(2))
    with pytest.raises(HandOverMismatchError):
        ServedModel(network, Description("unused")).features(images(2))
    assert not network.head._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
    assert not network.unused._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]


def test_a_layer_that_is_not_there_or_not_called_is_named(network: Network) -> None:
    with pytest.raises(
        HandOverMismatchError, match=r"no layer 'tail'; .* one of: body.0, body.1, body.2, head, unused"
    ):
        ServedModel(network, Description("tail"))
    with pytest.raises(HandOverMismatchError, match="layer 'unused' is not called with a tensor"):
        ServedModel(network, Description("unused")).features(images(2))


def test_a_layer_that_sees_something_else_than_instances_is_named() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.reshape(-1, 4)).reshape(len(x), -1)

    with pytest.raises(HandOverMismatchError, match=r"input of layer 'head' has shape \(12, 4\) for 3 instances"):
        ServedModel(Tokens(), Description()).features(images(3))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (twice, r"returns a tuple, expected one tensor of shape \(n, classes\)"),
        (named, "returns a dict"),
        (unchanged, r"returns shape \(3, 1, 4, 4\) for 3 instances, expected \(3, classes\)"),
        (one_short, r"returns shape \(2, 16\) for 3 instances"),
        (one_class, r"returns shape \(3, 1\) for 3 instances, .* at least 2 classes"),
    ],
)
def test_outputs_that_are_no_class_scores_are_named(result: Any, message: str) -> None:
    with pytest.raises(HandOverMismatchError, match=message):
        ServedModel(Returning(result), Description()).features(images(3))


def test_instances_of_another_shape_are_named(network: Network) -> None:
    with pytest.raises(HandOverMismatchError, match=r"instance of shape \(1, 4, 4\), got shape \(2, 16\)"):
        ServedModel(network, Description()).features(np.zeros((2, 16), np.float32))
    with pytest.raises(HandOverMismatchError, match=r"at least one instance"):
        ServedModel(network, Description()).features(images(0))


def test_a_module_that_fails_is_quoted() -> None:
    model = ServedModel(nn.Sequential(nn.Linear(7, 2)), Description("0"))
    with pytest.raises(
        ModelRunError, match=r"fails on 2 instances of shape \(1, 4, 4\) as float32: RuntimeError: .*mat1"
    ):
        model.features(images(2))
