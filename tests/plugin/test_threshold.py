"""Density and tau, against scikit-learn and by construction."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.neighbors import NearestNeighbors

from fieldrepair_plugin.threshold import neighbour_distance, threshold, unit_rows
from fieldrepair_service.errors import InputError

Array = npt.NDArray[Any]


def rows(count: int, seed: int, dimensions: int = 10) -> Array:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


@pytest.mark.parametrize("neighbours", [1, 20, 100])
def test_density_equals_scikit_learns(neighbours: int) -> None:
    field, training = rows(50, 0), rows(300, 1)
    distances, _ = NearestNeighbors(n_neighbors=neighbours, metric="cosine").fit(training).kneighbors(field)
    np.testing.assert_allclose(neighbour_distance(field, training, neighbours), distances.mean(axis=1), atol=1e-5)


def test_fewer_training_inputs_than_neighbours() -> None:
    field, training = rows(5, 0), rows(7, 1)
    np.testing.assert_allclose(
        neighbour_distance(field, training, 100), neighbour_distance(field, training, 7), atol=1e-6
    )


def test_rows_of_zeros_are_at_distance_one() -> None:
    assert neighbour_distance(np.zeros((1, 4), np.float32), rows(9, 1, 4), 3) == pytest.approx([1.0])
    assert neighbour_distance(rows(2, 0, 4), np.zeros((3, 4), np.float32), 3) == pytest.approx([1.0, 1.0])
    assert np.array_equal(unit_rows(np.zeros((2, 3), np.float32)), np.zeros((2, 3)))


def test_tau_is_the_mean_over_inputs_of_average_density() -> None:
    # Mean density is 2; the two nearest to it are the inputs 1 and 3, with unsmoothness 0.2 and 0.6.
    density = np.array([0.0, 1.9, 4.0, 2.1])
    assert threshold(np.array([0.9, 0.2, 0.9, 0.6]), density, average_inputs=2) == pytest.approx(0.4)


def test_tau_of_a_small_pool_averages_all() -> None:
    assert threshold(np.array([0.1, 0.5]), np.array([1.0, 2.0]), average_inputs=1000) == pytest.approx(0.3)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="got 3 for 2"):
        threshold(np.zeros(2), np.zeros(3), 10)
