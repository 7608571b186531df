"""Problems of data and loss, and the healthy cases beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fieldrepair_plugin.training_repair.data import TrialData, split_for_trials
from fieldrepair_plugin.training_repair.data_checks import check_data, output_kind
from fieldrepair_plugin.training_repair.findings import Problem
from fieldrepair_plugin.training_repair.plan import TrainingPlan
from fieldrepair_service.errors import InputError

CLASSES = 4
LABELS = np.arange(80) % CLASSES


def network(*head: nn.Module, bias: float = 0.0, dropout: float = 0.2) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, CLASSES), *head)


def inputs() -> Tensor:
    return torch.randn(80, 5, generator=torch.Generator().manual_seed(0))


def found(
    y: Any = LABELS, x: Tensor | None = None, module: nn.Module | None = None, loss: str = "cross_entropy"
) -> list[str]:
    plan = TrainingPlan(loss=loss)  # type: ignore[arg-type]
    checked = check_data(module or network(), inputs() if x is None else x, np.asarray(y), CLASSES, plan)
    return [each.problem.value for each in checked]


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert found() == []
    assert found(LABELS % 3) == [], "a class without examples in the sample is no problem"
    assert found(module=network(nn.Softmax(dim=1)), loss="nll") == []
    assert found(module=network(nn.LogSoftmax(dim=1))) == []


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (LABELS + 1, Problem.LABELS_OUT_OF_RANGE),
        (LABELS - 1, Problem.LABELS_OUT_OF_RANGE),
        (LABELS / 3, Problem.LABELS_SCALED),
        (LABELS * 10, Problem.LABELS_SCALED),
        (LABELS // 2, Problem.LABELS_SCALED),
        (np.full(80, 2), Problem.CONSTANT_CLASS),
    ],
)
def test_labels(labels: Any, problem: Problem) -> None:
    assert found(labels) == [problem.value]


@pytest.mark.parametrize("factor", [255.0, 1e-4])
def test_inputs_far_from_one(factor: float) -> None:
    assert found(x=inputs() * factor) == ["inputs_unscaled"]


def test_columns_of_different_units() -> None:
    assert found(x=inputs() * torch.tensor([1.0, 1.0, 1.0, 0.01, 15.0])) == ["inputs_unscaled"]


def test_a_norm_in_front_scales_by_itself_and_tokens_are_no_numbers() -> None:
    assert found(x=inputs() * 255, module=nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4))) == []
    tokens = torch.randint(0, 900, (80, 5))
    assert found(x=tokens, module=nn.Sequential(nn.Embedding(900, 3), nn.Flatten(), nn.Linear(15, CLASSES))) == []


@pytest.mark.parametrize(
    ("head", "loss"), [([nn.Softmax(dim=1)], "cross_entropy"), ([], "nll"), ([], "mse"), ([nn.Softmax(dim=1)], "mse")]
)
def test_a_loss_that_does_not_match_the_head(head: list[nn.Module], loss: str) -> None:
    assert found(module=network(*head), loss=loss) == ["loss_mismatch"]


def test_layers_without_an_activation_and_a_dropout_of_nearly_all() -> None:
    assert found(module=nn.Sequential(nn.Linear(5, 8), nn.Linear(8, CLASSES))) == ["no_activation"]
    assert found(module=nn.Linear(5, CLASSES)) == [], "one layer needs none"
    assert found(module=network(dropout=0.9)) == ["heavy_dropout"]


def test_the_kind_of_output() -> None:
    assert [output_kind(network(*head), inputs()) for head in ([], [nn.Softmax(dim=1)], [nn.LogSoftmax(dim=1)])] == [
        "logits", "probabilities", "log_probabilities",
    ]  # fmt: skip


def test_targets_are_cut_or_ranked() -> None:
    data = TrialData(inputs(), LABELS / 3, inputs(), LABELS, CLASSES)
    assert data.targets("keep").unique().tolist() == [0, 1]
    assert torch.equal(data.targets("ranked"), torch.from_numpy(LABELS))
    with pytest.raises(InputError, match=r"expected class numbers 0\.\.3, got 1\.\.4"):
        TrialData(inputs(), LABELS + 1, inputs(), LABELS, CLASSES).targets("keep")


def test_the_split_keeps_proportions_and_loses_nothing() -> None:
    y = np.array([0] * 50 + [1] * 10 + [2])
    training, choosing = split_for_trials(y, 0.2, seed=3)
    assert sorted([*training, *choosing]) == list(range(61))
    assert np.bincount(y[choosing], minlength=3).tolist() == [10, 2, 0]
    again = split_for_trials(y, 0.2, seed=3)
    assert np.array_equal(again[0], training)
    with pytest.raises(InputError, match="could be set aside"):
        split_for_trials(np.array([0, 1, 2]), 0.2, seed=0)
