"""Modules turned into what a plan asks for: what changes, and what must not."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldrepair_monitoring.resnet8 import ResNet8
from fieldrepair_plugin.training_repair.layout import layout_of
from fieldrepair_plugin.training_repair.plan import TrainingPlan, plan_from_params
from fieldrepair_plugin.training_repair.transforms import Network, Scaling, gives_probabilities
from fieldrepair_service.errors import InputError

PLAN = TrainingPlan()


class Calls(nn.Module):
    """Activations that are calls, one of them a method; a softmax as head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.head(F.relu(self.second(self.first(x).tanh()))), dim=1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def sequential(*middle: nn.Module) -> Network:
    return Network(nn.Sequential(nn.Linear(4, 6), *middle, nn.Linear(6, 3)), torch.randn(2, 4))


def test_an_activation_is_replaced_and_all_weights_are_kept() -> None:
    network = sequential(nn.Sigmoid())
    changed = network.by(PLAN.but(activation="elu"), seed=0)
    assert isinstance(changed.get_submodule("1"), nn.ELU)
    assert isinstance(network.module.get_submodule("1"), nn.Sigmoid), "the given one is left alone"
    before, after = network.module.state_dict(), changed.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_keep_changes_nothing() -> None:
    network = sequential(nn.Tanh())
    assert torch.equal(network.by(PLAN, seed=0).eval()(network.example), network.module.eval()(network.example))


def test_calls_are_found_by_tracing_and_the_head_is_no_activation() -> None:
    network = Network(Calls(), torch.randn(2, 4))
    assert len(network.layout.activations) == 2
    changed = network.by(PLAN.but(activation="leaky_relu", norm="batch"), seed=0).eval()
    assert sum(isinstance(part, nn.LeakyReLU) for part in changed.modules()) == 2
    assert sum(isinstance(part, nn.BatchNorm1d) for part in changed.modules()) == 2
    assert gives_probabilities(changed(torch.randn(5, 4)))
    again: nn.Module = pickle.loads(pickle.dumps(changed))  # noqa: S301
    assert torch.equal(again(network.example), changed(network.example)), "MLflow stores models as pickles"
    assert torch.equal(changed.get_submodule("head").weight, network.module.get_submodule("head").weight)  # type: ignore[arg-type]


def test_a_missing_activation_is_put_where_layers_touch() -> None:
    network = sequential()
    assert network.layout.bare == ("0",)
    assert not network.layout.any_activation
    changed = network.by(PLAN.but(activation="relu"), seed=0)
    assert [type(part) for part in changed.get_submodule("0")] == [nn.Linear, nn.ReLU]  # type: ignore[union-attr]
    assert isinstance(changed.get_submodule("1"), nn.Linear), "the embedding layer is still found by its name"


def test_pooling_and_flattening_are_no_activation() -> None:
    bare = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3))
    assert layout_of(bare, torch.randn(2, 1, 8, 8)).bare == ("0",)


def test_residual_blocks_have_activations_and_nothing_bare() -> None:
    network = Network(ResNet8(1, 3, 4).eval(), torch.randn(2, 1, 12, 12))
    assert network.layout.any_activation
    assert network.layout.bare == ()
    assert len(network.layout.activations) == 7
    assert len(network.layout.without_norm) == 3, "only those after a sum have no norm before them"


def test_an_added_norm_fits_rows_and_images() -> None:
    rows = sequential(nn.ReLU()).by(PLAN.but(norm="batch"), seed=0)
    assert [type(part) for part in rows.get_submodule("1")] == [nn.BatchNorm1d, nn.ReLU]  # type: ignore[union-attr]
    images = Network(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)), torch.randn(2, 1, 8, 8)
    )
    assert isinstance(images.by(PLAN.but(norm="batch"), seed=0).get_submodule("1.0"), nn.BatchNorm2d)


def test_initialisation_draws_by_its_rule_and_its_seed() -> None:
    network = Network(nn.Sequential(nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 3)), torch.randn(2, 200))
    one, same, other = (network.by(PLAN.but(initialisation="he"), seed=seed) for seed in (1, 1, 2))
    weights = [each.get_submodule("0").weight for each in (one, same, other)]
    assert torch.equal(weights[0], weights[1])  # type: ignore[arg-type]
    assert not torch.equal(weights[0], weights[2])  # type: ignore[arg-type]
    # He: uniform within sqrt(6 / fan_in), whose deviation is sqrt(2 / fan_in).
    assert float(weights[0].detach().std()) == pytest.approx((2 / 200) ** 0.5, rel=0.05)  # type: ignore[union-attr, operator]
    orthogonal = network.by(PLAN.but(initialisation="orthogonal"), seed=1).get_submodule("0").weight
    assert torch.allclose(orthogonal @ orthogonal.T, torch.eye(100), atol=1e-5)  # type: ignore[operator, union-attr]


def test_dropout_is_set_everywhere() -> None:
    changed = sequential(nn.ReLU(), nn.Dropout(0.9)).by(PLAN.but(dropout=0.1), seed=0)
    assert [part.p for part in changed.modules() if isinstance(part, nn.Dropout)] == [0.1]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (50, 4)),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)), (50, 1, 8, 8)),
    ],
)
def test_a_folded_scaling_answers_raw_inputs_as_scaled_ones_were_answered(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    raw = torch.rand(shape) * 300 + 7
    scaling = Scaling.of(raw)
    wanted = module.eval()(scaling.apply(raw))
    scaling.fold_into(module, raw[:2])
    assert torch.allclose(module(raw), wanted, atol=1e-4)


def test_a_scaling_that_nothing_can_take_over_is_refused() -> None:
    normed = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(InputError, match="neither linear nor a convolution"):
        Scaling.of(torch.rand(9, 4) * 100).fold_into(normed, torch.rand(2, 4))
    assert not Network(normed, torch.rand(2, 4)).scalable


def test_params_of_a_run_are_read_by_the_names_people_give_them() -> None:
    plan, found, refused = plan_from_params(
        {"lr": "0.05", "optimizer_name": "SGD", "criterion": "CrossEntropyLoss", "batch_size": "many", "depth": "3"}
    )
    assert (plan.learning_rate, plan.optimiser, plan.loss, plan.batch_size) == (0.05, "sgd", "cross_entropy", 32)
    assert found == {"learning_rate": "lr", "optimiser": "optimizer_name", "loss": "criterion"}
    assert list(refused) == ["batch_size"]
    assert "'many'" in refused["batch_size"]
