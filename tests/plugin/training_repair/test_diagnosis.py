"""AutoTrainer's rules against numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fieldrepair_plugin.training_repair.diagnosis import Rules, diagnose, gain_beyond_chance, look_due, swings
from fieldrepair_plugin.training_repair.findings import ADVICE, Problem
from fieldrepair_plugin.training_repair.instruments import Reading
from fieldrepair_plugin.training_repair.training_loop import Epoch

WELL = Reading(zero_share=0.1, first_norm=0.5, last_norm=1.0, finite=True, dead_units={"relu": 0.0})
MANY = (100_000, 100_000)
"""Inputs, so many that no gain is chance."""


def training(accuracies: list[float], reading: Reading = WELL, start: float = 0.1, loss: float = 1.0) -> list[Epoch]:
    before = [start, *accuracies]
    return [
        Epoch(at + 1, loss, accuracy, loss, accuracy, before[at], reading) for at, accuracy in enumerate(accuracies)
    ]


def problem(done: list[Epoch], epochs: int = 10, inputs: tuple[int, int] = MANY) -> Problem | None:
    finding = diagnose(done, epochs, inputs)
    return None if finding is None else finding.problem


def test_a_training_that_learns_is_well() -> None:
    assert problem(training([0.4, 0.6, 0.7, 0.75, 0.78])) is None


@pytest.mark.parametrize(
    ("reading", "named"),
    [
        (replace(WELL, zero_share=0.7), Problem.DYING_RELU),
        (replace(WELL, zero_share=0.69), None),
        (replace(WELL, zero_share=1.0, dead_units={}), None),  # no unit there that could die
        (replace(WELL, first_norm=71.0), Problem.EXPLODING),
        (replace(WELL, first_norm=70.0), None),
        (replace(WELL, first_norm=9e-5, last_norm=0.1), Problem.VANISHING),
        (replace(WELL, first_norm=9e-5, last_norm=0.09), None),  # the share is 0.001
        (replace(WELL, first_norm=1.1e-4, last_norm=1.0), None),  # the first layer still hears something
        (replace(WELL, first_norm=0.0, last_norm=0.0, dead_units={}), Problem.VANISHING),
        (replace(WELL, finite=False), Problem.EXPLODING),
    ],
)
def test_gradients_tell_what_makes_a_poor_training_poor(reading: Reading, named: Problem | None) -> None:
    poor = training([0.2, 0.3, 0.4], reading)
    assert problem(poor) == named


def test_the_same_gradients_mean_nothing_where_the_model_is_good() -> None:
    good = training([0.5, 0.6, 0.7], replace(WELL, zero_share=0.9, first_norm=80.0))
    assert problem(good) is None


def test_accuracy_counts_from_30_percent_of_the_epochs_on() -> None:
    dead = training([0.1, 0.1, 0.1], replace(WELL, zero_share=0.9))
    assert problem(dead, epochs=10) == Problem.DYING_RELU
    assert problem(dead, epochs=11) is None  # 3 of 11 epochs are 27 %


@pytest.mark.parametrize(("loss", "named"), [(math.nan, True), (math.inf, True), (1e5, True), (9.9e4, False)])
def test_a_loss_that_is_no_number_or_huge_has_exploded(loss: float, *, named: bool) -> None:
    assert (problem(training([0.5, 0.6, 0.7], loss=loss)) is Problem.EXPLODING) is named


def test_slow_is_a_best_gain_of_less_than_a_point() -> None:
    assert problem(training([0.105, 0.11, 0.115])) == Problem.SLOW
    assert problem(training([0.105, 0.116, 0.12])) is None
    # A model that was right from its first epoch on gained in that epoch.
    assert problem(training([0.98, 0.981, 0.982])) is None


def test_a_gain_that_chance_explains_is_none() -> None:
    # 100 inputs at 10 %: the standard error of a difference is sqrt(2 * 0.12 * 0.88 / 100) = 0.046.
    assert gain_beyond_chance(0.10, 0.14, 100, 2.0) == 0.0
    assert gain_beyond_chance(0.10, 0.25, 100, 2.0) == pytest.approx(0.15)
    assert gain_beyond_chance(0.14, 0.10, 100, 2.0) == pytest.approx(-0.04)
    wobbling = training([0.10, 0.13, 0.09, 0.12])
    assert problem(wobbling, inputs=(100, 100)) == Problem.SLOW
    assert problem(wobbling, inputs=MANY) == Problem.OSCILLATING


def test_swings_are_falls_from_a_peak_to_the_next_trough() -> None:
    assert swings([0.1, 0.5, 0.6, 0.9], 0.03, 100_000, 2.0) == 0
    assert swings([0.60, 0.57, 0.60], 0.03, 100_000, 2.0) == 1
    assert swings([0.60, 0.58, 0.56, 0.60], 0.03, 100_000, 2.0) == 1  # one fall over two epochs
    assert swings([0.60, 0.58, 0.60, 0.58], 0.03, 100_000, 2.0) == 0
    assert swings([0.9, 0.5, 0.9, 0.5], 0.03, 100_000, 2.0) == 2  # the last one may still go on
    assert swings([0.5], 0.03, 100_000, 2.0) == 0
    assert swings([0.5, 0.5, 0.5], 0.03, 100_000, 2.0) == 0


def test_swings_of_a_fifth_of_the_epochs_are_an_oscillation() -> None:
    once = [0.5, 0.7, 0.65, 0.8, 0.85]
    assert problem(training(once), epochs=5) == Problem.OSCILLATING  # 1 of 5
    assert problem(training([*once, 0.86]), epochs=6) is None  # 1 of 6


def test_precedence_is_relu_exploding_vanishing_slow_oscillating() -> None:
    flat = [0.1, 0.1, 0.1]
    everything = replace(WELL, zero_share=0.9, finite=False, first_norm=1e-5, last_norm=1.0)
    assert problem(training(flat, everything)) == Problem.DYING_RELU
    assert problem(training(flat, replace(everything, zero_share=0.1))) == Problem.EXPLODING
    assert problem(training(flat, replace(everything, zero_share=0.1, finite=True))) == Problem.VANISHING
    assert problem(training(flat)) == Problem.SLOW


def test_looks_are_every_three_epochs_and_at_the_end() -> None:
    assert [epoch for epoch in range(1, 11) if look_due(epoch, 10, Rules())] == [3, 6, 9, 10]


def test_every_problem_comes_with_advice_and_its_evidence() -> None:
    assert set(ADVICE) == set(Problem)
    finding = diagnose(training([0.1, 0.1, 0.1], replace(WELL, zero_share=0.9, dead_units={"a": 0.8})), 10, MANY)
    assert finding is not None
    assert finding.evidence == (
        "90% of all gradients are zero, up to 80% of a layer's units silent; best accuracy 10.0%, "
        "best gain of one epoch 0.0%"
    )
    assert finding.epoch == 3
