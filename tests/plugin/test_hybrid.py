"""The whole repair: on real digits under a shift, and on pools no one would wish for."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from fieldrepair_plugin.hybrid import (
    BudgetedOracle,
    HybridSettings,
    ProgressEvent,
    RepairableModel,
    TrainingSet,
    repair,
    select_exemplars,
    train,
)
from fieldrepair_service.errors import InputError
from fieldrepair_service.inputs import ImageInput

Array = npt.NDArray[Any]

SPEC = ImageInput(height=8, width=8)
QUICK = HybridSettings(epochs=1, copies=2, unlabelled_batch_size=16)


@dataclass(frozen=True)
class Case:
    """A network that reads digits, and digits turned by 35 degrees under a weaker lamp, which it does not read well."""

    model: RepairableModel
    reference: TrainingSet
    pool: Array
    pool_labels: Array
    holdout: Array
    holdout_labels: Array


@pytest.fixture(scope="module")
def case() -> Case:
    flat, labels = load_digits(return_X_y=True)
    images = (flat.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    turned = rotate(images[700:], 35, axes=(2, 3), reshape=False, order=1) * 0.6 + 0.2
    field = turned.clip(0, 1).astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = digit_network(images[:700], labels[:700])
    return Case(
        RepairableModel(network, SPEC, "head"),
        TrainingSet(images[:700], labels[:700]),
        field[:600],
        labels[700:1300],
        field[600:],
        labels[1300:],
    )


def digit_network(images: Array, labels: Array) -> nn.Module:
    network = nn.Sequential()
    for name, part in {
        "conv1": nn.Conv2d(1, 16, 3, padding=1),
        "norm1": nn.BatchNorm2d(16),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(16, 32, 3, padding=1, stride=2),
        "relu2": nn.ReLU(),
        "flatten": nn.Flatten(),
        "head": nn.Linear(512, 10),
    }.items():
        network.add_module(name, part)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(25):
        for batch in torch.split(torch.randperm(len(x)), 64):
            optimizer.zero_grad()
            F.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    return network.eval()


def accuracy(module: nn.Module, images: Array, labels: Array) -> float:
    with torch.no_grad():
        answers = module(torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((answers == labels).mean())


def test_thirty_labels_repair_a_digit_reader(case: Case) -> None:
    oracle = BudgetedOracle(case.pool_labels, budget=30)
    events: list[ProgressEvent] = []
    settings = HybridSettings(epochs=3, seed=2)
    result = repair(case.model, case.reference, case.pool, oracle, 30, settings, events.append)
    before = accuracy(case.model.module, case.holdout, case.holdout_labels)
    after = accuracy(result.module, case.holdout, case.holdout_labels)
    assert before < 0.5
    assert after > before + 0.15
    assert accuracy(result.module, case.reference.x, case.reference.y) > 0.9
    assert oracle.asked == result.labels_used == 30
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == [
        "unsmoothness", "threshold", "regions", "exemplars", "replay", "supervised", "consistency", "training"
    ]  # fmt: skip
    assert all(0 < event.done <= event.total for event in events)


def test_two_calls_with_a_saved_selection_equal_one(case: Case) -> None:
    pool, oracle = case.pool[:120], BudgetedOracle(case.pool_labels, budget=8)
    at_once = repair(case.model, case.reference, pool, oracle, 8, QUICK)
    selection = select_exemplars(case.model, case.reference, pool, 8, QUICK)
    labels = {int(index): int(case.pool_labels[index]) for index in selection.exemplars}
    in_two = train(case.model, case.reference, pool, selection, labels, QUICK)
    assert at_once.epochs == in_two.epochs
    for name, value in at_once.module.state_dict().items():
        assert torch.equal(value, in_two.module.state_dict()[name])


def test_selecting_is_deterministic_and_leaves_the_model_and_the_generators_alone(case: Case) -> None:
    weights = {name: value.clone() for name, value in case.model.module.state_dict().items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = select_exemplars(case.model, case.reference, case.pool[:200], 12, QUICK)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = select_exemplars(case.model, case.reference, case.pool[:200], 12, QUICK)
    assert np.array_equal(first.exemplars, second.exemplars)
    assert np.array_equal(first.unsmoothness, second.unsmoothness)
    assert first.tau == second.tau
    assert all(torch.equal(value, weights[name]) for name, value in case.model.module.state_dict().items())
    assert not case.model.module.training


def test_the_oracle_is_asked_once_and_for_the_exemplars_only(case: Case) -> None:
    asked: list[Array] = []

    def oracle(indices: Array) -> Array:
        asked.append(indices)
        return case.pool_labels[indices]

    repair(case.model, case.reference, case.pool[:120], oracle, 6, QUICK)
    selection = select_exemplars(case.model, case.reference, case.pool[:120], 6, QUICK)
    assert len(asked) == 1
    assert np.array_equal(asked[0], selection.exemplars)


def test_an_oracle_that_answers_too_little_is_refused(case: Case) -> None:
    with pytest.raises(InputError, match="asked the oracle for 4 labels"):
        repair(case.model, case.reference, case.pool[:40], lambda indices: indices[:2] * 0, 4, QUICK)


@pytest.mark.parametrize("budget", [0, -1, 601])
def test_a_budget_outside_the_pool_is_refused(case: Case, budget: int) -> None:
    with pytest.raises(InputError, match=rf"budget of 1\.\.600 labels .* got {budget}"):
        select_exemplars(case.model, case.reference, case.pool, budget, QUICK)


@pytest.mark.parametrize(("size", "budget"), [(1, 1), (3, 2), (3, 3), (12, 12), (40, 25)])
def test_tiny_pools_are_repaired_all_the_same(case: Case, size: int, budget: int) -> None:
    oracle = BudgetedOracle(case.pool_labels, budget)
    result = repair(case.model, case.reference, case.pool[:size], oracle, budget, QUICK)
    assert result.labels_used == budget


def test_equal_inputs_and_few_training_inputs(case: Case) -> None:
    pool = np.repeat(case.pool[:1], 30, axis=0)
    few = TrainingSet(case.reference.x[:9], case.reference.y[:9])
    selection = select_exemplars(case.model, few, pool, 5, QUICK)
    assert len(set(selection.exemplars.tolist())) == 5
    labels = {int(index): int(case.pool_labels[0]) for index in selection.exemplars}
    assert train(case.model, few, pool, selection, labels, QUICK).labels_used == 5


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (
            np.full((3, 1, 8, 8), np.nan, np.float32),
            "field pool: expected finite numbers, got NaN .* input 0",
        ),
        (np.zeros((3, 1, 9, 8), np.float32), r"expected instances of shape \(1, 8, 8\)"),
        (np.zeros((0, 1, 8, 8), np.float32), r"expected a budget of 1\.\.0"),
        (np.full((3, 1, 8, 8), "a"), "field pool: expected numbers"),
    ],
)
def test_unusable_pools_are_refused(case: Case, pool: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_exemplars(case.model, case.reference, pool, 1, QUICK)


def test_a_single_bad_input_is_named(case: Case) -> None:
    pool = case.pool.copy()
    pool[17, 0, 2, 2] = np.inf
    with pytest.raises(InputError, match="in input 17"):
        select_exemplars(case.model, case.reference, pool, 5, QUICK)


def test_models_without_class_scores_are_refused(case: Case) -> None:
    one_output = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(InputError, match="at least 2 classes"):
        select_exemplars(RepairableModel(one_output, SPEC, "1"), case.reference, case.pool, 5, QUICK)


def test_models_that_answer_nan_are_refused(case: Case) -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(broken.get_parameter("1.weight"), float("nan"))
    with pytest.raises(InputError, match="finite answers of the model"):
        select_exemplars(RepairableModel(broken, SPEC, "1"), case.reference, case.pool, 5, QUICK)


def test_the_defaults_are_the_papers_numbers() -> None:
    paper = HybridSettings()
    assert (paper.copies, paper.severity, paper.neighbours, paper.average_inputs) == (8, 3, 100, 1000)
    assert (paper.min_samples, paper.region_size, paper.epochs) == (3, 10, 10)
    assert (paper.learning_rate, paper.momentum, paper.weight_decay) == (1e-3, 0.9, 5e-4)
    assert (paper.label_smoothing, paper.temperature, paper.mixup_alpha, paper.unlabelled_weight) == (
        0.1, 0.5, 0.75, 100.0
    )  # fmt: skip
    assert not paper.mixed_targets  # as in the published code
    assert replace(paper, seed=3).seed == 3


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"momentum": 1.0}, {"recipe": "other"}, {"typo": 1}])
def test_wrong_settings_are_refused(wrong: dict[str, float | str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HybridSettings(**wrong)  # pyright: ignore
