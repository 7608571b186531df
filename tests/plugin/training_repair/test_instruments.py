"""What the instruments read, against gradients worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fieldrepair_plugin.training_repair.instruments import Instruments, Reading


def test_norms_zeros_and_silent_units_of_a_small_network() -> None:
    first, last = nn.Linear(1, 2), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[3.0], [-1.0]]))
        first.bias.zero_()
        last.weight.copy_(torch.tensor([[2.0, 5.0]]))
    network = nn.Sequential(first, nn.ReLU(), last)
    instruments = Instruments(network)
    with instruments.listening():
        network(torch.tensor([[1.0], [2.0]])).sum().backward()
    # Units say 3, 6 and 0, 0. d/d last = (9, 0); d/d first = (2 * (1 + 2), 0); d/d bias = (2 * 2, 0).
    reading = instruments.read()
    assert reading.last_norm == pytest.approx(9.0)
    assert reading.first_norm == pytest.approx(6.0)
    assert reading.ratio == pytest.approx(6 / 9)
    assert reading.zero_share == pytest.approx(3 / 6)
    assert reading.dead_units == {"1": 0.5}
    assert reading.finite


def test_a_channel_is_silent_only_if_it_is_so_everywhere() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    images = torch.full((3, 2, 2, 2), -1.0)
    images[2, 1, 0, 0] = 1.0
    instruments = Instruments(network)
    with instruments.listening():
        network(images).sum().backward()
    assert instruments.read().dead_units == {"0": 0.5}


def test_weights_that_are_no_numbers_are_seen() -> None:
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight[0, 0] = math.nan
    instruments = Instruments(network)
    with instruments.listening():
        network(torch.ones(1, 2)).sum().backward()
    assert not instruments.read().finite


def test_nothing_listens_outside_the_block() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    instruments = Instruments(network)
    with instruments.listening():
        pass
    network(torch.ones(1, 2)).sum().backward()
    assert instruments.read().dead_units == {}


def test_the_ratio_where_norms_are_zero() -> None:
    none = Reading(1.0, 0.0, 0.0, finite=True, dead_units={})
    assert none.ratio == 0.0
    assert Reading(0.0, 1.0, 0.0, finite=True, dead_units={}).ratio == math.inf
