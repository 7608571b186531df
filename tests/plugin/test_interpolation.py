from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fieldrepair_plugin.interpolation import KeepReference, interpolate
from fieldrepair_service.errors import InputError


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))


def moved(network: nn.Module, seed: int) -> nn.Module:
    """A copy after one step of training, so that parameters, running statistics and batch counts differ."""
    torch.manual_seed(seed)
    copied = copy.deepcopy(network).train()
    optimiser = torch.optim.SGD(copied.parameters(), lr=0.5)
    copied(torch.randn(16, 1, 8, 8)).square().mean().backward()
    optimiser.step()
    return copied


def test_every_float_lies_on_the_straight_line_and_counts_are_the_repaired_ones() -> None:
    champion = small_network()
    repaired = moved(champion, seed=1)
    halfway = interpolate(champion, repaired, 0.25).state_dict()
    for name, old in champion.state_dict().items():
        new = repaired.state_dict()[name]
        expected = 0.75 * old + 0.25 * new if old.is_floating_point() else new
        torch.testing.assert_close(halfway[name], expected)


def test_the_ends_are_the_two_networks() -> None:
    champion = small_network()
    repaired = moved(champion, seed=2)
    for weight, end in ((0.0, champion), (KeepReference.OFF.weight, repaired)):
        result = interpolate(champion, repaired, weight)
        for (name, parameter), expected in zip(result.named_parameters(), end.parameters(), strict=True):
            torch.testing.assert_close(parameter, expected, rtol=0, atol=0, msg=name)


def test_neither_network_is_touched_and_the_result_is_in_evaluation_mode() -> None:
    champion = small_network()
    repaired = moved(champion, seed=3)
    before = [copy.deepcopy(network.state_dict()) for network in (champion, repaired)]
    assert not interpolate(champion, repaired, 0.5).training
    assert repaired.training
    for network, state in zip((champion, repaired), before, strict=True):
        for name, value in network.state_dict().items():
            assert torch.equal(value, state[name])


def test_the_old_world_weighs_more_the_stricter_the_setting() -> None:
    weights = [setting.weight for setting in (KeepReference.STRICT, KeepReference.BALANCED, KeepReference.OFF)]
    assert weights == sorted(weights)
    assert weights[-1] == 1.0


def test_other_architectures_and_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"these entries differ: 3\.bias, 3\.weight"):
        interpolate(small_network(), nn.Sequential(*list(small_network())[:3]), 0.5)
    with pytest.raises(InputError, match=r"0\.\.1, got 1\.5"):
        interpolate(small_network(), small_network(), 1.5)
